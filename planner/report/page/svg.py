"""Pictures as SVG text: stacked areas and lines. Colours are the page's; texts are escaped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from planner.contract.units import format_bytes

WIDTH, HEIGHT = 720, 290
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 22, 44
NEAREST = 44
"""Units between two labels of the horizontal axis, so that they stay apart where the letters are large."""
MOST_POINTS = 600
"""Points of one line; longer ones are thinned, their ends and extremes kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line or layer: a name and its points."""

    name: str
    points: tuple[tuple[float, float], ...]


def _frame(body: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">'
        f"<title>{escape(label)}</title>{body}</svg>"
    )


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _x(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _ticks(low: float, high: float) -> list[float]:
    """Some four round numbers between the ends."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next((factor for factor in (1, 2, 5) if span / (step * factor) <= 5), 10)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def scale(size_bytes: float) -> tuple[str, int]:
    """The unit that a picture up to so many bytes is labelled in, and its bytes."""
    return (" GiB", 2**30) if size_bytes >= 2**30 else (" MiB", 2**20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One area: a name, its colour's number, and bytes at each instant."""

    name: str
    colour: int
    sizes: Sequence[int]


def stacked(instants: Sequence[str], layers: Sequence[Layer], budget: int, label: str) -> str:
    """Bytes by component at each instant, one area on the other; a line where the budget ends."""
    tops = [sum(max(0, layer.sizes[place]) for layer in layers) for place in range(len(instants))]
    highest = max([*tops, 1])
    high = max(highest * 1.08, budget if budget < 1.6 * highest else 0)
    below = [0.0] * len(instants)
    parts = _rungs(0, high, *scale(high))
    for layer in layers:
        above = [base + max(0, value) for base, value in zip(below, layer.sizes, strict=True)]
        up = [f"{_x(i, 0, len(instants) - 1):.1f},{_y(v, 0, high):.1f}" for i, v in enumerate(above)]
        down = [f"{_x(i, 0, len(instants) - 1):.1f},{_y(v, 0, high):.1f}" for i, v in enumerate(below)]
        points = " ".join([*up, *reversed(down)])
        said = f"{escape(layer.name)}: up to {format_bytes(max(layer.sizes))}"
        parts.append(f'<polygon class="c{layer.colour}" points="{points}"><title>{said}</title></polygon>')
        below = above
    if budget <= high:
        parts += _level(f"budget {format_bytes(budget)}", _y(budget, 0, high))
    for place, name in enumerate(instants):
        anchor = "start" if place == 0 else "end" if place == len(instants) - 1 else "middle"
        parts.append(_text(_x(place, 0, len(instants) - 1), HEIGHT - BOTTOM + 18, name, anchor))
    return _frame("".join(parts), label)


def lines(
    series: Sequence[Series],
    label: str,
    *,
    x: str,
    unit: str = "",
    level: tuple[str, float] | None = None,
    marks: Sequence[float] = (),
) -> str:
    """Lines over a common axis.

    `level`: a named horizontal line. `marks`: places of the axis that are labelled, where round numbers won't do; the
    points themselves are then drawn as dots.
    """
    points = [point for item in series for point in item.points if all(map(math.isfinite, point))]
    if not points:
        return ""
    low_x, high_x = min(p[0] for p in points), max(p[0] for p in points)
    values = [p[1] for p in points] + ([level[1]] if level else [])
    low, high = min([0.0, *values]) if unit else min(values), max(values)
    high += (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    parts = _rungs(low, high, unit)
    last = -math.inf
    for tick in marks or _ticks(low_x, high_x):
        place = _x(tick, low_x, high_x)
        if low_x <= tick <= high_x and place - last >= NEAREST:
            parts.append(_text(place, HEIGHT - BOTTOM + 18, f"{tick:g}"))
            last = place
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 6, x, "end"))
    curves: list[list[tuple[float, float]]] = []
    for number, item in enumerate(series):
        kept = thinned([point for point in item.points if all(map(math.isfinite, point))])
        drawn = [(_x(a, low_x, high_x), _y(b, low, high)) for a, b in kept]
        curves.append(drawn)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in drawn)
        parts.append(f'<polyline class="l{number % 10}" points="{path}"><title>{escape(item.name)}</title></polyline>')
        if marks or len(kept) == 1:
            parts += [f'<circle class="d{number % 10}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in drawn]
    if level is not None:
        parts += _level(level[0], _y(level[1], low, high), curves)
    return _frame("".join(parts), label)


def _rungs(low: float, high: float, unit: str, size: float = 1) -> list[str]:
    """Horizontal lines at round numbers of `size`, named; they come first, so that they lie behind what is shown."""
    parts = []
    for tick in _ticks(low / size, high / size):
        y = _y(tick * size, low, high)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}{unit}", "end"))
    return parts


def _level(name: str, y: float, curves: Sequence[Sequence[tuple[float, float]]] = ()) -> list[str]:
    """A dashed line with its name at the first of its ends that no curve passes, above it or below."""
    line = f'<line class="budget" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    wide = 9 * len(name)  # of a letter in a narrow window, where they are largest
    spots = [(x, y + down) for down in (-6, 16) for x in (LEFT + 8, WIDTH - RIGHT - 8)]

    def passed(spot: tuple[float, float]) -> int:
        left = spot[0] if spot[0] < WIDTH / 2 else spot[0] - wide
        return sum(
            left - 4 <= a <= left + wide + 4 and spot[1] - 16 <= b <= spot[1] + 5
            for curve in curves
            for one, other in itertools.pairwise(curve)
            for a, b in _between(one, other)
        )

    x, place = min(spots, key=passed)
    return [line, _text(x, place, name, "start" if x < WIDTH / 2 else "end")]


def _between(one: tuple[float, float], other: tuple[float, float]) -> list[tuple[float, float]]:
    """Points of a line from one to the other, a few apart."""
    steps = 1 + int(math.dist(one, other) // 4)
    (a, b), (c, d) = one, other
    return [(a + (c - a) * step / steps, b + (d - b) * step / steps) for step in range(steps + 1)]


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS`, of each stretch its lowest and highest point."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MOST_POINTS // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return [points[0], *kept[1:-1], points[-1]]


def legend(names: Sequence[str], kind: str, colours: Sequence[int] | None = None) -> str:
    """Names with their colours; `kind` is c for areas, l for lines."""
    numbers = range(len(names)) if colours is None else colours
    items = "".join(
        f'<li><span class="key {kind}{i % 12}"></span>{escape(n)}</li>' for i, n in zip(numbers, names, strict=True)
    )
    return f'<ul class="legend">{items}</ul>'
