"""The books of a step: bytes that are live, by component, event by event; and stretches of layers that repeat.

Nothing here knows what a tensor is or how autograd runs: a storage tells that it grows and that it goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from planner.memory.engine.monomials import WIDTH, ZERO, Vector, add, times_copies

FORWARD_LIBRARY, BACKWARD_LIBRARY, UPDATE = -1, -2, -3
"""Marks in a log: the first matrix product of the forward and of the backward pass, for which cuBLAS takes a workspace
(one for each of PyTorch's threads, which stays), and the beginning of the update."""

EVERY = (-1, -1)
"""Watches every event."""

Snapshot = tuple[Vector, dict[str, Vector]]
"""What is live, in total and by component."""


class Segment:
    """Events of one stretch that repeats: recorded once, valid again at each of `offsets`."""

    __slots__ = ("events", "group", "log", "name", "offsets", "parts")

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Vector] = []
        self.offsets: list[Vector] = [ZERO]
        self.parts: list[dict[str, Vector]] = [{}]
        """The offsets by component."""
        self.group = 0
        """The repeated stretch that runs here, forward or backward; 0 for none."""
        self.log: list[tuple[int, int]] = []
        """(number, bytes) of an allocation, (number of the allocation, -1) of its release."""


class LayerGroup:
    """Bookkeeping of one repeated stretch."""

    __slots__ = ("common", "copies", "copies_per_n", "entered", "index", "segment")

    def __init__(self, index: int, copies: int, copies_per_n: int) -> None:
        self.index = index
        self.copies = copies
        self.copies_per_n = copies_per_n
        self.entered: Snapshot | None = None
        self.segment: Segment | None = None
        self.common: list[tuple[int, int, str, int]] = []
        """What all copies share and backward lets go of here: once, with the last copy (arguments of `shrink`)."""


class Ledger:
    """Live bytes and their history."""

    def __init__(self, watch: tuple[int, int] | None = None, log_values: Sequence[float] | None = None) -> None:
        self.log_values = log_values
        """Where set: the monomials' values at which every allocation and release is logged instead of counted."""
        self.allocations = 0
        self.noted: set[int] = set()
        """Marks that stand in the log."""
        self.live = [0] * (2 * WIDTH)
        self.by_component: dict[str, list[int]] = {}
        self.instant = "load"
        self.segments: list[Segment] = [Segment("load")]
        self.watch = watch
        """(segment, event) whose live bytes by component are kept in `watched`; `EVERY` keeps all in `history`."""
        self.history: list[list[dict[str, Vector]]] | None = [[]] if watch == EVERY else None
        """By segment, the live bytes by component at each of its events."""
        self.watched: dict[str, list[int]] | None = None
        self.silent = False
        """Whether allocations count without being events."""
        self.closed = False
        """Whether the step is over: what goes now is nobody's business."""
        self.layer = 0
        """The repeated stretch that runs in forward; 0 for none."""
        self.outside = True
        """Whether what is allocated now is made in forward, outside every repeated stretch."""
        self.groups: list[LayerGroup] = []
        self.running: LayerGroup | None = None
        """The repeated stretch whose backward runs."""

    def note(self, mark: int) -> None:
        """Writes a mark into the log, once: a key below 0 that is no allocation."""
        if self.log_values is not None and mark not in self.noted:
            self.noted.add(mark)
            self.segments[-1].log.append((mark, 0))

    def product(self) -> None:
        """A matrix product begins, its result allocated."""
        self.note(BACKWARD_LIBRARY if self.instant == "backward" else FORWARD_LIBRARY)

    def grow(self, monomial: int, size: int, component: str) -> int:
        """An allocation: counts it and records what is live now; its number in the log, if one is kept."""
        if self.log_values is not None:
            self.allocations += 1
            self.segments[-1].log.append((self.allocations, round(size * self.log_values[monomial])))
            return self.allocations
        self.live[monomial] += size
        counts = self.by_component.get(component)
        if counts is None:
            counts = self.by_component[component] = [0] * (2 * WIDTH)
        counts[monomial] += size
        if not self.silent:
            self.mark()
        return 0

    def shrink(self, monomial: int, size: int, component: str, key: int) -> None:
        """A release."""
        if self.closed:
            return
        if self.log_values is not None:
            self.segments[-1].log.append((key, -1))
            return
        self.live[monomial] -= size
        self.by_component[component][monomial] -= size

    def move(self, monomial: int, size: int, old: str, new: str) -> None:
        """Counts `size` bytes for another component from now on."""
        self.by_component[old][monomial] -= size
        counts = self.by_component.setdefault(new, [0] * (2 * WIDTH))
        counts[monomial] += size

    def shift(self, delta: Sequence[int], by_component: dict[str, Vector]) -> None:
        """Adds the bytes that the copies of a repeated stretch hold, without an event of their own."""
        for index, value in enumerate(delta):
            self.live[index] += value
        for name, values in by_component.items():
            counts = self.by_component.setdefault(name, [0] * (2 * WIDTH))
            for index, value in enumerate(values):
                counts[index] += value

    def begin(self, instant: str) -> None:
        """Starts a segment whose events belong to `instant`."""
        self.instant = instant
        self.segments.append(Segment(instant))
        if self.history is not None:
            self.history.append([])

    def mark(self) -> None:
        """An event: what is live now counts for the current instant."""
        events = self.segments[-1].events
        events.append(tuple(self.live))
        if self.watch is not None and self.watch == (len(self.segments) - 1, len(events) - 1):
            self.watched = {name: list(values) for name, values in self.by_component.items()}
        if self.history is not None:
            self.history[-1].append({name: tuple(values) for name, values in self.by_component.items()})

    @contextmanager
    def silence(self) -> Iterator[None]:
        """What is allocated inside counts from the next event on."""
        previous, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = previous

    def snapshot(self) -> Snapshot:
        """What is live now, in total and by component."""
        return tuple(self.live), {name: tuple(values) for name, values in self.by_component.items()}

    # ---- repeated layers -------------------------------------------------------------------------------------------

    @contextmanager
    def group(self, copies: int, copies_per_n: int = 0) -> Iterator[None]:
        """A stretch of layers that stands for `copies + copies_per_n · N` equal ones, run once.

        What one copy leaves behind is added for the others; the events of the last copy in forward and of the first
        and the last in backward are the extremes, since live bytes change by the same amount from copy to copy.
        """
        group = LayerGroup(len(self.groups) + 1, copies, copies_per_n)
        self.groups.append(group)
        previous, self.layer = self.layer, group.index
        outside, self.outside = self.outside, False
        instant = self.instant
        before = self.snapshot()
        self.begin(instant)
        segment = self.segments[-1]
        segment.group = group.index
        yield
        self._repeat(segment, before, copies - 1, copies_per_n)
        self.layer, self.outside = previous, outside
        self.begin(instant)

    def cross(self, old: int, new: int) -> None:
        """Backward leaves the stretch `old` and enters `new` (0: none)."""
        if old == new:
            return
        if old:
            group = self.groups[old - 1]
            assert group.entered is not None
            assert group.segment is not None
            self._repeat(group.segment, group.entered, group.copies - 1, group.copies_per_n)
        self.begin(self.instant)
        self.running = None
        if old:
            for common in self.groups[old - 1].common:
                self.shrink(*common)
        if new:
            group = self.running = self.groups[new - 1]
            group.entered = self.snapshot()
            group.segment = self.segments[-1]
            group.segment.group = new

    def release_copies(self, index: int, monomial: int, size: int, component: str) -> None:
        """What every copy of the stretch `index` held goes: for the copies that stand for the one that was run."""
        group = self.groups[index - 1]
        freed = [0] * (2 * WIDTH)
        freed[monomial] = -size
        gone = times_copies(tuple(freed), group.copies - 1, group.copies_per_n)
        self.shift(gone, {component: gone})

    def _repeat(self, segment: Segment, before: Snapshot, copies: int, copies_per_n: int) -> None:
        """Counts what changed since `before` for a stretch's other copies, and its events once more with it."""
        change, parts = _difference(self.snapshot(), before)
        offset = times_copies(change, copies, copies_per_n)
        moved = {name: times_copies(values, copies, copies_per_n) for name, values in parts.items()}
        segment.offsets.append(offset)
        segment.parts.append(moved)
        self.shift(offset, moved)


def _difference(after: Snapshot, before: Snapshot) -> Snapshot:
    parts = {name: add(values, before[1].get(name, ZERO), -1) for name, values in after[1].items()}
    return add(after[0], before[0], -1), {name: values for name, values in parts.items() if any(values)}
