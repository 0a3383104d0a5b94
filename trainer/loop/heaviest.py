"""The largest batches that a run has met: for those its peak stands, and room is made before they come."""

from __future__ import annotations

from collections.abc import Callable

from planner.contract.choices import TrainingChoices
from planner.contract.microbatches import Rows
from planner.contract.record import BatchLengths


def heavier(known: BatchLengths | None, rows: Rows | None, choices: TrainingChoices) -> BatchLengths | None:
    """Of two micro-batches the one that takes more memory: flattened ones by their tokens, padded ones by what they
    are padded to.
    """
    if rows is None:
        return known
    made = tuple(tuple(row) for row in rows)
    if known is None:
        return made
    return made if _weight(made, choices) > _weight(known, choices) else known


def _weight(batch: Rows, choices: TrainingChoices) -> int:
    tokens = [sum(row) for row in batch]
    return sum(tokens) if choices.stack == "builtin" and choices.loss == "chunked" else len(tokens) * max(tokens)


class Growing:
    """Gives the allocator's cache back before a micro-batch that is larger than all before it.

    CUDA's allocator takes a free segment only for what fits into it, and keeps those that are too small: segments of a
    smaller micro-batch would stand beside the larger one's, up to 43 % of reserved bytes that nobody uses
    (`python -m benchmarks.accuracy.epochs`). An epoch's heaviest micro-batch is its second or so, so this happens once.
    """

    def __init__(self, choices: TrainingChoices, give_back: Callable[[], object]) -> None:
        self.choices = choices
        self._give_back = give_back
        self._most = 0

    def next(self, rows: int, length: int, lengths: Rows | None) -> None:
        """A micro-batch of this shape comes; `lengths`: those of its sequences, row by row, where they are known."""
        weight = rows * length if lengths is None else _weight(lengths, self.choices)
        if 0 < self._most < weight:
            self._give_back()
        self._most = max(self._most, weight)


class Heaviest:
    """What was measured since the peaks were last forgotten."""

    def __init__(self, choices: TrainingChoices) -> None:
        self.choices = choices
        self.forget()

    def forget(self) -> None:
        """Peaks are measured anew."""
        self.padded = (0, 0)
        """Rows and padded length of the largest batch."""
        self.lengths: BatchLengths | None = None
        """Lengths in the heaviest batch; None where batches don't tell them."""

    def note(self, rows: int, length: int, lengths: Rows | None) -> None:
        """A batch of this shape is measured."""
        if rows * length > self.padded[0] * self.padded[1]:
            self.padded = (rows, length)
        self.lengths = heavier(self.lengths, lengths, self.choices)
