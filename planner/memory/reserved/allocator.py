"""A model of PyTorch's CUDA caching allocator: what it reserves for a given sequence of allocations and releases.

Rules (PyTorch c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h, read 2026-11):
blocks are rounded up to 512 B; up to 1 MiB they come from the small pool, whose segments are 2 MiB; from 1 MiB to
10 MiB from segments of 20 MiB; larger ones get a segment of their own size rounded up to 2 MiB. A free block is taken
best fit within its pool; what is left over is split off (small pool: 512 B or more, large pool: more than 1 MiB).
Neighbouring free blocks of a segment merge. With expandable segments a pool is one range that grows by 2 MiB (small) or
20 MiB (large) pages. Segments are given back when memory runs out: then all that are wholly free go, and the request is
tried once more.

With `garbage_collection_threshold` they are given back earlier (`garbage_collect_cached_blocks`): before a segment is
asked for while more than that share of what the process may hold is reserved, wholly free segments of the large pool go
whose age, in requests to the pool since they were last taken, is their mean age or more, round after round until enough
has gone. Nothing of it happens to segments that expand, nor where the process has no share of the card set
(`set_per_process_memory_fraction` below 1): without one PyTorch knows no bytes that it may hold.

Of free blocks of one size the one at the lowest address is taken, and new segments lie below older ones: on a T4 (rows
of tests/cases/measured_t4.json) that gives reserved bytes to 0.1 % where upward addresses are 3 to 9 % off. Where a
driver places segments is not documented.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from planner.contract.units import MIB

BLOCK = 512
SMALL_LIMIT = 1 * MIB
SMALL_SEGMENT = 2 * MIB
MIDDLE_LIMIT = 10 * MIB
MIDDLE_SEGMENT = 20 * MIB
LARGE_ROUND = 2 * MIB
SPLIT_LARGE_ABOVE = 1 * MIB
SIZE_SHIFT = 64
"""Bits of an address in the number by which free blocks are in order (`Block.place`)."""


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


class Block:
    """A stretch of a segment, in a doubly linked list of its neighbours."""

    __slots__ = ("address", "free", "next", "place", "previous", "since", "size", "small")

    def __init__(self, address: int, size: int, small: bool) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.free = True
        self.place = 0
        """Size and, in the lower bits, address, while it is free in a pool: two numbers would be slower to compare."""
        self.since = 0
        """Requests to its pool before it came to lie there."""
        self.previous: Block | None = None
        self.next: Block | None = None


Step = tuple[int, int, int, int]
"""What a pool does: change and largest sum, since the step before, of the bytes that are counted beside it; the block's
key; the bytes it takes (rounded), 0 for its release, or below 0 those that it takes and gives back at once."""


class _Pool:
    """All that is free in a pool: the smallest first, of one size the one at the lowest address."""

    __slots__ = ("blocks", "places")

    def __init__(self) -> None:
        self.places: list[int] = []
        """`Block.place` of each, ascending."""
        self.blocks: list[Block] = []

    def add(self, block: Block) -> None:
        block.place = block.size << SIZE_SHIFT | block.address
        at = bisect_left(self.places, block.place)
        self.places.insert(at, block.place)
        self.blocks.insert(at, block)

    def remove(self, block: Block) -> None:
        at = bisect_left(self.places, block.place)
        del self.places[at], self.blocks[at]

    def keep(self, blocks: list[Block]) -> None:
        """These alone, which are in order."""
        self.places[:] = [block.place for block in blocks]
        self.blocks[:] = blocks


class CachingAllocator:
    """Allocated and reserved bytes under a sequence of `allocate` and `release`, or of steps (`run`)."""

    def __init__(
        self, *, expandable_segments: bool = False, limit: int | None = None, collect_above: int | None = None
    ) -> None:
        self.collect_above = collect_above
        """Reserved bytes beyond which free segments are given back before another is asked for; None for never."""
        self.limit = limit
        """Bytes that may be reserved; None for no limit."""
        self.flushes = 0
        """How often free segments had to be given back."""
        self.collected = 0
        """How many segments were given back before memory ran out (`collect_above`)."""
        self.expandable = expandable_segments
        self.allocated = 0
        """Bytes of the blocks in use."""
        self.reserved = 0
        self.aside = 0
        """Bytes of segments that are counted, not played (`run`)."""
        self.allocated_peak = 0
        """With what is counted beside the blocks; likewise the next."""
        self.reserved_peak = 0
        self._free = {True: _Pool(), False: _Pool()}
        self._spare: dict[bool, list[Block]] = {True: [], False: []}
        """Blocks that went into their neighbours, free, to be used again: making one is what costs most in a split."""
        self._first: dict[int, Block] = {}
        """The first block of each segment, by its address."""
        self._single: dict[int, Block] = {}
        """Blocks that `allocate` has handed out, by address."""
        self._requests = {True: 0, False: 0}
        self._next_address = 1 << 59
        self._tail: dict[bool, Block | None] = {True: None, False: None}

    def allocate(self, size: int) -> int:
        """Takes `size` bytes; returns the address, to release them by. Nothing is taken for 0 bytes (-1)."""
        if size <= 0:
            return -1
        need = rounded(size)
        taken: dict[int, Block] = {}
        self.run([(0, 0, 0, need)], taken, {}, small=need <= SMALL_LIMIT)
        self._single[taken[0].address] = taken[0]
        return taken[0].address

    def release(self, address: int) -> None:
        """Gives a block back to its pool and merges it with free neighbours."""
        if address >= 0:
            block = self._single.pop(address)
            self.run([(0, 0, 0, 0)], {0: block}, {}, small=block.small)

    def run(
        self,
        steps: Iterable[Step],
        held: dict[int, Block],
        beside: dict[int, int],
        *,
        small: bool = False,
        now: int = 0,
        shift: int = 0,
    ) -> int:
        """Takes and releases blocks of one pool; returns the bytes that are counted beside it after the last step.

        `held`: the blocks in use by key; `beside`: bytes of what is counted beside them by key, `now` in all; `shift`:
        what is added to the steps' keys. A release finds its key in one of the two, or does nothing. It is one loop
        that calls nothing but what is rare, since every plan waits for some hundred thousand steps of it.
        """
        pool, tail, spare = self._free[small], self._tail if self.expandable else None, self._spare[small]
        places, blocks = pool.places, pool.blocks
        least = BLOCK if small or self.expandable else SPLIT_LARGE_ABOVE + 1
        total, peak, aside = self.allocated + now, self.allocated_peak, self.aside
        requests = self._requests
        asked = requests[small]
        try:
            for change, most, key, need in steps:
                if most:
                    if now + most > aside:
                        requests[small] = asked
                        self.set_aside(now + most)
                        aside = self.aside
                    if total + most > peak:
                        peak = total + most
                now += change
                total += change
                if need > 0:
                    asked += 1
                    at = bisect_left(places, need << SIZE_SHIFT)
                    if at < len(places):
                        del places[at]
                        block = blocks.pop(at)
                    else:
                        requests[small] = asked
                        block = self._grow(need, small)
                    left = block.size - need
                    if left >= least:
                        rest = spare.pop() if spare else Block(0, 0, small)
                        rest.previous, after = block, block.next
                        rest.next = after
                        if after is not None:
                            after.previous = rest
                        rest.size, rest.since = left, asked
                        rest.address = address = block.address + need
                        rest.place = place = left << SIZE_SHIFT | address
                        at = bisect_left(places, place)
                        places.insert(at, place)
                        blocks.insert(at, rest)
                        block.next, block.size = rest, need
                        if tail and tail[small] is block:
                            tail[small] = rest
                        total += need
                    else:
                        total += block.size
                    block.free = False
                    if total > peak:
                        peak = total
                    held[key + shift] = block
                elif need:
                    asked += 1
                    at = bisect_left(places, -need << SIZE_SHIFT)
                    if at == len(places):
                        requests[small] = asked
                        pool.add(self._grow(-need, small))
                        at = bisect_left(places, -need << SIZE_SHIFT)
                    block = blocks[at]  # split off and merged again it is what it was
                    block.since = asked
                    taken = -need if block.size + need >= least else block.size
                    if total + taken > peak:
                        peak = total + taken
                else:
                    found = held.pop(key + shift, None)
                    if found is None:
                        gone = beside.pop(key + shift, 0)
                        now -= gone
                        total -= gone
                        continue
                    size = found.size
                    total -= size
                    found.free = True
                    after, before = found.next, found.previous
                    if after is not None and after.free:
                        at = bisect_left(places, after.place)
                        del places[at], blocks[at]
                        size += after.size
                        spare.append(after)
                        if tail and tail[small] is after:
                            tail[small] = found
                        found.next = after = after.next
                        if after is not None:
                            after.previous = found
                    if before is not None and before.free:
                        at = bisect_left(places, before.place)
                        del places[at], blocks[at]
                        size += before.size
                        spare.append(found)
                        if tail and tail[small] is found:
                            tail[small] = before
                        before.next = after
                        if after is not None:
                            after.previous = before
                        found = before
                    found.size, found.since = size, asked
                    found.place = place = size << SIZE_SHIFT | found.address
                    at = bisect_left(places, place)
                    places.insert(at, place)
                    blocks.insert(at, found)
        finally:
            self.allocated, self.allocated_peak, requests[small] = total - now, peak, asked
        return now

    def state(self) -> object:
        """Equal where every later request goes the same way, as far as the same blocks are in use.

        What is reserved does not belong to it: steps that leave the free blocks as they found them need no more of it
        the next time. Where segments are collected it does, and so do the ages of what is free.
        """
        free: object = [list(pool.places) for pool in self._free.values()]
        if self.collect_above is None:
            return free, self.allocated
        ages = [self._requests[False] - block.since for block in self._free[False].blocks]
        return free, self.allocated, ages, self.reserved

    def segments(self) -> list[tuple[bool, list[tuple[int, int, bool]]]]:
        """Segments by address: (small pool?, its blocks as (address, bytes, free?))."""
        found = []
        for _, block in sorted(self._first.items()):
            parts: list[tuple[int, int, bool]] = []
            part: Block | None = block
            while part is not None:
                parts.append((part.address, part.size, part.free))
                part = part.next
            found.append((block.small, parts))
        return found

    def set_aside(self, size: int) -> None:
        """Counts small segments for `size` bytes that stand beside those of this model (a pool that is not played)."""
        size = -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        self._collect()
        if self.limit is not None and self.reserved + size > self.limit:  # one by one, as far as there is room
            self.aside = max(self.aside, (self.limit - self.reserved) // SMALL_SEGMENT * SMALL_SEGMENT)
            self.reserved_peak = max(self.reserved_peak, self.reserved + self.aside)
            self._flush()
        if self._exceeds(size - self.aside):
            raise OutOfMemory
        self.aside = size
        self.reserved_peak = max(self.reserved_peak, self.reserved + self.aside)

    def _grow(self, need: int, small: bool) -> Block:
        """A free block that no pool holds: a new segment, or more of the one that grows."""
        if self.expandable:
            return self._extend(need, small)
        self._collect()
        size = segment_size(need)
        if self._exceeds(size):
            self._flush()
        self._reserve(size)
        self._next_address -= size + BLOCK  # a gap, so that segments never merge
        block = Block(self._next_address, size, small)
        self._first[block.address] = block
        return block

    def _extend(self, need: int, small: bool) -> Block:
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
            self._free[small].remove(tail)
            tail.size += more
            return tail
        start = (1 << 60 if small else 0) if tail is None else tail.address + tail.size
        block = Block(start, more, small)
        block.previous = tail
        if tail is None:
            self._first[start] = block
        else:
            tail.next = block
        self._tail[small] = block
        return block

    def _exceeds(self, size: int) -> bool:
        return self.limit is not None and self.reserved + self.aside + size > self.limit

    def _reserve(self, size: int) -> None:
        if self._exceeds(size):
            raise OutOfMemory
        self.reserved += size
        self.reserved_peak = max(self.reserved_peak, self.reserved + self.aside)

    def _collect(self) -> None:
        """Gives back wholly free segments of the large pool, those of mean age or more, until enough has gone."""
        if self.collect_above is None or self.expandable:
            return
        excess = self.reserved + self.aside - self.collect_above
        pool, asked = self._free[False], self._requests[False]
        whole = [block for block in pool.blocks if block.previous is None and block.next is None]
        while excess > 0 and whole:
            mean = sum(asked - block.since for block in whole) / len(whole)
            oldest = [block for block in whole if asked - block.since >= mean]
            for block in oldest:
                pool.remove(block)
                del self._first[block.address]
                self.reserved -= block.size
                excess -= block.size
                self.collected += 1
            whole = [block for block in whole if block not in oldest]

    def _flush(self) -> None:
        self.flushes += 1
        self.give_back()

    def give_back(self) -> None:
        """Gives every wholly free segment back to the device."""
        for small, pool in self._free.items():
            kept = []
            for block in pool.blocks:
                if block.previous is None and block.next is None:
                    del self._first[block.address]
                    self.reserved -= block.size
                    if self._tail[small] is block:
                        self._tail[small] = None
                else:
                    kept.append(block)
            pool.keep(kept)


__all__ = ["Block", "CachingAllocator", "OutOfMemory", "Step", "rounded", "segment_size"]
