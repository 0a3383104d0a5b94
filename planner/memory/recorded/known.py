"""Sizes that a network's other programs gave: one trace then says which of them each allocation has.

An operator of a module makes tensors of one polynomial, whatever else a step does; only pieces, chunks and a single
sequence call it by other names (all tokens or those of one piece). What is ambiguous or new is left to the fit of
several shapes, and a program that was read this way must give a held-out trace allocation by allocation.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from planner.memory.engine.monomials import BSS, BSSP, CX, KK, ONE, PP, RX, SS, SSP, TL, B, C, K, P, R, S, T
from planner.memory.recorded.fit import Point, program
from planner.memory.recorded.log import RELEASE, Log, Size, Window

OTHERWISE = {
    T: (T, R, RX),
    R: (R, T),
    TL: (TL, C, CX),
    C: (C, TL),
}
"""Monomial -> those that may stand in its place in another program of as many sequences."""
OF_SEVERAL = {ONE: (ONE, B), T: (T, S, R, RX), BSS: (BSS, SS), BSSP: (BSSP, SSP), K: (K, P), KK: (KK, PP)}
"""What a single sequence doesn't tell apart."""
OF_ONE = {S: T, B: ONE, SS: BSS, SSP: BSSP, P: K, PP: KK}
"""What is one for a single sequence."""
MOST_TERMS = 2
"""Of a size whose terms are told otherwise; longer ones are taken as they are."""


class KnownSizes:
    """By operator, module and type of element, the polynomials that were proven."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[str, bool], frozenset[Size]] = {}
        """Keys: what makes the tensor, and whether the program is for a single sequence."""
        self.learning = threading.Lock()
        """Two children prove programs of one network at a time."""
        self.claimed = False
        self.first = threading.Event()
        """Set once the first program has been tried: until then there is nothing to know sizes by."""

    def claim(self) -> bool:
        """Whether the caller's program is the network's first one: it sets `first` when it is done."""
        with self.learning:
            mine, self.claimed = not self.claimed, True
        return mine

    def learn(self, traced: Mapping[str, Any], log: Log, *, single: bool) -> None:
        """Takes the sizes of a proven program; `traced`: the trace that its events stand for."""
        told = [part for part in traced["parts"] if part[0] != "end"]
        found: dict[tuple[str, bool], set[Size]] = {}
        for (_, _, events), part in zip(told, log.parts, strict=True):
            for event, (_, code, _) in zip(events, part.events, strict=True):
                if code >= 0:
                    size, maker = tuple(sorted(log.sizes[code])), _maker(event[2])
                    for name in (maker, _operator(maker)):
                        found.setdefault((name, single), set()).add(size)
        with self.learning:
            for key, sizes in found.items():
                self.sizes[key] = self.sizes.get(key, frozenset()) | sizes

    def program(
        self, traced: Mapping[str, Any], point: Point, terms: Sequence[int], windows: Sequence[Window], *, single: bool
    ) -> Log | None:
        """The program behind one trace; None where a size is not known or may be several."""
        values = point.values()
        found: dict[tuple[str, int], Size] = {}

        def size(_part: int, _place: int, event: Sequence[Any]) -> Size:
            key = (_maker(event[2]), event[1])
            if key not in found:
                found[key] = self._size(*key, values, set(terms), single=single)
            return found[key]

        try:
            return program(traced["parts"], size, windows)
        except LookupError:
            return None

    def _size(self, maker: str, size: int, values: Mapping[int, int], terms: set[int], *, single: bool) -> Size:
        if size == 0:
            return ()

        def fits(told: Size) -> bool:
            return bool(told) and all(m in terms for m, _ in told) and _value(told, values) == size

        # By its module, or (a recomputation may name it otherwise) by its operator alone.
        for name in (maker, _operator(maker)):
            alike = self.sizes.get((name, single), frozenset())
            others = self.sizes.get((name, not single), frozenset())
            fitting = {told for told in alike if fits(told)}
            fitting = fitting or {told for one in alike for told in _variants(one, OTHERWISE) if fits(told)}
            if not fitting:
                table = OTHERWISE if single else {**OTHERWISE, **OF_SEVERAL}
                mapped = (_of_one(one, terms) if single else one for one in others)
                fitting = {told for one in mapped for told in _variants(one, table) if fits(told)}
            if fitting:
                break
        if len(fitting) != 1:
            raise LookupError(maker)
        return fitting.pop()


def _of_one(size: Size, terms: set[int]) -> Size:
    """As a single sequence has it, where all tokens but one have a successor; without chunks those are all targets."""
    targets = {TL} if C in terms else {TL, C}
    told = [term for m, c in size for term in (((T, c), (ONE, -c)) if m in targets else ((OF_ONE.get(m, m), c),))]
    return _summed(told)


def _variants(size: Size, table: Mapping[int, tuple[int, ...]]) -> set[Size]:
    """The size as it is, and with its terms told otherwise."""
    if len(size) > MOST_TERMS:
        return {size}
    ways = product(*(table.get(m, (m,)) for m, _ in size))
    return {_summed([(m, c) for m, (_, c) in zip(chosen, size, strict=True)]) for chosen in ways}


def _summed(terms: Sequence[tuple[int, int]]) -> Size:
    """The terms with those of one monomial made one."""
    sums: dict[int, int] = {}
    for monomial, coefficient in terms:
        sums[monomial] = sums.get(monomial, 0) + coefficient
    return tuple(sorted((m, c) for m, c in sums.items() if c))


def _value(size: Size, values: Mapping[int, int]) -> int:
    return sum(coefficient * values[monomial] for monomial, coefficient in size)


def _maker(name: str) -> str:
    """Operator, module and type of element of an event's name."""
    return "|".join(name.split("|")[:3])


def _operator(maker: str) -> str:
    """Operator and type of element alone."""
    parts = maker.split("|")
    return f"{parts[0]}|{parts[-1]}"


def same_course(log: Log, traced: Mapping[str, Any], point: Point) -> bool:
    """Whether every allocation of a program is the trace's, with the same bytes alive after it."""
    values = point.values()
    sizes = [_value(size, values) for size in log.sizes]
    ours = [[(key, code if code < 0 else sizes[code]) for key, code, _ in part.events] for part in log.parts]
    theirs = [[(event[0], event[1]) for event in part[2]] for part in traced["parts"] if part[0] != "end"]
    return _course(ours) == _course(theirs)


def _course(parts: Sequence[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    live: dict[int, int] = {}
    total = 0
    course = []
    for events in parts:
        for key, size in events:
            if size >= 0:
                live[key] = size
                total += size
                course.append((size, total))
            elif size == RELEASE:
                total -= live.pop(key)
    return [*course, (0, total)]
