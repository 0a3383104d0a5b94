"""Plays a run's allocations through the model of the caching allocator.

An event is (key, bytes) for an allocation under a key of its own, (key, -1) for its release. The small pool (half of
the allocations, under a hundredth of the bytes) is counted rather than played: its blocks are never larger than asked
for, so what is allocated is exact, and what it reserves is the largest sum of them in whole segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from planner.memory.engine.unroll import Copies, Event
from planner.memory.reserved.allocator import BLOCK, SMALL_LIMIT, SMALL_SEGMENT, Block, CachingAllocator, Step, rounded

NOTHING = 1 << 60
"""A key of nothing, whatever is added to it: its release is a step that only sees what is counted beside it."""
ONCE = (0,)


@dataclass(frozen=True, slots=True)
class _Passage:
    """Events up to the next mark: the large pool's one by one, and what the small pool does after the last of them."""

    large: list[tuple[list[Step], Sequence[int]]]
    """Steps, and what is added to their keys time after time."""
    change: int = 0
    most: int = 0
    mark: int = 0
    """The mark at its end; 0 for none."""


@dataclass(frozen=True, slots=True)
class PreparedEvents:
    """Events that are played more than once, with everything told beforehand that does not hang on the allocator."""

    passages: list[_Passage]
    left: list[int]
    """Keys of what the events leave behind, in the order of its birth."""
    small: dict[int, int]
    """Bytes of what they leave behind in the small pool."""

    @classmethod
    def of(cls, events: Iterable[Event | Copies]) -> PreparedEvents:
        """Of events whose keys below 0 are marks."""
        told, start, items = _Telling(), 0, list(events)
        for place in [place for place, item in enumerate(items) if type(item) is Copies]:
            told.once(items[start:place])  # type: ignore[arg-type]
            told.often(items[place])  # type: ignore[arg-type]
            start = place + 1
        told.once(items[start:])  # type: ignore[arg-type]
        told.end()
        alive = told.alive
        return cls(told.passages, list(alive), {key: size for key, size in alive.items() if size})


class _Telling:
    """Turns events into steps of the large pool, with what the small one does between them."""

    def __init__(self) -> None:
        self.passages: list[_Passage] = []
        self.alive: dict[int, int] = {}
        """By key: bytes in the small pool; 0 for the large one."""
        self._runs: list[tuple[list[Step], Sequence[int]]] = []
        self._change = self._most = 0
        self._copied: dict[int, int] = {}
        """The same of what the copies of a stretch make, by key in strides."""
        self._stride = 1

    def once(self, events: Iterable[Event]) -> None:
        """Events in their order."""
        steps: list[Step] = []
        alive, change, most = self.alive, self._change, self._most
        for key, size in events:
            if key < 0:
                self._runs.append((steps, ONCE))
                self._change, self._most = change, most
                self.end(key)
                steps, change, most = [], 0, 0
            elif size > SMALL_LIMIT:
                alive[key] = 0
                steps.append((change, most, key, -(-size // BLOCK) * BLOCK))
                change = most = 0
            elif size >= 0:
                alive[key] = size = rounded(size) if size else 0
                change += size
                if change > most:
                    most = change
            else:
                small = alive.pop(key, None)
                if small is None:
                    small = self._copied.get(key // self._stride)
                if small:
                    change -= small
                elif steps and not change and not most and steps[-1][2] == key and steps[-1][3] > 0:
                    steps[-1] = (*steps[-1][:3], -steps[-1][3])
                else:
                    steps.append((change, most, key, 0))
                    change = most = 0
        self._runs.append((steps, ONCE))
        self._change, self._most = change, most

    def often(self, stretch: Copies) -> None:
        """The events of a stretch: as steps once, however often they happen."""
        first, self._stride = stretch.shifts[0], stretch.stride
        sizes = {key: rounded(size) if size <= SMALL_LIMIT else 0 for key, size in stretch.events if size > 0}
        self._copied.update({(key + first) // self._stride: size for key, size in sizes.items()})
        one = _Telling()
        one._copied, one._stride = self._copied, self._stride
        # The first copy, which meets the marks, is none of these: here a mark is a place where nothing happens.
        one.once([(key + first, size) if key >= 0 else (NOTHING, -1) for key, size in stretch.events])
        self._repeat(one, [shift - first for shift in stretch.shifts])
        for key, size in stretch.events:
            if size < 0 <= key and key not in sizes:
                for shift in stretch.shifts:
                    self.alive.pop(key + shift, None)
        for shift in stretch.shifts:
            self.alive.update({key + shift: sizes.get(key, 0) for key in stretch.left})

    def _repeat(self, one: _Telling, shifts: Sequence[int]) -> None:
        """What `one` tells, for each of `shifts`."""
        steps = [step for run, _ in one._runs for step in run]
        before, after = (self._change, self._most), (one._change, one._most)
        if steps:
            self._runs += [(_joined(before, steps), shifts[:1]), (_joined(after, steps), shifts[1:])]
            self._change, self._most = after
            return
        for _ in shifts:
            self._change, self._most = self._change + after[0], max(self._most, self._change + after[1])

    def end(self, mark: int = 0) -> None:
        """A passage ends, at a mark or where the events do."""
        runs = [(steps, shifts) for steps, shifts in self._runs if steps and shifts]
        self.passages.append(_Passage(runs, self._change, self._most, mark))
        self._runs, self._change, self._most = [], 0, 0


def _joined(before: tuple[int, int], steps: list[Step]) -> list[Step]:
    """The steps after `before` has happened in the small pool."""
    change, most = before
    own_change, own_most, key, need = steps[0]
    return [(change + own_change, max(most, change + own_most), key, need), *steps[1:]]


class Player:
    """Allocated and reserved bytes, small pool included, after any number of events.

    `allocated_peak` and `reserved_peak` are the largest so far (`forget_peak` begins anew). Raises `OutOfMemory` where
    `limit` bytes do not suffice.
    """

    def __init__(
        self, *, expandable_segments: bool = False, limit: int | None = None, collect_above: int | None = None
    ) -> None:
        self.pool = CachingAllocator(expandable_segments=expandable_segments, limit=limit, collect_above=collect_above)
        self._held: dict[int, Block] = {}
        self._small: dict[int, int] = {}
        self._small_now = 0

    @property
    def allocated(self) -> int:
        """Bytes of all blocks in use."""
        return self.pool.allocated + self._small_now

    @property
    def allocated_peak(self) -> int:
        """Largest sum of all blocks in use."""
        return self.pool.allocated_peak

    @property
    def reserved_peak(self) -> int:
        """Largest sum of all segments."""
        return self.pool.reserved_peak

    @property
    def flushes(self) -> int:
        """How often free segments had to be given back."""
        return self.pool.flushes

    def state(self) -> object:
        """Equal where the same events, with the same blocks alive, would go the same way."""
        return (self.pool.state(), self._small_now)

    @property
    def small(self) -> int:
        """Bytes of the small pool's blocks in use."""
        return self._small_now

    def has_room(self, small: int) -> bool:
        """Whether the small pool can come to hold so much with no segment given back for it."""
        pool = self.pool
        segments = -(-small // SMALL_SEGMENT) * SMALL_SEGMENT
        return pool.collect_above is None and (pool.limit is None or pool.reserved + segments <= pool.limit)

    def count(self, left: dict[int, int], *, allocated: int, small: int) -> None:
        """Events that need no playing since the large pool is known to be as it was after them.

        `left`: what they leave behind in the small pool; `allocated` and `small`: the most blocks in use meanwhile, of
        both pools and of the small one, over what the small one holds once `left` is there.
        """
        self._small.update(left)
        self._small_now += sum(left.values())
        if self._small_now + small > self.pool.aside:
            self.pool.set_aside(self._small_now + small)
        self.pool.allocated_peak = max(self.pool.allocated_peak, self._small_now + allocated)

    def forget_peak(self) -> None:
        """The largest allocated sum is sought from here on."""
        self.pool.allocated_peak = self.allocated

    def play(self, events: Iterable[Event | Copies]) -> None:
        """Every event in its order."""
        self.repeat(PreparedEvents.of(events))

    def repeat(self, log: PreparedEvents, at_mark: Callable[[int], None] | None = None) -> None:
        """The events of `log`, and `at_mark` at its marks."""
        pool = self.pool
        for passage in log.passages:
            now = self._small_now
            for steps, shifts in passage.large:
                for shift in shifts:
                    now = pool.run(steps, self._held, self._small, now=now, shift=shift)
            if now + passage.most > pool.aside:
                pool.set_aside(now + passage.most)
            pool.allocated_peak = max(pool.allocated_peak, pool.allocated + now + passage.most)
            self._small_now = now + passage.change
            if passage.mark and at_mark is not None:
                at_mark(passage.mark)
        self._small.update(log.small)

    def release(self, keys: Iterable[int]) -> None:
        """Gives back what still lives of these keys, in their order."""
        self.play((key, -1) for key in keys)

    def give_back(self) -> None:
        """Free segments go back to the device (`torch.cuda.empty_cache`)."""
        self.pool.give_back()
