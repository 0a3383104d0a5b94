"""Signed relative errors of predictions: predicted / true − 1, negative where too little was predicted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEADER = ("", "n", "median", "mean", "median \\|e\\|", "mean \\|e\\|", "p95 \\|e\\|", "worst", "under", "by > 0.1 %")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Summary of signed errors, as fractions."""

    count: int
    median: float
    mean: float
    median_size: float
    mean_size: float
    p95_size: float
    worst: float
    """The signed error of largest size."""
    under: float
    """Share of errors below zero."""
    clearly_under: float
    """Share of errors below −0.1 %."""


def distribution(errors: Iterable[float]) -> Distribution | None:
    """None where there are no errors to summarise."""
    found = sorted(errors)
    if not found:
        return None
    sizes = sorted(abs(error) for error in found)
    return Distribution(
        count=len(found),
        median=statistics.median(found),
        mean=statistics.fmean(found),
        median_size=statistics.median(sizes),
        mean_size=statistics.fmean(sizes),
        p95_size=sizes[math.ceil(0.95 * len(sizes)) - 1],
        worst=max(found, key=abs),
        under=sum(error < 0 for error in found) / len(found),
        clearly_under=sum(error < -0.001 for error in found) / len(found),
    )


def percent(value: float, digits: int = 3) -> str:
    """`+0.012 %`."""
    return f"{100 * value:+.{digits}f} %"


def row(name: str, errors: Sequence[float]) -> tuple[str, ...] | None:
    """One row under `HEADER`."""
    d = distribution(errors)
    if d is None:
        return None
    digits = 3 if d.median_size < 0.05 else 1
    plain = [f"{100 * value:.{digits}f} %" for value in (d.median_size, d.mean_size, d.p95_size)]
    return (
        name,
        str(d.count),
        percent(d.median, digits),
        percent(d.mean, digits),
        *plain,
        percent(d.worst, digits),
        f"{100 * d.under:.0f} %",
        f"{100 * d.clearly_under:.1f} %",
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str] | None]) -> list[str]:
    """A markdown table; rows that are None are left out."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---" for _ in header) + "|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows if cells is not None]
    return lines
