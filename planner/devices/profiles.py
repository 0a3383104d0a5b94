"""Device profiles from their TOML files: one by name or alias, or all of them.

A file has a header (name, title, kind, aliases, ...) and one table `[facts.<key>]` per number, with value, unit, source
and date. Looking one name up searches the files' text for aliases and parses one file; nothing is read at import.
"""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import hardware_profiles
from planner.contract.errors import InvalidInput
from planner.contract.spec import Fact, HardwareProfile
from planner.devices import apple
from planner.devices.host import host_memory_bytes

FOLDER = Path(hardware_profiles.__file__).parent

UNIT_FACTORS: dict[str, float] = {
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "GB/s": 1e9,
    "TFLOP/s": 1e12,
    "W": 1,
    "1": 1,
}
"""What a fact's value is multiplied by to become bytes, bytes per second, FLOP/s, watts or a plain ratio."""

_KINDS = ("cuda", "rocm", "mps", "cpu")
_DTYPES = ("fp32", "bf16", "fp16")
_FLOPS_KEYS = ("fp32", "tf32", "bf16", "fp16")
_FILLER = re.compile(r"[^a-z0-9]+")
_MAKER = re.compile(r"^(nvidia|amd|apple)?(geforce|tesla|instinct)?")
_STATED_MEMORY = re.compile(r"^(?P<rest>.+?)[\s_-]*(?P<size>\d+)\s*(gb|gib|g)(\s*v?ram)?$", re.IGNORECASE)
_ALIAS_LINE = re.compile(r"^aliases = (\[.*\])$", re.MULTILINE)
_SIZE_LINE = re.compile(r"^memory_gb = (\d+)$", re.MULTILINE)


def normalise(name: str) -> str:
    """The name as it is compared: lower case, letters and digits only, without the maker (`RTX 4090` = `rtx-4090`)."""
    plain = _FILLER.sub("", name.lower())
    return _MAKER.sub("", plain, count=1) or plain


def names() -> tuple[str, ...]:
    """Names of all profiles, sorted; reads no file."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@cache
def load(name_or_alias: str) -> HardwareProfile:
    """The profile of that name or alias; case, spaces, hyphens and underscores don't matter, the memory may be stated.

    Raises InvalidInput for an unknown name and for a broken file.
    """
    stem = name_or_alias if name_or_alias in names() else resolve(name_or_alias)
    if stem is None:
        raise InvalidInput(f"unknown device {name_or_alias!r}")
    return read(FOLDER / f"{stem}.toml")


def all_profiles() -> tuple[HardwareProfile, ...]:
    """Every profile, sorted by name."""
    return tuple(load(name) for name in names())


def resolve(name_or_alias: str) -> str | None:
    """The profile name behind a name or alias, or None."""
    wanted = normalise(name_or_alias)
    if not wanted:
        return None
    stems = {normalise(name): name for name in names()}
    if wanted in stems:
        return stems[wanted]
    index, sizes = _alias_index()
    if wanted in index:
        return index[wanted]
    stated = _STATED_MEMORY.match(name_or_alias.strip())
    if stated:
        rest = normalise(stated["rest"])
        stem = stems.get(rest) or index.get(rest)
        if stem is not None and sizes.get(stem) == int(stated["size"]):
            return stem
    return None


@cache
def known_names() -> dict[str, str]:
    """Every name and alias as written -> profile name; for completion and near names."""
    written: dict[str, str] = {}
    for stem in names():
        written[stem] = stem
        for alias in _aliases((FOLDER / f"{stem}.toml").read_text(encoding="utf-8")):
            written.setdefault(alias, stem)
    return written


@cache
def _alias_index() -> tuple[dict[str, str], dict[str, int]]:
    """Normalised alias -> profile name, and profile name -> memory in GB as sold (used only to check a stated size)."""
    index: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for stem in names():
        text = (FOLDER / f"{stem}.toml").read_text(encoding="utf-8")
        size = _SIZE_LINE.search(text)
        if size:
            sizes[stem] = int(size[1])
        for alias in _aliases(text):
            index.setdefault(normalise(alias), stem)
    return index, sizes


def _aliases(text: str) -> list[str]:
    """The alias list of a profile's text; a regular expression, because parsing eighty files would cost 100 ms."""
    line = _ALIAS_LINE.search(text)
    if line is None:
        return []
    found: list[str] = json.loads(line[1])
    return found


def read(path: Path) -> HardwareProfile:
    """One profile file, checked. Raises InvalidInput naming the file and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"hardware profile {path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"hardware profile {path.name}: not valid TOML: {error}") from error
    return build(document, path.name)


def build(document: dict[str, Any], origin: str) -> HardwareProfile:
    """A profile from the parsed TOML; `origin` names the file in errors."""
    kind = _choice(document, "kind", _KINDS, origin)
    dtypes = tuple(_required(document, "dtypes", list, origin))
    if not dtypes or any(dtype not in _DTYPES for dtype in dtypes):
        raise InvalidInput(
            f"hardware profile {origin}: dtypes must be some of {', '.join(_DTYPES)}, not {list(dtypes)}"
        )
    facts = _facts(_required(document, "facts", dict, origin), origin)
    total_bytes, reserve_bytes = _memory(kind, facts, origin)
    flops = {key: amount(facts[f"flops_{key}"]) for key in _FLOPS_KEYS if f"flops_{key}" in facts}
    for dtype in dtypes:
        if dtype not in flops:
            raise InvalidInput(f"hardware profile {origin}: [facts.flops_{dtype}] is missing for the dtype {dtype}")
    capability = document.get("compute_capability")
    return HardwareProfile(
        name=_required(document, "name", str, origin),
        title=_required(document, "title", str, origin),
        kind=kind,  # type: ignore[arg-type]
        total_bytes=total_bytes,
        context_bytes=round(amount(_fact(facts, "context", origin))),
        reserve_bytes=reserve_bytes,
        bandwidth_bytes_per_second=amount(_fact(facts, "bandwidth", origin)),
        flops_per_second=flops,
        dtypes=dtypes,
        compute_capability=(int(capability[0]), int(capability[1])) if capability else None,
        unified_memory=bool(document.get("unified_memory", False)),
        largest_buffer_bytes=apple.largest_buffer(total_bytes) if kind == "mps" else None,
        cublas_workspace_bytes=round(amount(facts["cublas_workspace"])) if "cublas_workspace" in facts else 0,
        aliases=tuple(document.get("aliases", ())),
        notes=tuple(document.get("notes", ())),
        facts=facts,
    )


def amount(fact: Fact) -> float:
    """A fact's value in the base unit: bytes, bytes per second, FLOP/s or a ratio."""
    return fact.value * UNIT_FACTORS[fact.unit]


def _memory(kind: str, facts: dict[str, Fact], origin: str) -> tuple[int, int]:
    if kind == "mps":
        memory_bytes = round(amount(_fact(facts, "unified_memory", origin)))
        total, basis = apple.working_set(memory_bytes)
        facts["working_set"] = Fact(value=total, unit="B", source=basis, date="2026-11-27")
        return apple.split(memory_bytes, total, round(amount(_fact(facts, "system_reserve", origin))))
    reserve = round(amount(_fact(facts, "reserve", origin)))
    if kind == "cpu" and "total_memory" not in facts:
        return host_memory_bytes(), reserve
    return round(amount(_fact(facts, "total_memory", origin))), reserve


def _facts(tables: dict[str, object], origin: str) -> dict[str, Fact]:
    facts = {}
    for key, table in tables.items():
        where = f"hardware profile {origin}: [facts.{key}]"
        if not isinstance(table, dict) or set(table) != {"value", "unit", "source", "date"}:
            raise InvalidInput(f"{where} must have exactly value, unit, source and date")
        if isinstance(table["value"], bool) or not isinstance(table["value"], int | float) or table["value"] < 0:
            raise InvalidInput(f"{where} value must be a number of at least 0, not {table['value']!r}")
        if table["unit"] not in UNIT_FACTORS:
            raise InvalidInput(f"{where} unit {table['unit']!r} is unknown; use one of {', '.join(UNIT_FACTORS)}")
        if not str(table["source"]).strip() or not str(table["date"]).strip():
            raise InvalidInput(f"{where} needs a source and a date")
        facts[key] = Fact(
            value=float(table["value"]), unit=table["unit"], source=str(table["source"]), date=str(table["date"])
        )
    return facts


def _fact(facts: dict[str, Fact], key: str, origin: str) -> Fact:
    if key not in facts:
        raise InvalidInput(f"hardware profile {origin}: [facts.{key}] is missing")
    return facts[key]


def _required(document: dict[str, object], key: str, kind: type, origin: str) -> Any:
    if not isinstance(document.get(key), kind):
        raise InvalidInput(f"hardware profile {origin}: {key} is missing or not a {kind.__name__}")
    return document[key]


def _choice(document: dict[str, object], key: str, allowed: tuple[str, ...], origin: str) -> str:
    value = _required(document, key, str, origin)
    if value not in allowed:
        raise InvalidInput(f"hardware profile {origin}: {key} {value!r} must be one of {', '.join(allowed)}")
    return str(value)
