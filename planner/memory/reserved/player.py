"""Plays a run's allocations through the model of the caching allocator.

An event is (key, bytes) for an allocation under a key of its own, (key, -1) for its release. The small pool (half of
the allocations, under a hundredth of the bytes) is counted rather than played: its blocks are never larger than asked
for, so what is allocated is exact, and what it reserves is the largest sum of them in whole segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from planner.memory.reserved.allocator import SMALL_LIMIT, Block, CachingAllocator, Step, rounded

Event = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Passage:
    """Events up to the next mark: the large pool's one by one, and what the small pool does after the last of them."""

    large: list[Step] = field(default_factory=list)
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
    def of(cls, events: Iterable[Event]) -> PreparedEvents:
        """Of events whose keys below 0 are marks."""
        passages: list[_Passage] = []
        steps: list[Step] = []
        alive: dict[int, int] = {}  # bytes in the small pool; 0 for the large one
        change = most = 0
        for key, size in events:
            if key < 0:
                passages.append(_Passage(steps, change, most, key))
                steps, change, most = [], 0, 0
            elif size > SMALL_LIMIT:
                alive[key] = 0
                steps.append((change, most, key, rounded(size)))
                change = most = 0
            elif size >= 0:
                alive[key] = size = rounded(size) if size else 0
                change += size
                most = max(most, change)
            elif alive.get(key):
                change -= alive.pop(key)
            else:
                alive.pop(key, None)
                steps.append((change, most, key, 0))
                change = most = 0
        passages.append(_Passage(steps, change, most))
        return cls(passages, list(alive), {key: size for key, size in alive.items() if size})


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

    def forget_peak(self) -> None:
        """The largest allocated sum is sought from here on."""
        self.pool.allocated_peak = self.allocated

    def play(self, events: Iterable[Event]) -> None:
        """Every event in its order."""
        self.repeat(PreparedEvents.of(events))

    def repeat(self, log: PreparedEvents, at_mark: Callable[[int], None] | None = None) -> None:
        """The events of `log`, and `at_mark` at its marks."""
        pool = self.pool
        for passage in log.passages:
            now = pool.run(passage.large, self._held, self._small, now=self._small_now)
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
