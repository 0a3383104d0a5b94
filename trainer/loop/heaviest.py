"""The largest batches that a run has measured: for those its peak stands."""

from __future__ import annotations

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

    def weight(batch: Rows) -> int:
        tokens = [sum(row) for row in batch]
        return sum(tokens) if choices.stack == "builtin" and choices.loss == "chunked" else len(tokens) * max(tokens)

    return made if weight(made) > weight(known) else known


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
