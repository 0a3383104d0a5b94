"""What other programs of a network know of a size, and which layers are one kind where no length reaches a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner.contract.errors import NotModelled
from planner.contract.spec import Module
from planner.memory.engine.monomials import BSS, CX, KK, ONE, PP, RX, TL, TR, B, C, K, P, R, S, T
from planner.memory.recorded.cuts import Cut, by_modules, cut, cut_of, picked_cut, windowless_cut
from planner.memory.recorded.fit import Point, fitted
from planner.memory.recorded.known import KnownSizes, same_course
from planner.memory.recorded.log import RELEASE, Log, Window
from planner.models.sources import load_model

POINTS = [
    Point(batch=5, length=224, piece=700, chunk=900),
    Point(batch=2, length=240, piece=300, chunk=400),
    Point(batch=3, length=368, piece=700, chunk=900),
]
WHOLE = Point(batch=5, length=224, piece=1 << 20, chunk=1 << 20)
SINGLE = Point(batch=1, length=240, piece=1 << 20, chunk=1 << 20)
SEVERAL_TERMS = (ONE, T, S, B, BSS, TR, TL)
IN_PIECES = (*SEVERAL_TERMS, R, RX, C, CX)
SINGLE_TERMS = (ONE, T, BSS, TR)
SIZES = {"table": ((S, 512),), "product": ((T, 8192),), "rows": ((R, 64),), "targets": ((C, 12),), "sum": ((B, 4),)}


def _trace(point: Point, sizes: dict[str, Any]) -> dict[str, Any]:
    values = point.values()
    events: list[list[Any]] = []
    for key, (name, size) in enumerate(sizes.items()):
        events.append([key, sum(c * values[m] for m, c in size), f"mm|{name}|bf16|0|attention"])
    return {"parts": [["forward", None, [*events, *([key, RELEASE] for key in range(len(sizes)))]]]}


@pytest.fixture
def known() -> KnownSizes:
    traces = [_trace(point, SIZES) for point in POINTS]
    found = KnownSizes()
    found.learn(traces[0], fitted(traces, POINTS, IN_PIECES, ()), single=False)
    return found


def _sizes(log: Log | None) -> list[Any]:
    assert log is not None
    return [log.sizes[code] for _, code, _ in log.parts[0].events if code >= 0]


def test_one_trace_says_which_of_the_known_sizes_it_has(known: KnownSizes) -> None:
    whole = {**SIZES, "rows": ((T, 64),), "targets": ((TL, 12),)}
    log = known.program(_trace(WHOLE, whole), WHOLE, SEVERAL_TERMS, (), single=False)
    assert _sizes(log) == list(whole.values())
    held_out = replace(WHOLE, batch=4, length=368)
    assert log is not None
    assert same_course(log, _trace(held_out, whole), held_out)
    assert not same_course(log, _trace(held_out, {**whole, "sum": ((ONE, 20),)}), held_out)


def test_a_single_sequence_has_them_with_one_row(known: KnownSizes) -> None:
    one = {"table": ((T, 512),), "product": ((T, 8192),), "targets": ((T, 12), (ONE, -12)), "sum": ((ONE, 4),)}
    log = known.program(_trace(SINGLE, one), SINGLE, SINGLE_TERMS, (), single=True)
    values = SINGLE.values()
    for told, want in zip(_sizes(log), one.values(), strict=True):
        assert all(m in SINGLE_TERMS for m, _ in told)
        assert sum(c * values[m] for m, c in told) == sum(c * values[m] for m, c in want)


def test_a_single_sequences_recurrence_has_them_too() -> None:
    """A table of a recurrence's turns (one row more at each end) is one of all rows where there is one."""
    turns = {"table": ((ONE, 1), (P, 2), (PP, 1)), "decay": ((B, 192), (K, 384), (KK, 192)), "state": ((K, 4096),)}
    points = [
        Point(batch=batch, length=64 * n - 16 * lacking, piece=1 << 20, chunk=1 << 20, recurrent_piece=64)
        for batch, n, lacking in ((5, 11, 1), (2, 10, 3), (3, 14, 2), (7, 8, 3))
    ]
    terms = (ONE, T, S, B, BSS, K, KK, P, PP)
    known, traces = KnownSizes(), [_trace(point, turns) for point in points]
    known.learn(traces[0], fitted(traces, points, terms, ()), single=False)
    one = {"table": ((ONE, 1), (K, 2), (KK, 1)), "decay": ((ONE, 192), (K, 384), (KK, 192)), "state": ((K, 4096),)}
    single = Point(batch=1, length=688, piece=1 << 20, chunk=1 << 20, recurrent_piece=64)
    log = known.program(_trace(single, one), single, (ONE, T, BSS, K, KK), (), single=True)
    assert [tuple(sorted(size)) for size in _sizes(log)] == [tuple(sorted(size)) for size in one.values()]


@pytest.mark.parametrize("new", [{"other": ((T, 8),)}, {"product": ((T, 8193),)}, {"targets": ((TL, 13),)}], ids=str)
def test_what_is_new_is_left_to_the_fit(known: KnownSizes, new: dict[str, Any]) -> None:
    assert (
        known.program(_trace(WHOLE, {"table": SIZES["table"], **new}), WHOLE, SEVERAL_TERMS, (), single=False) is None
    )


def test_what_may_be_two_things_is_left_to_the_fit(known: KnownSizes) -> None:
    traces = [_trace(point, {"table": ((B, 512 * 224),)}) for point in POINTS]
    known.learn(traces[0], fitted(traces, POINTS, IN_PIECES, ()), single=False)
    square = replace(WHOLE, batch=1)  # where 224 rows of one table are one row of 224
    assert known.program(_trace(square, {"table": ((S, 512),)}), square, SEVERAL_TERMS, (), single=False) is None


@pytest.mark.parametrize(
    ("kinds", "layers", "start", "copies"),
    [("wwwf" * 8, 8, 4, 26), ("wwwf" * 8 + "w", 9, 4, 26), ("d" + "wwwwwf" * 6, 13, 7, 26)],
)
def test_layers_with_a_window_are_as_those_without_where_none_is_reached(kinds, layers, start, copies) -> None:
    found = windowless_cut(kinds, ["d" if kind == "d" else "x" for kind in kinds])
    assert found is not None
    assert (found.layers, found.windows, found.copies) == (layers, (Window(start, 1),), (copies,))
    assert found.layers - 2 + found.copies[0] == len(kinds)
    # Each kind has a first layer before the stretch and a last one behind it.
    assert set(kinds[:start]) >= set(kinds[start:])
    assert set(kinds[len(kinds) - (layers - start - 2) :]) == set(kinds[start:])
    assert windowless_cut(kinds, kinds) is None


HYBRIDS = ["m" * 5 + ("a" + "m" * 9) * 3 + "a" + "m" * 4, "sssssf" * 8, "f" + "mmmmmmmma" * 4, "m" * 12 + "a" * 12]


@pytest.mark.parametrize("kinds", HYBRIDS)
def test_layers_are_left_out_wherever_equal_ones_follow_one_another(kinds: str) -> None:
    found, longer = picked_cut(tuple(kinds)), picked_cut(tuple(kinds), 1)
    assert found is not None
    assert longer is not None
    assert found.layers * 4 <= cut(kinds, 0).layers * 3
    assert _told(kinds, found, found.copies) == kinds
    assert _told(kinds, found, (3,) * len(found.windows)) == "".join(kinds[place] for place in longer.places)
    # The first layer and the last one belong to no stretch.
    assert found.places[0] == 0
    assert found.places[-1] == len(kinds) - 1
    assert all(0 < window.start <= found.layers - 1 - 2 * window.period for window in found.windows)


def _told(kinds: str, found: Cut, copies: tuple[int, ...]) -> str:
    """The layers of a cut with its stretches told so often."""
    told = {number: kinds[place] for number, place in enumerate(found.places)}
    for window, count in zip(found.windows, copies, strict=True):
        first, second = (
            range(window.start + n * window.period, window.start + (n + 1) * window.period) for n in (0, 1)
        )
        assert [told[number] for number in first] == [told[number] for number in second]
        stretch = "".join(told[number] for number in first)
        told |= dict.fromkeys((*first, *second), "") | {window.start: stretch * count}
    return "".join(told.values())


@pytest.mark.parametrize("kinds", ["a" * 32, "ab" * 12, "aaab" * 8, "ab", "a", "dddeeeaaabbb"])
def test_nothing_is_left_out_where_little_is_gained(kinds: str) -> None:
    assert picked_cut(tuple(kinds)) is None


@pytest.mark.parametrize("kinds", ["w" * 32, "wf" * 12, "wwwf" * 2])
def test_where_no_layers_are_saved_they_are_told_apart(kinds: str) -> None:
    assert windowless_cut(kinds, "x" * len(kinds)) is None


def test_a_layer_is_told_by_its_modules() -> None:
    module = Module(path="l.{}.q", kind="linear", shape=(8, 8), bias=False, tied_to=None, layers=tuple(range(16)))
    spec = replace(load_model("llama-3.2-1b"), modules=(module,), num_layers=16)
    spec = replace(spec, config={"recorded": {"kinds": ["w", "w", "w", "f"] * 4}})
    assert len(set(by_modules(spec))) == 1
    assert cut_of(spec, 16, windowless=False).layers == 12
    assert cut_of(spec, 16, windowless=True) == Cut(8, 8, (Window(4, 1),), (10,))
    with pytest.raises(NotModelled, match="none that fewer stand for"):
        cut_of(spec, 16, windowless=False, picked=True)
    wider = replace(module, path="l.{}.k", layers=(3, 7, 11, 15))
    with pytest.raises(NotModelled, match="layers with a window are others"):
        cut_of(replace(spec, modules=(module, wider)), 16, windowless=True)
