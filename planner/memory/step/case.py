"""What decides which program of a step runs."""

from __future__ import annotations

from dataclasses import dataclass

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Case:
    """Batch, length and (where `checkpointed` is None) N stay symbolic."""

    spec: ModelSpec
    choices: TrainingChoices
    checkpointed: int | None
    """How many of the first layers are checkpointed; None: symbolic N."""
    padded: bool = False
    """Whether the batch holds padding, so that a mask exists and another attention kernel runs."""
    windowed: bool = False
    """Whether the length reaches the sliding window, so that its layers need a mask."""
    target: str = "cuda"
    evaluating: bool = False
    """An evaluation batch instead of a training step."""
    unaligned: bool = False
    """Whether the length is no multiple of 16, so that CUDA's efficient kernel takes a padded copy of a mask."""
    flat: bool = False
    """Whether the micro-batch is ragged and runs as one row of all its tokens (planner.memory.network.flat)."""
    pre_ampere: bool = False
    """Whether the card has no flash kernel (compute capability below 8), so that sdpa takes another one."""
    regime: int = 0
    """Which of a recorded model's programs runs (planner.memory.recorded.wanted)."""
    answers: bool = False
    """Whether a decoder's answers have a length of their own."""
    unaligned_answers: bool = False
    """Whether that is no multiple of 16."""


def flattens(spec: ModelSpec, choices: TrainingChoices) -> bool:
    """Whether ragged micro-batches run as one row: the step of stack `builtin` under the chunked loss
    (trainer.modeling.packing.can_flatten)."""
    return (
        choices.stack == "builtin"
        and choices.loss == "chunked"
        and choices.attention == "sdpa"
        and choices.padding != "max"
        and spec.facts.causal
        and spec.facts.flattens
        and "recorded" not in spec.config
    )
