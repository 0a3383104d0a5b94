"""Stacked areas in a terminal's cells: eighths of a cell high, two colours a cell. UI-free, no style.

Memory stands still between events, so a column shows its largest moment: the short peaks are the ones that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.tui.figures import apportion

if TYPE_CHECKING:
    from planner.memory.course import Course

EIGHTHS = " ▁▂▃▄▅▆▇█"
NOTHING = -1
"""The layer of a cell's part that is empty."""


@dataclass(frozen=True, slots=True)
class Glyph:
    """One character: `below` fills it up to `eighths`, `above` is behind."""

    below: int
    above: int
    eighths: int


def stacked(heights: npt.NDArray[np.float64], full: float, rows: int) -> list[list[Glyph]]:
    """Rows of cells, the highest first; `heights` is (layers, columns), `full` the value at the upper edge."""
    layers, columns = heights.shape
    bounds = np.rint(np.cumsum(heights, axis=0) / full * rows * 8).astype(int)
    picture: list[list[Glyph]] = [[] for _ in range(rows)]
    for column in range(columns):
        edges = bounds[:, column].tolist()
        layer = 0
        for row in range(rows):
            low, high = row * 8, row * 8 + 8
            while layer < layers and edges[layer] <= low:
                layer += 1
            picture[rows - 1 - row].append(_cell(edges, layer, low, high))
    return picture


def above(heights: npt.NDArray[np.float64], floor: float) -> npt.NDArray[np.float64]:
    """What of the layers stands above a floor: the axis begins there."""
    edges = np.maximum(np.cumsum(heights, axis=0) - floor, 0)
    found: npt.NDArray[np.float64] = np.diff(edges, axis=0, prepend=0)
    return found


def _cell(edges: list[int], layer: int, low: int, high: int) -> Glyph:
    if layer >= len(edges):
        return Glyph(NOTHING, NOTHING, 0)
    end = min(edges[layer], high)
    if end == high:
        return Glyph(layer, NOTHING, 8)
    above, most = NOTHING, max(0, high - max(edges[-1], low))
    below = end
    for index in range(layer + 1, len(edges)):
        share = min(edges[index], high) - below
        if share > most:
            above, most = index, share
        below = max(below, min(edges[index], high))
        if below == high:
            break
    return Glyph(layer, above, end - low)


@dataclass(frozen=True, slots=True)
class Axis:
    """Which event stands in which column."""

    events: tuple[int, ...]
    """By column its largest event."""
    instants: tuple[tuple[str, int, int], ...]
    """(name, first column, columns) from left to right."""


def axis(course: Course, width: int) -> Axis:
    """The events of a course in `width` columns: an instant is as wide as the square root of its events."""
    starts = [start for _, start in course.instants]
    bounds = list(pairwise([*starts, course.live.shape[1]]))
    least = [len(name) + 1 for name, _ in course.instants]
    if sum(least) > 0.8 * width:
        least = [min(4, width // len(bounds))] * len(bounds)
    more = apportion([(stop - start) ** 0.5 for start, stop in bounds], width - sum(least))
    cells = [one + other for one, other in zip(least, more, strict=True)]
    totals = course.totals
    events: list[int] = []
    instants = []
    for (name, _), (start, stop), count in zip(course.instants, bounds, cells, strict=True):
        instants.append((name, len(events), count))
        for cell in range(count):
            first = start + (stop - start) * cell // count
            last = max(first + 1, start + (stop - start) * (cell + 1) // count)
            events.append(first + int(totals[first:last].argmax()))
    return Axis(tuple(events), tuple(instants))


def column_of(places: Axis, event: int) -> int:
    """The column that shows an event."""
    return min(range(len(places.events)), key=lambda column: abs(places.events[column] - event))


def runs(row: Sequence[Glyph]) -> list[tuple[Glyph, int]]:
    """Equal neighbours together."""
    found: list[tuple[Glyph, int]] = []
    for cell in row:
        if found and found[-1][0] == cell:
            found[-1] = (cell, found[-1][1] + 1)
        else:
            found.append((cell, 1))
    return found
