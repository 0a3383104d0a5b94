"""`python -m benchmarks.accuracy.measured ROWS.json`: what real devices counted beside what `plan check` says.

A row has `id`, `device`, `args` (of `plan check`) and `bytes` (allocated, reserved, device) as measured. For each of
the three: mean and median size of the error, the worst, n; of the interval how often it holds the device peak and how
wide it is. `--by device` tells cards apart, `--rows` shows each row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.metrics import percent, table
from planner import memory
from planner.cli.asked import Target
from planner.cli.resolve import resolve
from planner.contract.records import MemoryReport
from planner.contract.settings import BY_NAME
from planner.contract.units import MIB
from planner.decide.question import Question

CASES = Path(__file__).parents[2] / "tests" / "cases" / "measured_t4.json"
KINDS = ("allocated", "reserved", "device")


@dataclass(frozen=True, slots=True)
class Row:
    """One run: what was measured and what is predicted, in bytes."""

    id: str
    device: str
    measured: dict[str, int]
    report: MemoryReport

    def error(self, kind: str) -> float:
        """Signed error of one of `KINDS`."""
        found: int = getattr(self.report, f"{kind}_peak_bytes")
        return found / self.measured[kind] - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds the measured device peak."""
        low, high = self.report.interval_bytes
        return low <= self.measured["device"] <= high

    @property
    def width(self) -> float:
        """The interval's width over the measured device peak."""
        low, high = self.report.interval_bytes
        return (high - low) / self.measured["device"]


def values_of(args: Sequence[str]) -> dict[str, Any]:
    """Options of `plan check` as names and values; a pair of switches is True or False."""
    found: dict[str, Any] = {}
    rest = list(args)
    while rest:
        option = rest.pop(0).removeprefix("--")
        if not rest or rest[0].startswith("--"):
            found[option.removeprefix("no-").replace("-", "_")] = not option.startswith("no-")
        else:
            found[option.replace("-", "_")] = rest.pop(0)
    return found


def question_of(args: Sequence[str]) -> Question:
    """What these options of `plan check` ask."""
    values = values_of(args)
    gpu, model = values.pop("gpu"), values.pop("model")
    unknown = set(values) - set(BY_NAME)
    if unknown:
        raise ValueError(f"options that are no settings: {sorted(unknown)}")
    return resolve(Target(gpu=gpu, model=model, settings=values))


def predicted(args: Sequence[str]) -> MemoryReport:
    """What `plan check` says of these options."""
    asked = question_of(args)
    return memory.predict(asked.model, asked.hardware, asked.choices, budget_bytes=asked.budget_bytes)


def raw(path: Path = CASES) -> list[dict[str, Any]]:
    """The rows as they stand in the file."""
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def read(path: Path = CASES) -> list[Row]:
    """The rows of a file with what is predicted for them."""
    return [Row(row["id"], row["device"], dict(row["bytes"]), predicted(row["args"])) for row in raw(path)]


def summary(rows: Sequence[Row]) -> list[str]:
    """Errors of the three figures, and the interval."""
    lines = [(kind, *_sizes(kind_errors(rows, kind))) for kind in KINDS if all(kind in row.measured for row in rows)]
    held = sum(row.inside for row in rows)
    return [
        *table(("", "n", "mean \\|e\\|", "median \\|e\\|", "mean", "worst"), lines),
        "",
        f"The interval holds {held} of {len(rows)} device peaks ({100 * held / len(rows):.0f} %); it is "
        f"{100 * statistics.fmean(row.width for row in rows):.1f} % of the measured peak wide on average.",
    ]


def kind_errors(rows: Iterable[Row], kind: str) -> list[float]:
    """Signed errors of one figure."""
    return [row.error(kind) for row in rows]


def _sizes(errors: list[float]) -> tuple[str, ...]:
    sizes = [abs(error) for error in errors]
    return (
        str(len(errors)),
        f"{100 * statistics.fmean(sizes):.2f} %",
        f"{100 * statistics.median(sizes):.2f} %",
        percent(statistics.fmean(errors), 2),
        percent(max(errors, key=abs), 2),
    )


def section() -> list[str]:
    """The part of docs/accuracy.md: cards by cards, quantised weights and others apart."""
    rows = read()
    lines = [
        "",
        "## (c) Measured cards: allocated, reserved, device",
        "",
        "Training runs that others measured on cards of their own, with the allocator's counters and the card's tool. "
        "`python -m benchmarks.accuracy.measured --rows` shows each. Tesla T4: fitcheck-llm 0.3.1 (PyPI, MIT), torch "
        "2.10 to 2.14, transformers and PEFT, checkpointing, fp16, eager and sdpa attention, 512 to 4096 tokens.",
    ]
    for device in sorted({row.device for row in rows}):
        own = [row for row in rows if row.device == device]
        for name, members in (
            (f"{device}", own),
            (f"{device}, 4-bit weights", [row for row in own if row.id.endswith("nf4")]),
            (f"{device}, 16-bit weights", [row for row in own if not row.id.endswith("nf4")]),
        ):
            lines += ["", f"**{name}**", "", *summary(members)]
    return lines


def each(rows: Iterable[Row]) -> list[str]:
    """One line a row: signed errors in percent and in MiB."""
    lines = []
    for row in rows:
        errors = "  ".join(
            f"{kind} {percent(row.error(kind), 2):>9} {row.error(kind) * row.measured[kind] / MIB:+9.2f} MiB"
            for kind in KINDS
            if kind in row.measured
        )
        lines.append(f"{errors}  {'inside' if row.inside else 'OUTSIDE'}  {row.id}")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Prints the score of a file of rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.measured", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=[CASES])
    parser.add_argument("--by", choices=("device", "method"), help="one table for each card or kind of weights")
    parser.add_argument("--rows", action="store_true", help="every row by itself, too")
    arguments = parser.parse_args(argv)
    rows = [row for path in arguments.files for row in read(path)]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        name = {"device": row.device, "method": row.id.rsplit("-", 1)[-1]}.get(arguments.by or "", "")
        groups.setdefault(name, []).append(row)
    for name, members in groups.items():
        print("\n".join(([f"{name}:"] if name else []) + summary(members) + [""]))
    if arguments.rows:
        print("\n".join(each(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
