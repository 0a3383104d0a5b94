"""The allocator's cache is given back before a micro-batch that is larger than all before it, and only then."""

from __future__ import annotations

import random

import pytest

from planner.contract.choices import TrainingChoices
from trainer.data.batches import EpochBatches
from trainer.loop.heaviest import Growing

LENGTHS = random.Random(7).sample(range(8, 700), 400)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("choices", [TrainingChoices(), TrainingChoices(stack="peft", loss="full")])
def test_the_trainer_s_order_gives_back_once(choices: TrainingChoices, accumulation: int) -> None:
    """GIVEN three epochs in the trainer's order THEN the cache goes back before the heaviest micro-batch, in the first
    epoch alone."""
    batches = EpochBatches(LENGTHS, batch_size=2, accumulation=accumulation, max_length=700, seed=3)
    given_back: list[int] = []
    seen: list[list[int]] = []
    growing = Growing(choices, lambda: given_back.append(len(seen)))
    for epoch in range(3):
        batches.set_epoch(epoch)
        for batch in batches:
            rows = [[LENGTHS[index]] for index in batch]
            growing.next(len(rows), max(map(sum, rows)), rows)
            seen.append([LENGTHS[index] for index in batch])
    assert len(given_back) == 1
    assert sum(seen[given_back[0]]) == sum(sorted(LENGTHS)[-2:])


def test_shapes_alone_suffice() -> None:
    """GIVEN batches that don't tell their lengths THEN rows times length are compared."""
    given_back: list[str] = []
    growing = Growing(TrainingChoices(), lambda: given_back.append("back"))
    for rows, length in ((2, 100), (4, 40), (2, 100), (3, 80), (1, 200)):
        growing.next(rows, length, None)
    assert given_back == ["back"]
