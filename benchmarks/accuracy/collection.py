"""The published figures of our own collection: errors by what was measured, by card, and verdicts of runs that failed.

`python -m benchmarks.accuracy.collection` prints the part of docs/accuracy.md, `--rows` each row by itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.accuracy import metrics, published
from planner.contract.errors import TuneplanError
from planner.contract.units import GIB
from planner.decide import check
from planner.decide.question import Question

KINDS = ("allocated", "reserved", "device")
TOLD_FROM = 0.03
"""Errors beyond this size are told with their cause."""
HEADER = ("", "n", "mean \\|e\\|", "median \\|e\\|", "mean", "worst", "interval holds")
GROUPS = (
    "transformers, every setting known",
    "another release or kernel in part, one card",
    "several cards (FSDP 1, DDP)",
    "other model code (LitGPT)",
    "a setting is not stated",
)


@dataclass(frozen=True, slots=True)
class Scored:
    """One row and what is predicted for it."""

    case: published.Case
    predicted: int
    inside: bool | None
    """Whether the interval of the device peak holds it; None where allocated bytes were measured."""

    @property
    def error(self) -> float:
        """Signed, as a fraction."""
        return self.predicted / self.case.measured - 1

    @property
    def group(self) -> str:
        """One of `GROUPS`."""
        if self.case.tier == 1:
            return GROUPS[0]
        if self.case.choices.num_gpus > 1 and self.case.tier == 2:
            return GROUPS[2]
        if self.case.tier == 3:
            return GROUPS[4]
        return GROUPS[3] if self.case.source == "litgpt" else GROUPS[1]


def score(case: published.Case) -> Scored:
    """What `plan check` says of a row. Raises TuneplanError where it refuses."""
    question = Question(model=case.spec, hardware=case.device, choices=case.choices)
    report = check.check(question, with_remedies=False).memory
    low, high = report.interval_bytes
    on_device = case.measured + (case.device.context_bytes if case.kind == "reserved" else 0)
    inside = None if case.kind == "allocated" else low <= on_device <= high
    return Scored(case, int(getattr(report, f"{case.kind}_peak_bytes")), inside)


def _row(name: str, rows: Sequence[Scored]) -> tuple[str, ...] | None:
    if not rows:
        return None
    errors = [row.error for row in rows]
    sizes = [abs(error) for error in errors]
    asked = [row.inside for row in rows if row.inside is not None]
    return (
        name,
        str(len(rows)),
        f"{100 * statistics.fmean(sizes):.2f} %",
        f"{100 * statistics.median(sizes):.2f} %",
        metrics.percent(statistics.fmean(errors), 2),
        metrics.percent(max(errors, key=abs), 2),
        f"{sum(asked)} of {len(asked)}" if asked else "–",
    )


def section(cases: Iterable[published.Case], verdicts: Iterable[published.Verdict]) -> list[str]:
    """The part of docs/accuracy.md."""
    rows = [score(case) for case in cases]
    cards = sorted({row.case.device.title for row in rows})
    lines = [
        "",
        "### Our own collection",
        "",
        f"{len(rows)} more published figures of {len(cards)} cards, looked up for this page "
        "(benchmarks/accuracy/collected.json has settings, dates and sources): whatever was found with enough "
        "settings, good or bad. Tier 1: transformers code of a known release, every setting known; 2: a part of that "
        "release differs and is not modelled, or other model code; 3: a setting that moves the figure is not stated.",
    ]
    for kind in KINDS:
        members = [row for row in rows if row.case.kind == kind]
        by_group = [_row(name, [row for row in members if row.group == name]) for name in GROUPS]
        lines += ["", f"**{kind}**", "", *metrics.table(HEADER, [*by_group, _row("all of them", members)])]
    lines += ["", "By card:", ""]
    by_card = [
        _row(f"{card}, {kind}", [row for row in rows if (row.case.device.title, row.case.kind) == (card, kind)])
        for card in cards
        for kind in KINDS
    ]
    return [*lines, *metrics.table(HEADER, by_card), *_verdicts(verdicts), *_each(rows)]


def _verdicts(verdicts: Iterable[published.Verdict]) -> list[str]:
    by_source: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for verdict in verdicts:
        by_source[verdict.source].append((verdict.id, said(verdict)))
    table = [
        (source, str(len(found)), *(str(sum(one == word for _, one in found)) for word in _WORDS))
        for source, found in by_source.items()
    ]
    wrong = [name for found in by_source.values() for name, word in found if word in ("tight", "fits")]
    return [
        "",
        "Runs that ended out of memory:",
        "",
        *metrics.table(("source", "n", "said not to fit", "said to be tight", "said to fit", "no answer"), table),
        *(["", f"Said to fit or to be tight: {', '.join(wrong)}."] if wrong else []),
    ]


_WORDS = ("does_not_fit", "tight", "fits", "refused")


def said(verdict: published.Verdict) -> str:
    """The verdict of `plan check`, or `refused`."""
    question = Question(model=verdict.spec, hardware=verdict.device, choices=verdict.choices)
    try:
        return check.check(question, with_remedies=False).verdict
    except TuneplanError:
        return "refused"


def _each(rows: Iterable[Scored]) -> list[str]:
    header = ("case", "tier", "kind", "measured GiB", "plan check", "error", "why it differs")
    table = [
        (
            f"[{row.case.id}]({row.case.url})",
            str(row.case.tier),
            row.case.kind,
            f"{row.case.measured / GIB:.3f}",
            f"{row.predicted / GIB:.3f}",
            metrics.percent(row.error, 3 if row.case.exact else 1),
            row.case.reason if abs(row.error) > TOLD_FROM else "",
        )
        for row in rows
    ]
    return ["", "Each row:", "", *metrics.table(header, table)]


def main(argv: list[str] | None = None) -> int:
    """Prints the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.collection", description=__doc__)
    parser.add_argument("--rows", action="store_true", help="every row by itself, too")
    arguments = parser.parse_args(argv)
    lines = section(published.read(published.COLLECTED), published.read_verdicts())
    print("\n".join(lines if arguments.rows else lines[: lines.index("Each row:")]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
