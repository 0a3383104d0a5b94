"""Which micro-batches a process trains on: its share of every step's, in the order that one process would take."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.data.batches import EpochBatches


class RankBatches:
    """Batch sampler of one process. Of the micro-batches of a step, process r of n takes the r-th, the (r+n)-th, …

    `batches` counts the accumulation over all processes, so that its steps are those of one process. At the end of an
    epoch a process may have nothing left where others still have: it gets one row of the step again, which only keeps
    it in time with the others (`is_filler`).
    """

    def __init__(self, batches: EpochBatches, *, rank: int, size: int) -> None:
        self.batches = batches
        self.rank = rank
        self.size = size
        self.batch_size = batches.batch_size
        self.drop_last = False

    def __len__(self) -> int:
        return -(-len(self.batches) // self.size)

    def is_filler(self, position: int) -> bool:
        """Whether the micro-batch at this place of the process's epoch (from 0) stands for none."""
        return position * self.size + self.rank >= len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order that the next iteration follows."""
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[object]]:
        group: list[list[object]] = []
        for batch in self.batches:
            group.append(batch)
            if len(group) == self.size:
                yield group[self.rank]
                group = []
        if group:
            yield group[self.rank] if self.rank < len(group) else group[0][:1]
