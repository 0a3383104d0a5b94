"""From the log of a few layers to that of all: a stretch that was recorded twice is told as often as it occurs.

Of two equal stretches A and B that follow one another, forward is A B and backward B A. An event of A is laid beside
the same event of B. What they release tells how storages cross from copy to copy: a copy's own, the one of the copy
before or after it, or one that was made outside. A release from outside belongs to one end of the row of copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.memory.recorded.fit import Uncuttable
from planner.memory.recorded.log import RELEASE, Event, Part, Window

Pair = tuple[Event | None, Event | None]
"""The same event of A and of B; one that only the end of the row has stands alone."""
Place = tuple[str, int, int]
"""Forward or backward ("F", "B"), which copy, which pair."""


def expanded(parts: tuple[Part, ...], window: Window, copies: int) -> tuple[Part, ...]:
    """The log with the window's two stretches told `copies` times (2 or more)."""
    return _Expansion(parts, window, copies).run()


@dataclass(slots=True)
class _Stretch:
    """One direction: where A and B stand among the parts, and their events side by side."""

    name: str
    begins: int
    ends: int
    phase: str
    pairs: list[Pair] = field(default_factory=list)
    of_a: dict[int, int] = field(default_factory=dict)
    """Key that A made -> its pair."""
    of_b: dict[int, int] = field(default_factory=dict)


class _Expansion:
    def __init__(self, parts: tuple[Part, ...], window: Window, copies: int) -> None:
        self.parts, self.window, self.copies = parts, window, copies
        self.codes = {key: code for part in parts for key, code, _ in part.events if code >= 0}
        self.components = {key: component for part in parts for key, code, component in part.events if code >= 0}
        self.keys: dict[Place, int] = {}
        self.next_key = 1 + max(self.codes, default=0)
        first, middle, last = window.start, window.start + window.period, window.start + 2 * window.period
        self.forward = self._stretch("F", ("forward", "eval"), (first, middle, last))
        self.backward = self._stretch("B", ("backward",), (middle, first, -1))
        self.released_outside = {
            key
            for index, part in enumerate(parts)
            if not self._inside(index)
            for key, code, _ in part.events
            if code == RELEASE
        }

    def _stretch(self, name: str, phases: tuple[str, ...], edges: tuple[int, int, int]) -> _Stretch | None:
        """Finds the parts of both stretches; `edges`: first layers of the one that runs first, of the other, and of
        what follows (in backward -1: whatever lies before the window)."""
        window = self.window
        inside = range(window.start, window.start + 2 * window.period)
        places = [index for index, part in enumerate(self.parts) if part.phase in phases]
        begins = next((i for i in places if self.parts[i].layer in inside), None)
        if begins is None:
            return None
        second = range(edges[1], edges[1] + window.period)
        turn = next((i for i in places if i > begins and self.parts[i].layer in second), None)

        def beyond(layer: int | None) -> bool:
            return layer is not None and (layer >= inside.stop if edges[2] >= 0 else layer < inside.start)

        ends = next((i for i in places if turn is not None and i > turn and beyond(self.parts[i].layer)), None)
        if turn is None or ends is None:
            raise Uncuttable("a stretch of layers has no neighbours to tell it apart from")
        found = _Stretch(name, begins, ends, self.parts[begins].phase)
        runs_first = [event for part in self.parts[begins:turn] for event in part.events]
        runs_next = [event for part in self.parts[turn:ends] for event in part.events]
        a, b = (runs_first, runs_next) if name == "F" else (runs_next, runs_first)
        self._align(found, a, b)
        return found

    def _inside(self, index: int) -> bool:
        return any(s is not None and s.begins <= index < s.ends for s in (self.forward, self.backward))

    def _align(self, stretch: _Stretch, a: list[Event], b: list[Event]) -> None:
        """Lays the events of A and B side by side."""
        made_inside = {event[0] for event in (*a, *b) if event[1] >= 0}
        if self.forward_keys():
            made_inside |= self.forward_keys()
        i = j = 0
        while i < len(a) or j < len(b):
            left = a[i] if i < len(a) else None
            right = b[j] if j < len(b) else None
            if left is not None and right is not None and self._equal(left, right, made_inside):
                if left[1] >= 0:
                    stretch.of_a[left[0]] = stretch.of_b[right[0]] = len(stretch.pairs)
                stretch.pairs.append((left, right))
                i, j = i + 1, j + 1
            elif left is not None and left[1] < 0 and left[0] not in made_inside:
                stretch.pairs.append((left, None))
                i += 1
            elif right is not None and right[1] < 0 and right[0] not in made_inside:
                stretch.pairs.append((None, right))
                j += 1
            else:
                raise Uncuttable("two layers of one kind allocate differently")

    def forward_keys(self) -> set[int]:
        """Keys that the stretch makes in forward, once that is known."""
        forward = getattr(self, "forward", None)
        return set() if forward is None else {*forward.of_a, *forward.of_b}

    def _equal(self, left: Event, right: Event, made_inside: set[int]) -> bool:
        """Whether both do the same; what comes from a layer of another kind may be there for something else."""
        one, other = self._kind(left), self._kind(right)
        if one == other or one[:2] != other[:2] or left[1] >= 0:
            return one == other
        return (left[0] in made_inside) != (right[0] in made_inside)

    def _kind(self, event: Event) -> tuple[int, int, int]:
        key, code, component = event
        return (0, code, component) if code >= 0 else (code, self.codes[key], self.components[key])

    def _key(self, place: Place) -> int:
        if place not in self.keys:
            self.keys[place] = self.next_key
            self.next_key += 1
        return self.keys[place]

    # ---- telling ---------------------------------------------------------------------------------------------------

    def run(self) -> tuple[Part, ...]:
        told: list[Part] = []
        index = 0
        while index < len(self.parts):
            stretch = next((s for s in (self.forward, self.backward) if s is not None and s.begins == index), None)
            if stretch is None:
                part = self.parts[index]
                told.append(
                    Part(part.phase, part.layer, tuple(e for event in part.events for e in self._outside(event)))
                )
                index += 1
                continue
            order = range(self.copies) if stretch.name == "F" else range(self.copies - 1, -1, -1)
            for copy in order:
                told.append(Part(stretch.phase, self.window.start, tuple(self._copy(stretch, copy))))
            index = stretch.ends
        return tuple(told)

    def _copy(self, stretch: _Stretch, copy: int) -> list[Event]:
        told: list[Event] = []
        for slot, (a, b) in enumerate(stretch.pairs):
            event = a if copy == 0 else b
            if a is None or b is None:
                event = a if copy == 0 else b if copy == self.copies - 1 else None
            elif a[1] >= 0:
                told.append((self._key((stretch.name, copy, slot)), a[1], a[2]))
                continue
            if event is None:
                continue
            key = self._released(a, b, copy)
            if key is not None:
                told.append((key, event[1], event[2]))
        return told

    def _released(self, a: Event | None, b: Event | None, copy: int) -> int | None:
        """Which key the copy releases where A releases a's and B releases b's; None: none."""
        if copy == 0 and a is not None:
            return self._named(a[0], 0)
        if copy == self.copies - 1 and b is not None:
            return self._named(b[0], self.copies - 2)
        assert a is not None
        assert b is not None
        if self._origin(a[0]) is None and self._origin(b[0]) is None:
            if a[0] == b[0]:
                return None
            raise Uncuttable("each layer lets go of something that was made before the layers")
        # Where one end releases what came from outside, the other end shows what a copy in between releases.
        if self._origin(b[0]) is None:
            return self._named(a[0], copy)
        if self._origin(a[0]) is None and self._origin(b[0]) == "b":
            raise Uncuttable("one layer lets go of what was made before the layers where another lets go of its own")
        return self._named(b[0], copy - 1)

    def _origin(self, key: int) -> str | None:
        """Which of the two stretches made the key: "a", "b", or None of them."""
        for stretch in (self.forward, self.backward):
            if stretch is not None and key in stretch.of_a:
                return "a"
            if stretch is not None and key in stretch.of_b:
                return "b"
        return None

    def _named(self, key: int, copy_of_a: int) -> int:
        """The key where A is copy `copy_of_a` and B the next one."""
        for stretch in (self.forward, self.backward):
            if stretch is not None and key in stretch.of_a:
                return self._key((stretch.name, copy_of_a, stretch.of_a[key]))
            if stretch is not None and key in stretch.of_b:
                return self._key((stretch.name, copy_of_a + 1, stretch.of_b[key]))
        return key

    def _outside(self, event: Event) -> list[Event]:
        """An event outside the stretches: what one copy left behind, all did."""
        key, code, component = event
        if code >= 0:
            return [event]
        for stretch in (self.forward, self.backward):
            if stretch is None:
                continue
            if key in stretch.of_b:
                return [(self._key((stretch.name, self.copies - 1, stretch.of_b[key])), code, component)]
            if key in stretch.of_a:
                slot = stretch.of_a[key]
                b = stretch.pairs[slot][1]
                assert b is not None
                both = b[0] in self.released_outside
                copies = range(self.copies - 1) if both else range(1)
                return [(self._key((stretch.name, copy, slot)), code, component) for copy in copies]
        return [event]
