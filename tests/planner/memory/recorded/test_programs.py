"""Sizes become polynomials, and a stretch that was recorded twice is told as often as it occurs."""

from __future__ import annotations

import json

import pytest

from planner.contract.errors import InvalidInput, NotModelled
from planner.memory.engine.monomials import BSS, CX, KK, ONE, PP, RX, TL, B, C, K, P, R, S, T
from planner.memory.recorded.cuts import counts, cut, regular
from planner.memory.recorded.expand import expanded
from planner.memory.recorded.fit import Irregular, Point, fitted, solve
from planner.memory.recorded.log import RELEASE, Log, Part, Window

POINTS = [
    Point(batch=2, length=240, piece=300, chunk=400),
    Point(batch=3, length=368, piece=700, chunk=900),
    Point(batch=5, length=224, piece=1000, chunk=700),
]


@pytest.mark.parametrize(
    ("size", "want"),
    [
        (lambda v: 6 * v[T], ((T, 6),)),
        (lambda v: 2 * v[BSS], ((BSS, 2),)),
        (lambda v: 12 * v[RX], ((RX, 12),)),
        (lambda v: 4 * v[S] + 8, ((ONE, 8), (S, 4))),
        (lambda v: 2 * v[T] - 10 * v[B], ((T, 2), (B, -10))),
    ],
)
def test_a_size_is_the_shortest_whole_polynomial(size, want):
    values = [point.values() for point in POINTS]
    terms = (ONE, T, S, B, BSS, R, RX)
    assert solve(tuple(size(value) for value in values), values, terms, "op") == want


def test_targets_and_chunks_are_told_apart():
    values = [point.values() for point in POINTS]
    for monomial in (TL, C, CX):
        found = solve(tuple(20 * value[monomial] for value in values), values, (ONE, T, S, B, TL, C, CX), "op")
        assert found == ((monomial, 20),)


def test_a_table_of_pieces_and_one_more_is_a_polynomial_of_their_number():
    points = [
        Point(batch=b, length=16 * n - 5, piece=1, chunk=1, recurrent_piece=16) for b, n in ((5, 8), (2, 10), (3, 14))
    ]
    values = [point.values() for point in points]
    found = solve((81, 121, 225), values, (ONE, T, S, B, K, KK, P, PP), "ones")
    assert sorted(found) == sorted(((ONE, 1), (P, 2), (PP, 1)))


def test_a_size_that_is_no_polynomial_is_refused():
    values = [point.values() for point in POINTS]
    with pytest.raises(Irregular, match="no polynomial"):
        solve((7, 1001, 77777777), values, (ONE, T, B), "op")


def _log(sizes: list[int], extra: bool = False) -> dict:
    events = [[0, sizes[0], "mm|a|bf16|0|attention"], [0, RELEASE]]
    return {"parts": [["forward", None, events + ([[1, 8, "mm|a|bf16|0|attention"]] if extra else [])]]}


def test_a_step_that_runs_otherwise_at_another_shape_is_refused():
    logs = [_log([480]), _log([1104], extra=True), _log([1120])]
    with pytest.raises(Irregular, match="takes 3 steps"):
        fitted(logs, POINTS, (ONE, T), ())


def test_a_program_is_read_back_as_it_was_and_nothing_else_is():
    log = fitted([_log([480]), _log([1104]), _log([1120])], POINTS, (ONE, T), (Window(1, 1),))
    content = json.loads(json.dumps(log.content()))
    assert Log.read(content, "x") == log
    for key, value in [
        ("schema", "other/1"),
        ("sizes", [[[99, 1]]]),
        ("parts", [["forward", None, [[0, 5, 0]]]]),
        ("parts", [["forward", None, [[3, RELEASE, 0]]]]),
        ("parts", [["sideways", None, []]]),
        ("windows", [[0, 1]]),
        ("windows", 3),
    ]:
        with pytest.raises(InvalidInput, match="delete it"):
            Log.read({**content, key: value}, "x")


# A chain of layers by hand: each makes an activation (size 0) that the next one's backward needs, and a temporary
# (size 1); backward of a layer makes the gradient (size 2) that the one before takes, and lets its own input go.


def _chain(layers: int) -> tuple[Part, ...]:
    parts = [Part("forward", None, ((0, 0, 0),))]
    for layer in range(layers):
        parts.append(Part("forward", layer, ((10 + layer, 0, 0), (100 + layer, 1, 0), (100 + layer, RELEASE, 0))))
    parts.append(Part("loss", None, ((1, 3, 0), (200 + layers, 2, 0))))
    for layer in reversed(range(layers)):
        saved = 10 + layer - 1 if layer else 0
        parts.append(
            Part(
                "backward",
                layer,
                ((200 + layer, 2, 0), (200 + layer + 1, RELEASE, 0), (saved, RELEASE, 0), (300 + layer, 3, 0)),
            )
        )
    last = tuple((300 + layer, RELEASE, 0) for layer in range(layers))
    parts.append(Part("backward", None, ((1, RELEASE, 0), (200, RELEASE, 0), (10 + layers - 1, RELEASE, 0), *last)))
    return tuple(parts)


def _course(parts: tuple[Part, ...]) -> list[tuple[int, ...]]:
    live: dict[int, int] = {}
    course = []
    for part in parts:
        for key, code, _ in part.events:
            if code >= 0:
                assert key not in live
                live[key] = code
            else:
                del live[key]
            course.append(tuple(sorted(live.values())))
    assert not live
    return course


@pytest.mark.parametrize("copies", [2, 3, 7])
def test_a_stretch_told_more_often_is_the_longer_chain(copies):
    assert _course(expanded(_chain(4), Window(1, 1), copies)) == _course(_chain(copies + 2))


@pytest.mark.parametrize("copies", [2, 4])
def test_a_stretch_of_several_layers_is_told_as_one(copies):
    assert _course(expanded(_chain(6), Window(1, 2), copies)) == _course(_chain(2 * copies + 2))


def test_layers_that_differ_are_refused():
    parts = list(_chain(4))
    parts[3] = Part("forward", 2, (*parts[3].events, (999, 3, 0)))
    with pytest.raises(Irregular, match="allocate differently"):
        expanded(tuple(parts), Window(1, 1), 5)


def test_the_fewest_layers_stand_for_all():
    assert regular("a" * 32) == (0, 1)
    assert regular("aaab" * 8) == (0, 4)
    assert regular("d" + "e" * 40) == (1, 1)
    assert regular("abcdefg") is None
    found = cut("a" * 32, 32)
    assert (found.layers, found.checkpointed, found.copies) == (4, 4, (30,))
    found = cut("d" + "e" * 26, 0)
    assert (found.layers, found.copies, found.windows) == (5, (24,), (Window(2, 1),))


def test_a_part_of_the_layers_is_recomputed_where_they_are_alike():
    found = cut("a" * 32, 10)
    assert (found.layers, found.checkpointed, found.copies) == (8, 4, (8, 20))
    assert counts("a" * 8) == [0, 4, 8]
    with pytest.raises(NotModelled, match="take none, all"):
        cut("aaab" * 8, 10)
