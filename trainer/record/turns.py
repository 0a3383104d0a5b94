"""Loops over pieces of the sequence: which turn of which loop an operator runs in, and a log that tells many equal
turns by their first and their last.

Linear attention and recurrences go through a sequence piece by piece, so that the number of events depends on its
length. Equal turns change what is alive by the same bytes each: whatever is largest is largest in the first or in the
last of them. Those two are kept; what the turns between them leave behind is one allocation, which goes where they let
it go.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any

import transformers

MODELS = str(Path(transformers.__file__).parent / "models")
DEEPEST = 80
"""Frames that are looked through from an operator up to its layer."""
FEWEST = 3
"""Equal turns that are worth telling by two."""

Chain = tuple[tuple[int, int], ...]
"""From the layer inwards: (number of a running function, turns that it has begun)."""
Mark = tuple[int, str, Chain]
"""(clock, stage: forward, recomputed, backward, …, chain): what comes after belongs there."""
Timed = tuple[float, list[Any]]
"""(clock, event)."""
_Stretch = dict[int, range]
"""A loop's turns in one direction: turn -> places of its events in the log."""
_End = tuple[str, int]
"""Where what the dropped turns leave goes: ("turns", stretch) or ("place", place in the log)."""


class LoopWatch:
    """Watches the functions of a modeling file run: one that goes back to an earlier instruction begins a turn."""

    def __init__(self, layers: Sequence[object]) -> None:
        self.known: dict[int, tuple[CodeType, bool, bool]] = {}
        """By address (code is slow to hash): code, whether it is of a modeling file, whether a walk up the stack stops
        there: the loop over the layers themselves is none of these."""
        self.ends = {id(_code(type(layer))) for layer in layers}
        self.running: dict[tuple[int, int], list[int]] = {}
        """(frame, its code) -> [number, turn, last instruction]."""
        self.layer = -1
        self.begun: dict[int, int] = {}
        self.numbers: dict[tuple[int, int, int], int] = {}
        """(layer, code, how often it was called before) -> number: a recomputation is told by the same ones."""

    def again(self, layer: int) -> None:
        """A layer begins: frames seen before are gone, and their addresses may be used again."""
        self.running.clear()
        self.begun.clear()
        self.layer = layer

    def chain(self) -> Chain:
        """Where the operator that runs now stands."""
        found: list[tuple[int, int]] = []
        frame = sys._getframe(2)
        for _ in range(DEEPEST):
            known = self.known.get(id(frame.f_code))
            if known is None:
                known = self._learn(frame.f_code)
            if known[1]:
                code = id(known[0])
                key = (id(frame), code)
                at = self.running.get(key)
                if at is None:
                    called = self.begun[code] = self.begun.get(code, 0) + 1
                    number = self.numbers.setdefault((self.layer, code, called), len(self.numbers))
                    at = self.running[key] = [number, 0, -1]
                if frame.f_lasti < at[2]:
                    at[1] += 1
                at[2] = frame.f_lasti
                found.append((at[0], at[1]))
                if known[2]:
                    break
            if frame.f_back is None:
                break
            frame = frame.f_back
        return tuple(reversed(found))

    def _learn(self, code: CodeType) -> tuple[CodeType, bool, bool]:
        found = self.known[id(code)] = (code, code.co_filename.startswith(MODELS), id(code) in self.ends)
        return found


def _code(cls: type) -> CodeType | None:
    function = inspect.unwrap(cls.forward)  # type: ignore[attr-defined]
    return getattr(function, "__code__", None)


def gathered(events: Sequence[Timed], marks: Sequence[Mark]) -> list[Timed] | None:
    """The events with long loops told by few turns; None where no loop is long.

    events: in order, `[key, bytes, name]` of an allocation, `[key, -1]` of its release, `[key, -2]` of a gradient that
    is handed over.
    """
    most: dict[int, int] = {}
    for _, _, chain in marks:
        for number, turn in chain:
            most[number] = max(most.get(number, 0), turn)
    long = {number for number, turn in most.items() if turn >= FEWEST}
    told: list[Timed] | None = None
    for number in sorted(long):
        loop = _loop(events if told is None else told, marks, number, long)
        shorter = None if loop is None else _Shorter(events if told is None else told, loop).told()
        told = told if shorter is None else shorter
    return None if told is None else _numbered(told)


def _numbered(events: Sequence[Timed]) -> list[Timed]:
    """The same with keys in the order in which they are made."""
    numbers: dict[int, int] = {}
    return [(clock, [numbers.setdefault(event[0], len(numbers)), *event[1:]]) for clock, event in events]


def _loop(events: Sequence[Timed], marks: Sequence[Mark], number: int, long: set[int]) -> list[_Stretch] | None:
    """Forward, recomputation and backward of one loop; None where it is inside another long one or told in no order."""
    found: dict[str, _Stretch] = {}
    position = 0
    for place, (_, stage, chain) in enumerate(marks):
        until = marks[place + 1][0] + 0.75 if place + 1 < len(marks) else float("inf")
        begins = position
        while position < len(events) and events[position][0] <= until:
            position += 1
        inside = next((link for link in chain if link[0] in long), None)
        if inside is None or inside[0] != number or position == begins:
            continue
        turns = found.setdefault(stage, {})
        before = turns.get(inside[1])
        turns[inside[1]] = range(begins if before is None else before.start, position)
    stretches = [stretch for stretch in found.values() if len(stretch) >= FEWEST]
    return stretches if stretches and all(map(_in_a_row, stretches)) else None


def _in_a_row(stretch: _Stretch) -> bool:
    ranges = [stretch[turn] for turn in sorted(stretch)]
    ranges = ranges if ranges[0].start <= ranges[-1].start else ranges[::-1]
    return all(one.stop <= other.start for one, other in pairwise(ranges))


class _Shorter:
    """One loop, told by few turns."""

    def __init__(self, events: Sequence[Timed], loop: list[_Stretch]) -> None:
        self.events = events
        self.loop = loop
        self.born: dict[int, int] = {}
        self.died: dict[int, int] = {}
        for place, (_, event) in enumerate(events):
            if len(event) == 3:
                self.born[event[0]] = place
            elif event[1] == -1:
                self.died[event[0]] = place
        self.home: dict[int, tuple[int, int, int]] = {}
        """Place of an event -> (stretch, turn, how many events of the turn come before)."""
        for number, stretch in enumerate(loop):
            for turn, places in stretch.items():
                for offset, place in enumerate(places):
                    self.home[place] = (number, turn, offset)

    def told(self) -> list[Timed] | None:
        """The log; None where no turns are equal."""
        dropped: set[int] | None = None
        for number in range(len(self.loop)):
            inner = self._inner(number)
            dropped = inner if dropped is None else dropped & inner
        if not dropped:
            return None
        self.dropped = dropped
        self.low, self.high = min(dropped), max(dropped)
        try:
            return self._without()
        except LookupError:  # the turns beside the dropped ones made something else
            return None

    def _inner(self, number: int) -> set[int]:
        """LoopWatch of a stretch with equal ones before and after them."""
        stretch = self.loop[number]
        turns = sorted(stretch)
        texts = {turn: self._text(number, turn) for turn in turns}
        best: list[int] = []
        run: list[int] = []
        for turn in turns:
            run = [*run, turn] if run and run[-1] == turn - 1 and texts[run[-1]] == texts[turn] else [turn]
            best = run if len(run) > len(best) else best
        return set(best[1:-1]) if len(best) >= FEWEST else set()

    def _text(self, number: int, turn: int) -> list[Any]:
        """What a turn does, without the names of what it touches."""
        said: list[Any] = []
        for place in self.loop[number][turn]:
            event = self.events[place][1]
            if len(event) == 3:
                said.append((event[1], event[2]))
                continue
            made = self.born[event[0]]
            home = self.home.get(made)
            said.append(
                (event[1], event[0]) if home is None else (event[1], home[0], home[1] - turn, *self._kind(made))
            )
        return said

    def _kind(self, place: int) -> tuple[Any, ...]:
        return tuple(self.events[place][1][1:])

    def _short(self, turn: int) -> int:
        return turn if turn < self.low else turn - len(self.dropped)

    def _long(self, turn: int) -> int:
        return turn if turn < self.low else turn + len(self.dropped)

    def _gone(self, place: int) -> bool:
        home = self.home.get(place)
        return home is not None and home[1] in self.dropped

    def _without(self) -> list[Timed]:
        cuts = [min(stretch[turn].start for turn in self.dropped if turn in stretch) for stretch in self.loop]
        lumps = self._lumps()
        births: dict[int, list[Timed]] = {}
        releases: dict[int, list[Timed]] = {}
        key = 1 + max(self.born, default=0)
        for (number, component, ends), size in lumps.items():
            start = cuts[number]
            births.setdefault(start, []).append((self.events[start][0], [key, size, f"loop|||0|{component}"]))
            if ends is not None:
                at = cuts[ends[1]] if ends[0] == "turns" else ends[1]
                releases.setdefault(at, []).append((self.events[min(at, len(self.events) - 1)][0], [key, -1]))
            key += 1
        told: list[Timed] = []
        for place, (clock, event) in enumerate(self.events):
            told += releases.get(place, [])
            told += births.get(place, [])
            if self._gone(place):
                continue
            if len(event) == 2 and self._gone(self.born[event[0]]):
                home, made = self.home.get(place), self.home[self.born[event[0]]]
                if home is None or self._at_once(made):
                    continue  # let go with its lump
                told.append((clock, [self._stands_in(home, made), event[1]]))
                continue
            told.append((clock, event))
        return told

    def _stands_in(self, here: tuple[int, int, int], made: tuple[int, int, int]) -> int:
        """Key of what a kept turn lets go in place of what a dropped one made."""
        stretch = self.loop[made[0]]
        place = stretch[self._long(self._short(here[1]) + made[1] - here[1])][made[2]]
        if self._kind(place) != self._kind(stretch[made[1]][made[2]]) or not self._dropped_at(place):
            raise LookupError
        return int(self.events[place][1][0])

    def _dropped_at(self, birth: int) -> bool:
        """Whether what was made there goes in a dropped turn."""
        death = self.died.get(self.events[birth][1][0])
        return death is not None and self._gone(death)

    def _at_once(self, made: tuple[int, int, int]) -> bool:
        """Whether one turn lets go what all turns made there: what comes behind a loop counts as its last turn's."""
        stretch, _, offset = made
        deaths = [self._death(stretch, turn, offset) for turn in (made[1], self.low - 1)]
        return deaths[0] is not None and deaths[0] == deaths[1] and deaths[0][1] not in self.dropped

    def _death(self, stretch: int, turn: int, offset: int) -> tuple[int, int] | None:
        """The stretch and turn in which what a turn made goes; None where that is outside."""
        death = self.died.get(self.events[self.loop[stretch][turn][offset]][1][0])
        home = None if death is None else self.home.get(death)
        return None if home is None else home[:2]

    def _lumps(self) -> dict[tuple[int, str, _End | None], int]:
        """(stretch, component, where it ends) -> bytes that the dropped turns leave behind."""
        found: dict[tuple[int, str, _End | None], int] = {}
        for number, stretch in enumerate(self.loop):
            for turn in sorted(self.dropped):
                for place in stretch[turn]:
                    event = self.events[place][1]
                    if len(event) != 3:
                        continue
                    death = self.died.get(event[0])
                    ends = None if death is None else self._end(self.home[place], death)
                    if ends == ("turns", number):
                        continue  # this stretch lets it go
                    name = (number, event[2].rsplit("|", 1)[-1], ends)
                    found[name] = found.get(name, 0) + event[1]
        return found

    def _end(self, made: tuple[int, int, int], death: int) -> _End:
        home = self.home.get(death)
        if home is not None and not self._at_once(made):
            return ("turns", home[0])
        # All that goes at once goes at one place of the shorter log.
        place, turn = death, None if home is None else home[:2]
        while place > 0 and len(self.events[place - 1][1]) == 2:
            before = self.home.get(place - 1)
            if (None if before is None else before[:2]) != turn:
                break
            place -= 1
        return ("place", place)
