"""Plays a run's allocations through the model of the caching allocator.

An event is (key, bytes) for an allocation under a key of its own, (key, -1) for its release. The small pool (half of
the allocations, under a hundredth of the bytes) is counted rather than played: its blocks are never larger than asked
for, so what is allocated is exact, and what it reserves is the largest sum of them in whole segments.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.memory.reserved.allocator import SMALL_LIMIT, SMALL_SEGMENT, CachingAllocator, rounded

Event = tuple[int, int]


class Player:
    """Allocated and reserved bytes, small pool included, after any number of events.

    `allocated_peak` and `reserved_peak` are the largest so far (`forget_peak` begins anew). Raises `OutOfMemory` where
    `limit` bytes do not suffice.
    """

    def __init__(self, *, expandable_segments: bool = False, limit: int | None = None) -> None:
        self.pool = CachingAllocator(expandable_segments=expandable_segments, limit=limit)
        self.allocated_peak = 0
        self._held: dict[int, int] = {}
        self._small: dict[int, int] = {}
        self._small_now = 0

    @property
    def allocated(self) -> int:
        """Bytes of all blocks in use."""
        return self.pool.allocated + self._small_now

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

    def forget_peak(self) -> None:
        """The largest allocated sum is sought from here on."""
        self.allocated_peak = self.allocated

    def play(self, events: Iterable[Event]) -> None:
        """Every event in its order."""
        pool, held, small = self.pool, self._held, self._small
        now, peak = self._small_now, self.allocated_peak
        for key, size in events:
            if size > SMALL_LIMIT:
                held[key] = pool.allocate(size)
                if pool.allocated + now > peak:
                    peak = pool.allocated + now
            elif size > 0:
                small[key] = size = rounded(size)
                now += size
                if now > pool.aside:
                    pool.set_aside(-(-now // SMALL_SEGMENT) * SMALL_SEGMENT)
                if pool.allocated + now > peak:
                    peak = pool.allocated + now
            elif size < 0:
                handle = held.pop(key, None)
                if handle is not None:
                    pool.release(handle)
                else:
                    now -= small.pop(key, 0)
        self._small_now, self.allocated_peak = now, peak

    def release(self, keys: Iterable[int]) -> None:
        """Gives back what still lives of these keys, in their order."""
        self.play((key, -1) for key in keys)
