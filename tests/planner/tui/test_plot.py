"""Curves in cells: where points lie, round ticks, logarithms, zoom and cursor; the charts of runs by keys."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from planner.tui import plot
from planner.tui.curves import MOST_ZOOM, Look, compared, curves_of
from planner.tui.live import RunSnapshot
from planner.tui.plot import Curve, window

LINE = Curve(points=tuple((float(x), float(x)) for x in range(1, 101)), color="red")


def test_a_straight_line_goes_from_corner_to_corner() -> None:
    seen = window([LINE])
    assert seen is not None
    cells = plot.draw([LINE], seen, 20, 10)
    assert cells[9][0][0] != " "
    assert cells[0][19][0] != " "
    assert cells[0][0][0] == cells[9][19][0] == " "
    for row, line in enumerate(cells):
        filled = [column for column, (character, _) in enumerate(line) if character != " "]
        assert filled
        assert all(abs(column / 19 - (9 - row) / 9) < 0.12 for column in filled), "nothing far from the diagonal"


def test_a_later_curve_has_the_cells_in_which_both_lie() -> None:
    over = Curve(points=LINE.points, color="blue")
    marks = Curve(points=((1.0, 1.0),), color="green", marks=True)
    seen = window([LINE])
    assert seen is not None
    cells = plot.draw([LINE, over, marks], seen, 20, 10)
    assert {color for row in cells for _, color in row if color} == {"blue", "green"}
    assert cells[9][0] == (plot.MARK, "green")


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.0, 0.0), (-3.0, 4.0), (1e-9, 1e9), (5.9, 6.1), (0.003, 0.0031)])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("height", [2, 7, 30])
def test_two_ticks_at_the_least_and_each_says_what_stands_there(
    values: tuple[float, float], log: bool, height: int
) -> None:
    seen = window([Curve(points=((0.0, values[0]), (1.0, values[1])), color="")], log=log)
    assert seen is not None
    assert seen.log == (log and min(values) > 0)
    found = plot.ticks(seen, height)
    assert len(found) >= 2
    assert len({row for row, _ in found}) == len(found) <= height
    for row, text in found:
        factor = {"k": 1e3, "M": 1e6}.get(text[-1], 1.0)
        value = float(text.rstrip("kM")) * factor
        assert abs((1 - seen.height(max(value, seen.low))) * (height - 1) - row) <= 0.75
        assert len(text) <= 7


def test_what_is_no_number_or_lies_outside_is_not_drawn() -> None:
    wild = Curve(points=((1.0, math.nan), (2.0, math.inf), (3.0, 1.0), (4.0, 2.0)), color="x")
    seen = window([wild], part=(0.6, 1.0))
    assert seen is not None
    assert (seen.low, seen.high) == (1.0, 2.0)
    assert plot.draw([wild], seen, 10, 4)
    assert window([Curve(points=(), color="")]) is None
    assert window([Curve(points=((1.0, math.nan),), color="")]) is not None


def test_zoom_shows_the_newest_steps_or_those_around_the_cursor() -> None:
    assert Look().part(0, 100) == (0.0, 1.0)
    assert Look(zoom=2).part(0, 100) == (0.75, 1.0)
    assert Look(zoom=2, cursor=50).part(0, 100) == (0.375, 0.625)
    assert Look(zoom=1, cursor=0).part(0, 100) == (0.0, 0.5)
    assert Look(zoom=MOST_ZOOM, cursor=100).part(0, 100) == (1 - 0.5**MOST_ZOOM, 1.0)


def test_steps_below_are_whole_and_do_not_touch() -> None:
    seen = window([LINE])
    assert seen is not None
    found = plot.step_ticks(seen, 40)
    assert len(found) >= 2
    assert all(left + len(text) < after for (left, text), (after, _) in pairwise(found))
    one = window([Curve(points=((7.0, 1.0),), color="")])
    assert one is not None
    assert [text for _, text in plot.step_ticks(one, 40)] == ["7", "8"]


def test_curves_of_a_run_and_of_several() -> None:
    run = RunSnapshot(train=LINE.points, evals=LINE.points[::25], speeds=LINE.points, planned_speed=50.0)
    assert [curve.name for curve in curves_of("loss", run)] == ["train", "smoothed", "eval"]
    assert [curve.name for curve in curves_of("tokens/s", run)] == ["planned", "measured"]
    assert curves_of("memory", run) == []
    both = compared("loss", [("a", run), ("b", run)])
    assert [curve.name for curve in both] == ["", "a", "", "b"]
    assert len({curve.color for curve in both}) == 2


def test_what_lies_a_hair_apart_does_not_look_far_apart() -> None:
    """GIVEN a peak and its prediction a thousandth apart THEN the window spans the share that was asked for."""
    curves = [Curve(points=((0, 63.63), (9, 63.63)), color="a"), Curve(points=((0, 63.61), (9, 63.61)), color="b")]
    seen = window(curves, least=0.05)
    assert seen is not None
    assert seen.high - seen.low == pytest.approx(0.05 * 63.63)
    assert seen.low < 63.61 < 63.63 < seen.high
    plain = window(curves)
    assert plain is not None
    assert (plain.low, plain.high) == (63.61, 63.63)
