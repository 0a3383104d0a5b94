"""Curves in a terminal's cells: braille dots, two by four a cell, one colour a cell; any number of curves. UI-free.

A later curve is drawn over an earlier one: a cell shows the dots and the colour of the last curve in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character by column and row of its dots."""
BRAILLE = 0x2800
MARK = "●"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line of points, or marks where they lie."""

    points: tuple[Point, ...]
    color: str
    name: str = ""
    marks: bool = False
    """Each point is a mark, and no line joins them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What of the curves is seen."""

    first: float
    last: float
    low: float
    high: float
    log: bool = False

    def height(self, y: float) -> float:
        """Where a value stands between the lower edge, 0, and the upper, 1."""
        if self.log:
            low, high, y = math.log(self.low), math.log(self.high), math.log(max(y, 5e-324))
        else:
            low, high = self.low, self.high
        return (y - low) / (high - low)

    def value(self, share: float) -> float:
        """The value at a height between 0 and 1."""
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)


def window(
    curves: Sequence[Curve], *, log: bool = False, part: tuple[float, float] = (0.0, 1.0), least: float = 0.0
) -> Seen | None:
    """The window that holds the curves, or the `part` of their steps; None where there is nothing to see.

    A logarithmic one where every value is above zero, else a plain one. `least`: share of the highest value that it
    spans at the least.
    """
    steps = [x for curve in curves for x, _ in curve.points]
    if not steps:
        return None
    start, end = min(steps), max(steps)
    first, last = start + part[0] * (end - start), start + part[1] * (end - start)
    seen = [y for curve in curves for x, y in curve.points if first <= x <= last and math.isfinite(y)]
    if not seen:
        seen = [y for curve in curves for _, y in curve.points if math.isfinite(y)] or [0.0]
    low, high = min(seen), max(seen)
    log = log and low > 0
    if low == high:
        room = 0.05 * abs(low) or 1.0
        low, high = (low / 1.05, high * 1.05) if log else (low - room, high + room)
    elif high - low < least * abs(high):
        middle, half = (low + high) / 2, least * abs(high) / 2
        low, high = middle - half, middle + half
    if last <= first:
        last = first + 1
    return Seen(first=first, last=last, low=low, high=high, log=log)


Cell = tuple[str, str]
"""A character and its colour; a blank has none."""


def draw(curves: Sequence[Curve], seen: Seen, width: int, height: int) -> list[list[Cell]]:
    """Rows of cells, the highest first."""
    dots = [[0] * width for _ in range(height)]
    owners = [[-1] * width for _ in range(height)]
    colors = [[""] * width for _ in range(height)]
    marks = [[False] * width for _ in range(height)]
    for number, curve in enumerate(curves):
        places = [_place(point, seen, width, height) for point in curve.points]
        if curve.marks:
            for place in places:
                if place is not None:
                    x, y = place[0] // 2, place[1] // 4
                    marks[y][x], colors[y][x] = True, curve.color
            continue
        before: tuple[int, int] | None = None
        for place in places:
            if place is not None:
                for x, y in _line(before or place, place):
                    if owners[y // 4][x // 2] != number:
                        owners[y // 4][x // 2], dots[y // 4][x // 2] = number, 0
                    dots[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
                    if not marks[y // 4][x // 2]:
                        colors[y // 4][x // 2] = curve.color
            before = place
    return [
        [
            (MARK if marks[row][column] else chr(BRAILLE + dots[row][column]) if dots[row][column] else " ",
             colors[row][column])
            for column in range(width)
        ]
        for row in range(height)
    ]  # fmt: skip


def _place(point: Point, seen: Seen, width: int, height: int) -> tuple[int, int] | None:
    """Column and row of the dot that shows a point, the highest row first; None outside the window."""
    x, y = point
    if not math.isfinite(y) or not seen.first <= x <= seen.last:
        return None
    column = round((x - seen.first) / (seen.last - seen.first) * (2 * width - 1))
    share = min(1.0, max(0.0, seen.height(y)))
    return column, round((1 - share) * (4 * height - 1))


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    (x, y), (right, bottom) = start, end
    count = max(abs(right - x), abs(bottom - y), 1)
    return [(round(x + (right - x) * n / count), round(y + (bottom - y) * n / count)) for n in range(count + 1)]


def ticks(seen: Seen, height: int) -> list[tuple[int, str]]:
    """Rows and texts of the values at the left: round ones, some four rows apart, the highest first."""
    wanted = max(2, height // 3)
    found: dict[int, str] = {}
    for value in _round_values(seen, wanted):
        share = seen.height(value)
        if -1e-9 <= share <= 1 + 1e-9:
            found.setdefault(round((1 - share) * (height - 1)), short(value))
    if len(found) < 2:
        found = {height - 1: short(seen.low), 0: short(seen.high)}
    return sorted(found.items())


def _round_values(seen: Seen, wanted: int) -> list[float]:
    if seen.log:
        low, high = math.floor(math.log10(seen.low)), math.ceil(math.log10(seen.high))
        found: list[float] = []
        for digits in ((1,), (1, 2, 5), tuple(range(1, 10))):
            every = [digit * 10.0**power for power in range(low, high + 1) for digit in digits]
            found = [value for value in every if seen.low <= value <= seen.high]
            if len(found) >= 2:
                break
        return found
    step = nice((seen.high - seen.low) / wanted)
    while math.floor(seen.high / step) - math.ceil(seen.low / step) < 1:  # two at the least
        step /= 2
    start = math.ceil(seen.low / step - 1e-9)
    return [step * n for n in range(start, start + 4 * wanted) if step * n <= seen.high + 1e-9 * step]


def nice(span: float) -> float:
    """The next of 1, 2, 5 × 10^n at or above a span."""
    if span <= 0 or not math.isfinite(span):
        return 1.0
    power = 10.0 ** math.floor(math.log10(span))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= span * (1 - 1e-9))


def short(value: float) -> str:
    """A value above zero in seven characters at most."""
    size = abs(value)
    if value == 0 or 0.001 <= size < 10_000:
        return f"{value:.4g}"
    if 10_000 <= size < 1e9:
        unit, name = (1e6, "M") if size >= 1e6 else (1e3, "k")
        return f"{value / unit:.3g}{name}"
    return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")


def step_ticks(seen: Seen, width: int) -> list[tuple[int, str]]:
    """Columns and texts of the steps below."""
    step = max(1.0, nice((seen.last - seen.first) / max(1, width // 14)))
    start = math.ceil(seen.first / step)
    found, free = [], 0
    for n in range(start, start + 4 * width):
        x = step * n
        if x > seen.last:
            break
        text = f"{x:,.0f}"
        column = round((x - seen.first) / (seen.last - seen.first) * (width - 1))
        left = max(0, min(width - len(text), column - len(text) // 2))
        if left >= free:
            found.append((left, text))
            free = left + len(text) + 1
    return found


def at(points: Sequence[Point], step: float) -> Point | None:
    """The point of a curve that lies nearest to a step."""
    return min(points, key=lambda point: abs(point[0] - step), default=None)
