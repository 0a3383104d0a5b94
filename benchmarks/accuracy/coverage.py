"""How often the device peak's interval holds what was measured, where reserved or device bytes were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from benchmarks.accuracy import metrics, published
from benchmarks.accuracy.observed import Run
from planner import memory
from planner.contract.errors import TuneplanError

HEADER = ("measured", "n", "inside", "below", "above", "farthest outside")


def section(cases: Iterable[published.Case], runs: Iterable[Run]) -> list[str]:
    """The interval before any calibration, against published figures and the observations kept here.

    A published figure of reserved bytes is compared after the device's context is added to it.
    """
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for case in cases:
        if case.kind == "allocated":
            continue
        try:
            low, high = memory.predict(case.spec, case.device, case.choices).interval_bytes
        except TuneplanError:
            continue
        context = case.device.context_bytes if case.kind == "reserved" else 0
        found[f"published, {case.kind}"].append((low, case.measured + context, high))
    for run in runs:
        if run.interval is not None:
            found[f"runs on {run.kind}, device"].append(run.interval)
    lines = [
        "",
        "## Coverage of the interval",
        "",
        "`plan` shows an interval for the device peak (reserved bytes and the device's context). Before a calibration "
        "it comes from the allocator's model alone. It is held against every published figure of reserved or device "
        "bytes of (d), other model code and figures with several settings unknown among them, and against observed "
        "processes. A calibration fits it to a machine.",
        "",
    ]
    return lines + metrics.table(HEADER, [_row(name, members) for name, members in found.items()])


def _row(name: str, members: list[tuple[int, int, int]]) -> tuple[str, ...]:
    below = sum(value < low for low, value, _ in members)
    above = sum(value > high for _, value, high in members)
    outside = [value / (low if value < low else high) - 1 for low, value, high in members if not low <= value <= high]
    inside = len(members) - below - above
    farthest = max(outside, key=abs, default=0.0)
    return (
        name,
        str(len(members)),
        f"{100 * inside / len(members):.0f} %",
        str(below),
        str(above),
        metrics.percent(farthest, 1),
    )
