"""What a choice or a setting of a run is: a record beside its field, from which checks, options, files, rows follow.

Stands in the metadata of a dataclass's field, or in the annotation of a record's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

SHAPE, METHOD, NUMERICS, LEARNING, RUN, AIM, MORE = (
    "Batch and length", "Method", "Numerics", "Learning", "Run", "Aim", "More",
)  # fmt: skip
GROUPS = (SHAPE, METHOD, NUMERICS, LEARNING, RUN, AIM, MORE)
"""The wizard's groups of rows, in their order."""

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000)


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """A field, for everyone who reads, checks or shows it. Bounds are closed unless they are named open."""

    help: str
    """One sentence: what it is. The command line's, and the wizard's where it has no longer one."""
    allowed: tuple[str, ...] = ()
    """The words that it takes; for names those that stand for sets of them."""
    low: float | None = None
    high: float | None = None
    open: Literal["", "low", "high"] = ""
    """The bound that itself is out of range."""
    none: str = ""
    """How an absent value is written and typed (`all`, `auto`); empty where there always is one."""
    label: str = ""
    """Its row in the wizard; empty where it has none."""
    group: str = MORE
    more: str = ""
    """What the wizard says in place of `help`: what it does, and to what."""
    steps: tuple[float, ...] = ()
    """Values that arrows step through; any value in range may be typed."""
    hidden: str = ""
    """Why it has no row in the wizard."""

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range."""
        above = self.low is None or (value > self.low if self.open == "low" else value >= self.low)
        return above and (self.high is None or (value < self.high if self.open == "high" else value <= self.high))

    @property
    def range(self) -> str:
        """The range as an error says it: `lie in [0, 1)`, `be a number above 0`."""
        low, high = self.low or 0, self.high
        if high is not None:
            return f"lie in {'(' if self.open == 'low' else '['}{low:g}, {high:g}{')' if self.open == 'high' else ']'}"
        return f"be a number {'above' if self.open == 'low' else 'of at least'} {low:g}"


def choice(default: object, help: str, **rest: Any) -> Any:
    """A field of a dataclass with its default and what it is."""
    return field(default=default, metadata={"about": About(help=help, **rest)})
