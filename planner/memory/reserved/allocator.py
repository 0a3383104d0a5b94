"""A model of PyTorch's CUDA caching allocator: what it reserves for a given sequence of allocations and releases.

Rules (PyTorch c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h, read 2026-11):
blocks are rounded up to 512 B; up to 1 MiB they come from the small pool, whose segments are 2 MiB; from 1 MiB to
10 MiB from segments of 20 MiB; larger ones get a segment of their own size rounded up to 2 MiB. A free block is taken
best fit within its pool; what is left over is split off (small pool: 512 B or more, large pool: more than 1 MiB).
Neighbouring free blocks of a segment merge. With expandable segments a pool is one range that grows by 2 MiB (small) or
20 MiB (large) pages. Segments are given back only when memory runs out: then all that are wholly free go, and the
request is tried once more.

Of free blocks of one size the one at the lowest address is taken, and new segments lie below older ones: on a T4 (rows
of tests/cases/measured_t4.json) that gives reserved bytes to 0.1 % where upward addresses are 3 to 9 % off. Where a
driver places segments is not documented.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from planner.contract.units import MIB

BLOCK = 512
SMALL_LIMIT = 1 * MIB
SMALL_SEGMENT = 2 * MIB
MIDDLE_LIMIT = 10 * MIB
MIDDLE_SEGMENT = 20 * MIB
LARGE_ROUND = 2 * MIB
SPLIT_LARGE_ABOVE = 1 * MIB


def rounded(size: int) -> int:
    """Bytes a block takes for a request of `size` bytes."""
    return BLOCK if size < BLOCK else -(-size // BLOCK) * BLOCK


def segment_size(block: int) -> int:
    """Bytes of the segment that is requested for a block that fits nowhere."""
    if block <= SMALL_LIMIT:
        return SMALL_SEGMENT
    if block < MIDDLE_LIMIT:
        return MIDDLE_SEGMENT
    return -(-block // LARGE_ROUND) * LARGE_ROUND


class OutOfMemory(Exception):
    """The request does not fit below the limit, even with every wholly free segment given back."""


class _Block:
    """A stretch of a segment, in a doubly linked list of its neighbours."""

    __slots__ = ("address", "free", "next", "previous", "size", "small")

    def __init__(self, address: int, size: int, small: bool) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.free = True
        self.previous: _Block | None = None
        self.next: _Block | None = None


class CachingAllocator:
    """Allocated and reserved bytes under a sequence of `allocate` and `release`."""

    def __init__(self, *, expandable_segments: bool = False, limit: int | None = None) -> None:
        self.limit = limit
        """Bytes that may be reserved; None for no limit."""
        self.flushes = 0
        """How often free segments had to be given back."""
        self.expandable = expandable_segments
        self.allocated = 0
        self.reserved = 0
        self.aside = 0
        """Bytes of segments that are counted elsewhere (`set_aside`)."""
        self.allocated_peak = 0
        self.reserved_peak = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._at: dict[int, _Block] = {}
        self._next_address = 1 << 59
        self._tail: dict[bool, _Block | None] = {True: None, False: None}

    def allocate(self, size: int) -> int:
        """Takes `size` bytes; returns the handle to release them by. Nothing is taken for 0 bytes (handle -1)."""
        if size <= 0:
            return -1
        need = rounded(size)
        small = need <= SMALL_LIMIT
        block = self._best_fit(need, small) or self._grow(need, small)
        left = block.size - need
        if left >= BLOCK if small or self.expandable else left > SPLIT_LARGE_ABOVE:
            self._split(block, need)
        block.free = False
        self.allocated += block.size
        self.allocated_peak = max(self.allocated_peak, self.allocated)
        return block.address

    def release(self, handle: int) -> None:
        """Gives a block back to its pool and merges it with free neighbours."""
        if handle < 0:
            return
        block = self._at[handle]
        self.allocated -= block.size
        block.free = True
        before, after = block.previous, block.next
        if after is not None and after.free:
            self._take_from_pool(after)
            self._merge(block, after)
        if before is not None and before.free:
            self._take_from_pool(before)
            block = self._merge(before, block)
        insort(self._free[block.small], (block.size, block.address))

    def state(self) -> object:
        """Equal where every later request goes the same way, as far as the same blocks are in use."""
        return (tuple(self._free[True]), tuple(self._free[False]), self.allocated, self.reserved, self.aside)

    def segments(self) -> list[tuple[bool, list[tuple[int, int, bool]]]]:
        """Segments by address: (small pool?, its blocks as (address, bytes, free?))."""
        found = []
        for block in sorted(self._at.values(), key=lambda b: b.address):
            if block.previous is None:
                parts: list[tuple[int, int, bool]] = []
                part: _Block | None = block
                while part is not None:
                    parts.append((part.address, part.size, part.free))
                    part = part.next
                found.append((block.small, parts))
        return found

    def _best_fit(self, need: int, small: bool) -> _Block | None:
        pool = self._free[small]
        position = bisect_left(pool, (need, -1))
        if position == len(pool):
            return None
        return self._at[pool.pop(position)[1]]

    def _grow(self, need: int, small: bool) -> _Block:
        if self.expandable:
            return self._extend(need, small)
        size = segment_size(need)
        if self._exceeds(size):
            self._flush()
        self._reserve(size)
        self._next_address -= size + BLOCK  # a gap, so that segments never merge
        block = _Block(self._next_address, size, small)
        self._at[block.address] = block
        return block

    def _extend(self, need: int, small: bool) -> _Block:
        page = SMALL_SEGMENT if small else MIDDLE_SEGMENT
        tail = self._tail[small]
        have = tail.size if tail is not None and tail.free else 0
        more = -(-(need - have) // page) * page
        if self._exceeds(more):
            self._flush()
            tail = self._tail[small]  # a free tail that was all of its range is gone
            have = tail.size if tail is not None and tail.free else 0
            more = -(-(need - have) // page) * page
        self._reserve(more)
        if tail is not None and tail.free:
            self._take_from_pool(tail)
            tail.size += more
            return tail
        start = (1 << 60 if small else 0) if tail is None else tail.address + tail.size
        block = _Block(start, more, small)
        block.previous = tail
        if tail is not None:
            tail.next = block
        self._at[start] = block
        self._tail[small] = block
        return block

    def _exceeds(self, size: int) -> bool:
        return self.limit is not None and self.reserved + self.aside + size > self.limit

    def _reserve(self, size: int) -> None:
        if self._exceeds(size):
            raise OutOfMemory
        self.reserved += size
        self.reserved_peak = max(self.reserved_peak, self.reserved + self.aside)

    def set_aside(self, size: int) -> None:
        """Counts segments of `size` bytes that stand beside those of this model (a pool that is not played)."""
        if self._exceeds(size - self.aside):
            self._flush()
        if self._exceeds(size - self.aside):
            raise OutOfMemory
        self.aside = size
        self.reserved_peak = max(self.reserved_peak, self.reserved + self.aside)

    def _flush(self) -> None:
        """Gives every wholly free segment back to the device."""
        self.flushes += 1
        for small, pool in self._free.items():
            kept = []
            for size, address in pool:
                block = self._at[address]
                if block.previous is None and block.next is None:
                    del self._at[address]
                    self.reserved -= size
                    if self._tail[small] is block:
                        self._tail[small] = None
                else:
                    kept.append((size, address))
            self._free[small] = kept

    def _split(self, block: _Block, need: int) -> None:
        rest = _Block(block.address + need, block.size - need, block.small)
        rest.previous, rest.next = block, block.next
        if block.next is not None:
            block.next.previous = rest
        block.next = rest
        block.size = need
        self._at[rest.address] = rest
        insort(self._free[rest.small], (rest.size, rest.address))
        if self._tail[block.small] is block:
            self._tail[block.small] = rest

    def _take_from_pool(self, block: _Block) -> None:
        pool = self._free[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]

    def _merge(self, left: _Block, right: _Block) -> _Block:
        left.size += right.size
        left.next = right.next
        if right.next is not None:
            right.next.previous = left
        del self._at[right.address]
        if self._tail[left.small] is right:
            self._tail[left.small] = left
        left.free = True
        return left


__all__ = ["CachingAllocator", "OutOfMemory", "rounded", "segment_size"]
