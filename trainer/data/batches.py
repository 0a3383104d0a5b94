"""Which examples share a micro-batch, and what tensors it becomes.

The order is a pure function of (seed, epoch), so a resumed run sees exactly the batches that it would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from planner.contract.microbatches import fullest, longest, pack, place_of_heaviest
from planner.contract.microbatches import split_validation as split_validation
from trainer.data.tokens import IGNORED, Tokens

GROUPING_WINDOW = 50
"""Effective batches that are sorted by length together: enough to leave little padding, few enough to stay random."""
Order = Literal["grouped", "shuffled", "by length", "as given"]
"""`grouped`: in an order that is drawn, examples of like length together. `by length`: the same, undrawn."""


class EpochBatches:
    """Batch sampler: lists of example indices per micro-batch; the heaviest ones come in the first two steps.

    An overflow then shows at once and not after hours, and the plan knows the heaviest micro-batch: it is made of the
    longest sequences (planner.contract.microbatches). With `packed` each element of a batch is
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
        order: Order = "grouped",
        seed: int = 0,
    ) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.max_length = max_length
        self.packed = packed
        self.order = order
        self.seed = seed
        self.epoch = 0
        self.drop_last = False
        # Bins depend only on the sorted lengths, hence their number is the same in every epoch.
        rows = len(pack(self.lengths, range(len(self.lengths)), max_length)) if packed else len(self.lengths)
        self._batches = -(-rows // batch_size)

    @property
    def _drawn(self) -> bool:
        return self.order in ("grouped", "shuffled")

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order that the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[object]]:
        rng = random.Random(f"{self.seed}-{self.epoch}")
        order = list(range(len(self.lengths)))
        if self._drawn:
            rng.shuffle(order)
        rows: list[Any] = list(pack(self.lengths, order, self.max_length)) if self.packed else order
        heaviest: list[object] = []
        if self._drawn:
            heaviest, rows = self._apart(rows)
            if self.packed:
                rng.shuffle(rows)
        grouped = self.order in ("grouped", "by length") and not self.packed
        batches = self._grouped(rows, rng) if grouped else _cut(rows, self.batch_size)
        if heaviest:
            self._place(batches, heaviest)
        yield from batches

    def _apart(self, rows: list[Any]) -> tuple[list[object], list[object]]:
        """The rows of the heaviest micro-batch, and the others in their order."""
        if self.packed:
            chosen = [rows[i] for i in fullest([[self.lengths[m] for m in row] for row in rows], self.batch_size)]
        else:
            chosen = list(longest(self.lengths, self.batch_size))
        taken = set(chosen)
        return chosen, [row for row in rows if row not in taken]

    def _grouped(self, order: list[int], rng: random.Random) -> list[list[object]]:
        window = self.batch_size * self.accumulation * GROUPING_WINDOW
        batches: list[list[object]] = []
        for start in range(0, len(order), window):
            block = sorted(order[start : start + window], key=lambda index: -self.lengths[index])
            cut = _cut(block, self.batch_size)
            # A short last batch stays last, so that every other one is full.
            short = cut.pop() if len(cut[-1]) < self.batch_size else None
            if self._drawn:
                rng.shuffle(cut)
            batches += cut
            if short is not None:
                batches.append(short)
        return batches

    def _place(self, batches: list[list[object]], heaviest: list[object]) -> None:
        """The heaviest micro-batch where memory stands highest, of the others the one with most padded tokens first."""
        cost = [len(batch) * max(_row_length(row, self.lengths) for row in batch) for batch in batches]
        if batches:
            first = cost.index(max(cost))
            batches[0], batches[first] = batches[first], batches[0]
        batches.insert(place_of_heaviest(len(batches) + 1, self.accumulation), heaviest)


def _cut(rows: Sequence[object], size: int) -> list[list[object]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _row_length(row: Any, lengths: Sequence[int]) -> int:
    return sum(lengths[index] for index in row) if isinstance(row, tuple) else lengths[row]


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

    def __call__(self, rows: Sequence[list[Tokens]]) -> dict[str, object]:
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
        batch: dict[str, object] = {"input_ids": ids, "labels": labels, "real_tokens": real}
        if self.padding == "packed":
            batch["position_ids"] = positions
        if self.padding != "max":
            batch["lengths"] = [tuple(len(tokens) for tokens in row) for row in rows]
        return batch
