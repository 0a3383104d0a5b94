"""Which examples share a micro-batch, and what tensors it becomes.

The order is a pure function of (seed, epoch), so a resumed run sees exactly the batches that it would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trainer.data.tokens import IGNORED, Tokens

GROUPING_WINDOW = 50
"""Effective batches that are sorted by length together: enough to leave little padding, few enough to stay random."""


class EpochBatches:
    """Batch sampler: lists of example indices per micro-batch; the longest micro-batch comes first.

    An overflow then shows in the first step of a run and not after hours. With `packed` each element of a batch is
    itself a tuple of indices that share one row (first-fit decreasing bins of at most `max_length` tokens).
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        accumulation: int = 1,
        max_length: int,
        packed: bool = False,
        group_by_length: bool = True,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.max_length = max_length
        self.packed = packed
        self.group_by_length = group_by_length
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.drop_last = False
        # Bins depend only on the sorted lengths, hence their number is the same in every epoch.
        rows = len(pack(self.lengths, range(len(self.lengths)), max_length)) if packed else len(self.lengths)
        self._batches = -(-rows // batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order that the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[Any]]:
        rng = random.Random(f"{self.seed}-{self.epoch}")
        order = list(range(len(self.lengths)))
        if self.shuffle:
            rng.shuffle(order)
        if self.packed:
            rows: list[Any] = pack(self.lengths, order, self.max_length)
            if self.shuffle:
                rng.shuffle(rows)
            batches = _cut(rows, self.batch_size)
        elif self.group_by_length:
            batches = self._grouped(order, rng)
        else:
            batches = _cut(order, self.batch_size)
        if self.shuffle:
            self._longest_first(batches)
        yield from batches

    def _grouped(self, order: list[int], rng: random.Random) -> list[list[Any]]:
        window = self.batch_size * self.accumulation * GROUPING_WINDOW
        batches: list[list[Any]] = []
        for start in range(0, len(order), window):
            block = sorted(order[start : start + window], key=lambda index: -self.lengths[index])
            cut = _cut(block, self.batch_size)
            # A short last batch stays last, so that every other one is full.
            short = cut.pop() if len(cut[-1]) < self.batch_size else None
            if self.shuffle:
                rng.shuffle(cut)
            batches += cut
            if short is not None:
                batches.append(short)
        return batches

    def _longest_first(self, batches: list[list[Any]]) -> None:
        """Swaps the batch with the most padded tokens to the front.

        The next largest goes to where memory stands highest: in the second step, when the optimizer has its state, and
        there in the second micro-batch, when gradients exist. So two steps show the peak of the whole run.
        """
        cost = [len(batch) * max(_row_length(row, self.lengths) for row in batch) for batch in batches]
        ranked = sorted(range(len(batches)), key=lambda index: -cost[index])
        first = ranked[0]
        batches[0], batches[first] = batches[first], batches[0]
        place = self.accumulation + (1 if self.accumulation > 1 else 0)
        if len(batches) > max(1, place):
            second = ranked[1] if ranked[1] != 0 else first  # batch 0 has just moved to where the longest was
            batches[place], batches[second] = batches[second], batches[place]


def _cut(rows: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _row_length(row: Any, lengths: Sequence[int]) -> int:
    return sum(lengths[index] for index in row) if isinstance(row, tuple) else lengths[row]


def pack(lengths: Sequence[int], order: Sequence[int], max_length: int) -> list[tuple[int, ...]]:
    """First-fit-decreasing bins of at most `max_length` tokens; `order` breaks ties between equal lengths.

    At most 11/9 of the optimum plus 6/9 of a bin (Dosa 2007). Free room is looked up by size in O(max_length).
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


class SequenceDataset(torch.utils.data.Dataset[list[Tokens]]):
    """Rows for the collator: one sequence, or, for a tuple of indices, the sequences that are packed into one row."""

    def __init__(self, sequences: Sequence[Tokens]) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int | tuple[int, ...]) -> list[Tokens]:
        if isinstance(index, tuple):
            return [self.sequences[member] for member in index]
        return [self.sequences[index]]


class Collator:
    """Rows into tensors of shape (rows, length), int64: input_ids, labels and, where rows are packed, position_ids.

    Padding stands on the right with ignored labels. A causal model never looks to the right, so no attention mask is
    made: real tokens see exactly what they would see alone, and the fast attention kernels stay in use.
    Packed rows restart their positions at each sequence, from which transformers builds the block-diagonal mask.
    `real_tokens` (a Python int) counts the tokens that aren't padding; `lengths` (a list of tuples, row by row) are
    those of the sequences, by which the step can leave the padding out. The model is given neither.
    """

    def __init__(self, *, pad_token_id: int, max_length: int, padding: str = "longest") -> None:
        self.pad_token_id = pad_token_id
        self.max_length = max_length
        self.padding = padding

    def __call__(self, rows: Sequence[list[Tokens]]) -> dict[str, Any]:
        longest = max(sum(len(tokens) for tokens in row) for row in rows)
        length = self.max_length if self.padding in ("max", "packed") else longest
        shape = (len(rows), length)
        ids = torch.full(shape, self.pad_token_id, dtype=torch.int64)
        labels = torch.full(shape, IGNORED, dtype=torch.int64)
        positions = torch.arange(length).repeat(len(rows), 1)
        real = sum(len(tokens) for row in rows for tokens in row)
        for number, row in enumerate(rows):
            start = 0
            for tokens in row:
                stop = start + len(tokens)
                ids[number, start:stop] = torch.tensor(tokens.ids, dtype=torch.int64)
                labels[number, start:stop] = torch.tensor(tokens.labels, dtype=torch.int64)
                labels[number, start] = IGNORED  # nothing of its own sequence stands before it
                positions[number, start:stop] = torch.arange(len(tokens))
                start = stop
            if self.padding == "packed":
                positions[number, start:] = torch.arange(length - start)
        batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "real_tokens": real}
        if self.padding == "packed":
            batch["position_ids"] = positions
        if self.padding != "max":
            batch["lengths"] = [tuple(len(tokens) for tokens in row) for row in rows]
        return batch


def split_validation(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices (training, validation) of a seeded split; a positive share takes at least one and leaves at least one."""
    if share <= 0 or count < 2:
        return list(range(count)), []
    order = list(range(count))
    random.Random(f"split-{seed}").shuffle(order)
    held_out = min(max(1, round(count * share)), count - 1)
    return sorted(order[held_out:]), sorted(order[:held_out])
