"""Sizes that were seen at a few shapes become whole polynomials of batch and length.

Almost every tensor's size is one monomial; some are a sum of two or three (tokens that have a successor, a table with a
row more). The points are chosen so that no two monomials stand in one ratio; a size that no whole coefficients explain
at all points is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from planner.contract.errors import NotModelled
from planner.memory.engine.monomials import BSS, BSSP, CX, KK, ONE, PP, RX, SS, SSP, TE, TL, TR, B, C, K, P, R, S, T
from planner.memory.engine.values import turns
from planner.memory.recorded.log import HANDED_OVER, RELEASE, Event, Log, Part, Size, Window

LARGEST_TERMS = 3
SORTED = "embedding_dense_backward.default scratch"
"""What a recorder notes at every shape, though it is there beyond some thousand tokens only (`TE`)."""


class Irregular(NotModelled):
    """The step doesn't repeat as a recorded program needs it: no number can be given from a recording."""


class Uncuttable(Irregular):
    """Fewer layers are not the same network: it has to be traced whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A shape that is traced: `batch` x `length` tokens, `piece` and `chunk` of them at a time."""

    batch: int
    length: int
    piece: int
    chunk: int
    recurrent_piece: int = 0

    def values(self) -> dict[int, int]:
        """The monomials' values there, as `engine.values.multipliers` has them."""
        b, s = self.batch, self.length
        tokens, aligned = b * s, -(-s // 16) * 16
        targets, k = tokens - b, int(turns(s, self.recurrent_piece))
        return {
            ONE: 1,
            T: tokens,
            S: s,
            B: b,
            BSS: b * s * s,
            SS: s * s,
            TR: b * -(-s // 128) * 128,
            TL: targets,
            C: min(targets, self.chunk),
            CX: min(max(targets - self.chunk, 0), self.chunk),
            R: min(tokens, self.piece),
            RX: min(max(tokens - self.piece, 0), self.piece),
            SSP: s * aligned,
            BSSP: tokens * aligned,
            K: b * k,
            KK: b * k * k,
            P: k,
            PP: k * k,
            TE: tokens,
        }


def fitted(
    logs: Sequence[dict[str, Any]], points: Sequence[Point], terms: Sequence[int], windows: Sequence[Window]
) -> Log:
    """The program behind the logs of one step at several points; `terms`: monomials that sizes may hold.

    Raises Irregular where the logs differ in more than sizes, or a size is no polynomial.
    """
    first = logs[0]["parts"]
    for log, point in zip(logs[1:], points[1:], strict=True):
        _same(first, log["parts"], point)
    values = [point.values() for point in points]
    known: dict[tuple[tuple[int, ...], bool], Size] = {}

    def size(number: int, place: int, event: Sequence[Any]) -> Size:
        seen = tuple(log["parts"][number][2][place][1] for log in logs)
        if event[2].startswith(SORTED):
            return solve(seen, values, (TE,), event[2])
        # Rows that a kernel of attention rounds up are none that a recurrence pads, and the other way round.
        attends = "attention" in event[2].split("|")[0]
        if (seen, attends) not in known:
            others = (K, KK, P, PP) if attends else (TR,) if K in terms else ()
            kept = [t for t in terms if t not in (*others, TE)]
            known[seen, attends] = solve(seen, values, kept, event[2])
        return known[seen, attends]

    return program(first, size, windows)


def program(traced: Sequence[Any], size: Callable[[int, int, Sequence[Any]], Size], windows: Sequence[Window]) -> Log:
    """The log of a trace's parts; `size(part's number, event's place, event)` is the polynomial of an allocation."""
    sizes: dict[Size, int] = {}
    components: dict[str, int] = {}
    parts = []
    for number, (phase, layer, events) in enumerate(traced):
        if phase == "end":
            continue
        made: list[Event] = []
        for place, event in enumerate(events):
            key, code = event[0], event[1]
            if code in (RELEASE, HANDED_OVER):
                made.append((key, code, 0))
                continue
            component = event[2].rsplit("|", 1)[-1]
            polynomial = sizes.setdefault(size(number, place, event), len(sizes))
            made.append((key, polynomial, components.setdefault(component, len(components))))
        parts.append(Part(phase, layer, tuple(made)))
    return Log(tuple(parts), tuple(sizes), tuple(components), tuple(windows))


def _same(left: list[Any], right: list[Any], point: Point) -> None:
    """Whether two logs tell the same story."""
    where = f"at {point.batch} x {point.length}"
    if [part[:2] for part in left] != [part[:2] for part in right]:
        raise Irregular(f"the layers run in another order {where}")
    for (phase, layer, ours), (_, _, theirs) in zip(left, right, strict=True):
        for one, other in zip(ours, theirs, strict=False):
            equal = one[0] == other[0] and one[2:] == other[2:] and (one[1] == other[1] or min(one[1], other[1]) >= 0)
            if not equal:
                name = (one[2] if len(one) > 2 else other[2] if len(other) > 2 else "a release").split("|")[0]
                raise Irregular(f"{name} of {phase}, layer {layer}, does not happen {where} as elsewhere")
        if len(ours) != len(theirs):
            raise Irregular(f"{phase} of layer {layer} takes {len(theirs)} steps {where} and {len(ours)} elsewhere")


def solve(seen: tuple[int, ...], values: Sequence[dict[int, int]], terms: Sequence[int], name: str) -> Size:
    """Whole coefficients of as few monomials as possible that give `seen` at every point."""
    if not any(seen):
        return ()
    for count in range(1, min(LARGEST_TERMS, len(seen)) + 1):
        for chosen in combinations(terms, count):
            found = _whole(seen, [[value[term] for term in chosen] for value in values])
            if found is not None:
                return tuple(zip(chosen, found, strict=True))
    raise Irregular(
        f"{name.split('|')[0]} allocates {', '.join(map(str, seen))} bytes, no polynomial of batch and length"
    )


def _whole(seen: tuple[int, ...], rows: list[list[int]]) -> list[int] | None:
    """Whole x with rows · x = seen, by Cramer's rule on the first equations; None where there are none."""
    count = len(rows[0])
    square, right = rows[:count], seen[:count]
    whole = _determinant(square)
    if whole == 0:
        return None
    found = []
    for column in range(count):
        part = _determinant(
            [[*row[:column], value, *row[column + 1 :]] for row, value in zip(square, right, strict=True)]
        )
        if part == 0 or part % whole:
            return None
        found.append(part // whole)
    fits = all(sum(a * x for a, x in zip(row, found, strict=True)) == y for row, y in zip(rows, seen, strict=True))
    return found if fits else None


def _determinant(rows: list[list[int]]) -> int:
    if len(rows) == 1:
        return rows[0][0]
    if len(rows) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    return sum(
        (-1) ** column * rows[0][column] * _determinant([row[:column] + row[column + 1 :] for row in rows[1:]])
        for column in range(len(rows))
    )
