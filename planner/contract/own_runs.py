"""What training runs on this machine measured beside what is predicted without them, and how far that is believed.

Runs of one kind (stack and method) speak for their kind; those of other kinds count for a part of it. A group's value
is its median, which no single run moves far, drawn towards no correction where runs are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

OTHER_KINDS = 1.0
"""Runs that the rules' own figure weighs against those of other kinds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnRun:
    """One training run; a measurement that says nothing, or is left out, is None."""

    name: str
    """Its observation's file, without the ending."""
    stack: str
    method: str
    predicted_seconds: float | None = None
    """Of one of its optimizer steps at the mean length it had."""
    pace: float | None = None
    """Logarithm of measured over predicted seconds."""
    moving: float | None = None
    """Logarithm of measured over predicted bytes of what comes and goes within a step."""
    beyond_bytes: float | None = None
    """Measured minus predicted bytes of the device beyond the allocated ones."""
    left_out: str = ""
    """Why a measurement of it doesn't count, in words."""


def pooled(kind: Sequence[float], counted: Any, others: Sequence[float], of_them: Any, prior: float) -> Any:
    """The correction that runs of the kind, and those of other kinds, come to.

    `counted`, `of_them`: how many runs each group counts for; numbers or arrays of one shape, as the result is.
    `prior`: runs that no correction at all weighs.
    """
    base = (median(others) if others else 0.0) * of_them / (of_them + OTHER_KINDS)
    own = median(kind) if kind else 0.0
    return (base * prior + own * counted) / (counted + prior)
