"""What an hour of a device costs to rent: a dated snapshot, and the user's own file in its place.

Prices move; each carries provider, product, source and the day on which it was read, and is shown with them. A device
without a price here has none in the answer.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass

from planner.contract.errors import InvalidInput
from planner.contract.sentence import named
from planner.contract.shown import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Money for one device and hour, on demand."""

    amount: float
    currency: str = "USD"
    provider: str
    product: str = ""
    source: str
    date: str
    """Day on which it was read, YYYY-MM-DD."""

    def record(self) -> dict[str, object]:
        """As JSON-ready data."""
        return asdict(self)


def _read_on(provider: str, source: str, rows: dict[str, tuple[float, str]]) -> dict[str, Price]:
    return {
        gpu: Price(amount=amount, provider=provider, product=product, source=source, date="2026-09-25")
        for gpu, (amount, product) in rows.items()
    }


SNAPSHOT: dict[str, Price] = {
    **_read_on(
        "Lambda",
        "https://lambda.ai/pricing",
        {"a10": (1.29, "1x A10"), "a100-40gb": (1.99, "1x A100 SXM 40GB"), "gh200-96gb": (2.29, "1x GH200")},
    ),
    **_read_on(
        "RunPod",
        "https://www.runpod.io/pricing",
        {
            "rtx-4090": (0.74, "Secure Cloud"),
            "l40s": (1.09, "Secure Cloud"),
            "a100-80gb": (1.59, "A100 SXM, Secure Cloud"),
            "h100-pcie": (2.89, "Secure Cloud"),
            "h100-nvl": (3.19, "Secure Cloud"),
            "h100-80gb": (3.49, "H100 SXM, Secure Cloud"),
            "h200": (4.59, "Secure Cloud"),
            "b200": (6.79, "Secure Cloud"),
        },
    ),
}
"""As two providers' pages stood on 2026-09-25 (collected with addresses by github.com/tgarg01/silybench-data,
derived/csv/gpu_prices.csv at 045df3bf)."""

_KEYS = {"amount", "currency", "provider", "product", "source", "date"}


def read_prices(path: str | None) -> dict[str, Price]:
    """The snapshot, or the tables `[name-of-a-device]` of a TOML file; `InvalidInput` names what is wrong in it."""
    if path is None:
        return dict(SNAPSHOT)
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise InvalidInput(named("prices"), f" {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(named("prices"), f" {path}: ", str(error)) from None
    return {_device(path, name): _price(path, name, table) for name, table in content.items()}


def _device(path: str, name: str) -> str:
    from planner.devices import profiles

    stem = profiles.resolve(name)
    if stem is None:
        raise InvalidInput(
            named("prices"), f" {path}: [{shown(name)}] is no device that is known (plan gpus lists all)"
        )
    return stem


def _price(path: str, name: str, table: object) -> Price:
    if not isinstance(table, dict) or not set(table) <= _KEYS:
        raise InvalidInput(named("prices"), f" {path}: [{shown(name)}] may hold {', '.join(sorted(_KEYS))}")
    lacks = [key for key in ("amount", "provider", "source", "date") if key not in table]
    if lacks:
        raise InvalidInput(named("prices"), f" {path}: [{shown(name)}] lacks {', '.join(lacks)}")
    amount = table["amount"]
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < 1e6:
        raise InvalidInput(named("prices"), f" {path}: [{shown(name)}] amount must be money for an hour, above 0")
    texts = {key: str(table[key]) for key in table if key != "amount"}
    return Price(amount=float(amount), **texts)
