"""The model of the caching allocator: sequences computed by hand, and invariants on random ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.contract.units import MIB
from planner.memory.reserved.allocator import Block, CachingAllocator, OutOfMemory, rounded, segment_size
from planner.memory.reserved.history import Played, play
from planner.memory.reserved.replay import alike

KIB = 1024


def played(persistent: list[int], step: list[tuple[int, int]], **options: Any) -> Played:
    """What the allocator held over equal steps."""
    (found,) = play(alike(persistent, step), **options)
    return found


@pytest.mark.parametrize(
    ("asked", "taken"), [(1, 512), (511, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, MIB + 512)]
)
def test_blocks_are_multiples_of_512_bytes(asked: int, taken: int) -> None:
    assert rounded(asked) == taken


@pytest.mark.parametrize(
    ("block", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_segments_by_the_size_of_the_block(block: int, segment: int) -> None:
    assert segment_size(block) == segment


def test_nothing_is_taken_for_no_bytes() -> None:
    pool = CachingAllocator()
    handle = pool.allocate(0)
    pool.release(handle)
    assert (pool.allocated, pool.reserved) == (0, 0)


def test_small_blocks_share_a_segment_of_2_mib() -> None:
    # 4 x 512 KiB fill one segment; the fifth asks for another.
    pool = CachingAllocator()
    for _ in range(4):
        pool.allocate(512 * KIB)
    assert pool.reserved == 2 * MIB
    pool.allocate(1)
    assert (pool.allocated, pool.reserved) == (2 * MIB + 512, 4 * MIB)


def test_the_small_and_the_large_pool_do_not_mix() -> None:
    # A free 20 MiB segment does not serve 1 MiB, nor a free 2 MiB segment 1.5 MiB.
    pool = CachingAllocator()
    pool.release(pool.allocate(5 * MIB))
    pool.allocate(MIB)
    assert pool.reserved == 22 * MIB
    pool = CachingAllocator()
    pool.release(pool.allocate(KIB))
    pool.allocate(MIB + MIB // 2)
    assert pool.reserved == 22 * MIB


def test_a_large_block_is_split_only_if_more_than_1_mib_is_left() -> None:
    # 12 MiB free. 11 MiB leaves exactly 1 MiB: not split, all 12 count. 10.5 MiB leaves 1.5 MiB: split.
    pool = CachingAllocator()
    pool.release(pool.allocate(12 * MIB))
    whole = pool.allocate(11 * MIB)
    assert pool.allocated == 12 * MIB
    pool.release(whole)
    pool.allocate(10 * MIB + MIB // 2)
    assert pool.allocated == 10 * MIB + MIB // 2
    pool.allocate(MIB + 512)  # fits in what was left
    assert pool.reserved == 12 * MIB


def test_a_small_block_is_split_down_to_512_bytes() -> None:
    pool = CachingAllocator()
    pool.allocate(MIB)
    pool.allocate(MIB - 512)
    pool.allocate(512)
    assert (pool.allocated, pool.reserved) == (2 * MIB, 2 * MIB)


def test_the_best_fit_is_taken() -> None:
    # Free segments of 30 and 14 MiB: 13 MiB goes into the 14, so that 30 still fit.
    pool = CachingAllocator()
    large, middle = pool.allocate(30 * MIB), pool.allocate(14 * MIB)
    pool.release(large)
    pool.release(middle)
    pool.allocate(13 * MIB)
    pool.allocate(30 * MIB)
    assert pool.reserved == 44 * MIB


def test_free_neighbours_merge_within_a_segment_only() -> None:
    # Three of 6 MiB in one 20 MiB segment: freeing the first two makes 12 MiB in one piece, freeing all makes 20.
    pool = CachingAllocator()
    first, second, third = (pool.allocate(6 * MIB) for _ in range(3))
    assert pool.reserved == 20 * MIB
    pool.release(first)
    pool.release(second)
    twelve = pool.allocate(12 * MIB)
    assert pool.reserved == 20 * MIB
    pool.release(twelve)
    pool.release(third)
    pool.allocate(20 * MIB)
    assert pool.reserved == 20 * MIB
    # Two free segments of 10 MiB each do not make one of 20.
    pool = CachingAllocator()
    handles = [pool.allocate(10 * MIB) for _ in range(2)]
    for handle in handles:
        pool.release(handle)
    pool.allocate(20 * MIB)
    assert pool.reserved == 40 * MIB


def test_fragmentation_that_a_hole_makes() -> None:
    # 16, 16, 16 MiB; the outer two freed: 24 MiB finds no hole though 32 are free.
    pool = CachingAllocator()
    handles = [pool.allocate(16 * MIB) for _ in range(3)]
    pool.release(handles[0])
    pool.release(handles[2])
    pool.allocate(24 * MIB)
    assert (pool.allocated, pool.reserved) == (40 * MIB, 72 * MIB)


def test_expandable_segments_grow_at_the_end() -> None:
    # Pages of 20 MiB: 30 MiB takes two; freed and asked for 50 MiB, one more page does.
    pool = CachingAllocator(expandable_segments=True)
    handle = pool.allocate(30 * MIB)
    assert (pool.allocated, pool.reserved) == (30 * MIB, 40 * MIB)
    pool.release(handle)
    pool.allocate(50 * MIB)
    assert (pool.allocated, pool.reserved) == (50 * MIB, 60 * MIB)
    pool.allocate(KIB)  # the small pool has pages of its own
    assert pool.reserved == 62 * MIB


def test_expandable_segments_use_a_free_tail() -> None:
    # 40 MiB reserved, 30 taken; 25 more need 15 beyond the tail of 10: one page.
    pool = CachingAllocator(expandable_segments=True)
    pool.allocate(30 * MIB)
    pool.allocate(25 * MIB)
    assert (pool.allocated, pool.reserved) == (55 * MIB, 60 * MIB)


def test_below_a_limit_wholly_free_segments_are_given_back() -> None:
    # 40 MiB free in a segment of its own, limit 60: 30 MiB fits into it; 50 MiB needs it given back.
    pool = CachingAllocator(limit=60 * MIB)
    pool.release(pool.allocate(40 * MIB))
    pool.allocate(50 * MIB)
    assert (pool.reserved, pool.reserved_peak, pool.flushes) == (50 * MIB, 50 * MIB, 1)


def test_a_segment_in_use_cannot_be_given_back() -> None:
    # 6 of 20 MiB are in use: limit 40 leaves 20, and 30 overflow.
    pool = CachingAllocator(limit=40 * MIB)
    pool.allocate(6 * MIB)
    with pytest.raises(OutOfMemory):
        pool.allocate(30 * MIB)
    assert pool.flushes == 1


def test_a_replay_counts_what_the_second_step_finds() -> None:
    # Persistent 10 MiB. Step: 30, freed, then 28 (fits into the 30's segment: 2 MiB are left, split off).
    step = [(1, 30 * MIB), (1, -1), (2, 28 * MIB), (2, -1)]
    done = played([10 * MIB], step)
    assert (done.allocated, done.reserved) == (40 * MIB, 40 * MIB)
    # The other way round the second step reuses the first one's larger segment for 28, and 30 finds it again.
    done = played([10 * MIB], [(1, 28 * MIB), (1, -1), (2, 30 * MIB), (2, -1)])
    assert done.reserved == 68 * MIB


def test_a_replay_releases_what_a_step_leaves() -> None:
    assert played([], [(1, 16 * MIB)]).reserved == 16 * MIB


def test_a_replay_counts_small_blocks_by_their_largest_sum() -> None:
    # 3 x 1 MiB at once beside 512 B that persist: 3 MiB + 512 B in segments of 2 MiB.
    step = [(k, MIB) for k in range(3)] + [(k, -1) for k in range(3)]
    assert played([1], step).reserved == 4 * MIB


def test_a_replay_below_a_limit() -> None:
    step = [(1, 40 * MIB), (1, -1), (2, 50 * MIB), (2, -1)]
    assert played([], step).reserved == 90 * MIB
    limited = played([], step, limit=60 * MIB)
    assert limited.reserved == 50 * MIB
    assert limited.flushes > 0
    with pytest.raises(OutOfMemory):
        played([], step, limit=49 * MIB)


# ---- invariants


def _blocks(pool: CachingAllocator) -> list[Block]:
    found: list[Block] = []
    for first in pool._first.values():
        part: Block | None = first
        while part is not None:
            found.append(part)
            part = part.next
    return found


def _check(pool: CachingAllocator, held: dict[int, int], *, segments: bool) -> None:
    """No overlap; the pools hold what is free; allocated and reserved are the sums of the blocks."""
    blocks = sorted(_blocks(pool), key=lambda block: block.address)
    for left, right in itertools.pairwise(blocks):
        assert left.address + left.size <= right.address
        if left.next is right:
            assert right.previous is left
            assert not (left.free and right.free)
    assert sum(block.size for block in blocks) == pool.reserved
    assert sum(block.size for block in blocks if not block.free) == pool.allocated
    assert pool.allocated <= pool.reserved <= pool.reserved_peak
    free = sorted((block.size, block.address) for block in blocks if block.free)
    assert free == sorted((block.size, block.address) for one in pool._free.values() for block in one.blocks)
    for one in pool._free.values():
        assert one.places == sorted(block.place for block in one.blocks)
    at = {block.address: block for block in blocks}
    for address, asked in held.items():
        assert at[address].size >= asked
        assert not at[address].free
    if segments:
        assert pool.limit is None or pool.reserved <= pool.limit


SIZES = st.one_of(st.integers(1, 3 * KIB), st.integers(1, 2 * MIB), st.integers(MIB, 64 * MIB))
ACTIONS = st.lists(st.tuples(SIZES, st.integers(0, 5), st.integers(0, 1 << 16)), max_size=60)


@settings(max_examples=120, deadline=None)
@given(actions=ACTIONS, expandable=st.booleans(), limit=st.one_of(st.none(), st.integers(64 * MIB, 400 * MIB)))
def test_invariants(actions: list[tuple[int, int, int]], expandable: bool, limit: int | None) -> None:
    pool = CachingAllocator(expandable_segments=expandable, limit=limit)
    held: dict[int, int] = {}
    for size, kind, pick in actions:
        if kind <= 2 or not held:
            try:
                held[pool.allocate(size)] = size
            except OutOfMemory:
                assert limit is not None
        else:
            handle = sorted(held)[pick % len(held)]
            del held[handle]
            pool.release(handle)
        _check(pool, held, segments=True)
    for handle in list(held):
        pool.release(handle)
    # Everything free: nothing is allocated, and every segment is one block again.
    assert pool.allocated == 0
    assert all(block.free and block.previous is None and block.next is None for block in _blocks(pool))


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, expandable=st.booleans())
def test_a_replay_reserves_at_least_what_is_live(actions: list[tuple[int, int, int]], expandable: bool) -> None:
    step: list[tuple[int, int]] = []
    held: list[int] = []
    for key, (size, kind, pick) in enumerate(actions):
        if kind <= 2 or not held:
            step.append((key, size))
            held.append(key)
        else:
            step.append((held.pop(pick % len(held)), -1))
    done: Any = played([MIB, 3 * MIB], step, expandable_segments=expandable)
    live = peak = MIB + 3 * MIB
    sizes: dict[int, int] = {}
    for key, size in step:
        if size >= 0:
            sizes[key] = rounded(size)
            live += sizes[key]
            peak = max(peak, live)
        else:
            live -= sizes.pop(key)
    assert done.reserved >= peak
