"""Which sequences share a micro-batch: the rule that the planner computes with and the trainer trains by.

Pure functions of lengths in tokens, so that both know the heaviest micro-batch of a run without asking each other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Rows = Sequence[Sequence[int]]
"""A micro-batch: row by row, the lengths of the sequences that stand in it."""


def longest(lengths: Sequence[int], batch_size: int) -> list[int]:
    """Indices of the `batch_size` longest sequences, the longest first, of equal ones the earlier.

    They train together in one micro-batch of every epoch. No other has more tokens, or a longer sequence.
    """
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))[:batch_size]


def fullest(rows: Rows, batch_size: int) -> list[int]:
    """Indices of the `batch_size` packed rows with the most tokens, of equal ones those with the longest sequences."""

    def weight(index: int) -> tuple[int, list[int]]:
        return -sum(rows[index]), sorted(-length for length in rows[index])

    return sorted(range(len(rows)), key=weight)[:batch_size]


def place_of_heaviest(batches: int, accumulation: int) -> int:
    """Where the heaviest of an epoch's `batches` stands: where memory is highest.

    That is the second step, when the optimizer has its state, and with accumulation its second micro-batch, which meets
    the gradients of the first. In a shorter epoch the second micro-batch, or the first where every one is a step.
    """
    second = 1 if accumulation > 1 else 0
    return accumulation + second if batches > accumulation + second else min(second, batches - 1)


def pack(lengths: Sequence[int], order: Sequence[int], max_length: int) -> list[tuple[int, ...]]:
    """First-fit-decreasing bins of at most `max_length` tokens; `order` breaks ties between equal lengths.

    At most 11/9 of the optimum plus 6/9 of a bin (Dosa 2007). Free room is looked up by size in O(log bins).
    """
    ranked = sorted(order, key=lambda index: -lengths[index])
    bins: list[list[int]] = []
    room: list[int] = []
    # A segment tree over bins holding the largest free room finds the first bin that fits in O(log n).
    size = 1
    while size < max(1, len(ranked)):
        size *= 2
    tree = [max_length] * (2 * size)
    for index in ranked:
        need = min(lengths[index], max_length)
        node = 1
        while node < size:
            node = 2 * node if tree[2 * node] >= need else 2 * node + 1
        position = node - size
        if position == len(bins):
            bins.append([])
            room.append(max_length)
        bins[position].append(index)
        room[position] -= need
        tree[node] = room[position]
        while node > 1:
            node //= 2
            tree[node] = max(tree[2 * node], tree[2 * node + 1])
    return [tuple(members) for members in bins]


def split_validation(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices (training, validation) of a seeded split; a positive share takes at least one and leaves at least one."""
    if share <= 0 or count < 2:
        return list(range(count)), []
    order = list(range(count))
    random.Random(f"split-{seed}").shuffle(order)
    held_out = min(max(1, round(count * share)), count - 1)
    return sorted(order[held_out:]), sorted(order[:held_out])


def is_ragged(rows: Rows) -> bool:
    """Whether rows differ in length or hold several sequences; equal rows of one sequence have no padding to save."""
    return any(len(row) != 1 for row in rows) or len({row[0] for row in rows}) > 1
