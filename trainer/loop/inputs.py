"""What a training loop is made of: the job, what it learns from, and who listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.control import Command
from planner.contract.events import OomEvent
from planner.contract.run_settings import Hyperparameters
from trainer.data.batches import EpochBatches
from trainer.data.samples import SamplePrompt
from trainer.data.tokens import TokenizedData
from trainer.distributed.batches import RankBatches
from trainer.distributed.world import World
from trainer.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """How to train, where, and among whom."""

    run_dir: Path
    choices: TrainingChoices
    hyperparameters: Hyperparameters
    device: torch.device
    world: World = field(default_factory=World)

    def training_batches(self, data: TokenizedData) -> RankBatches:
        """This process's micro-batches of an epoch; their `batches` are those of all processes."""
        h, c = self.hyperparameters, self.choices
        batches = EpochBatches(
            data.lengths,
            batch_size=c.batch_size,
            accumulation=c.gradient_accumulation_steps * self.world.size,
            max_length=c.max_length,
            packed=c.padding == "packed",
            order="grouped" if h.group_by_length else "shuffled",
            seed=h.seed,
        )
        return RankBatches(batches, rank=self.world.rank, size=self.world.size)

    def validation_batches(self, data: TokenizedData) -> RankBatches:
        """The same of an evaluation, in an order that is always the same."""
        c = self.choices
        batches = EpochBatches(
            data.lengths,
            batch_size=c.eval_batch_size or c.batch_size,
            max_length=c.max_length,
            packed=c.padding == "packed",
            order="by length",
        )
        return RankBatches(batches, rank=self.world.rank, size=self.world.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What is learned from, and as what."""

    config: dict[str, object]
    """Content of the model's config.json."""
    tokenizer: PreTrainedTokenizerBase
    task: Task
    train: TokenizedData
    validation: TokenizedData | None = None
    asked: SamplePrompt | None = None
    """What the evaluations' sample asks; None without one."""
    identity: dict[str, object] = field(default_factory=dict)
    """What a checkpoint must share with a run that goes on from it."""


def _nothing(_: object) -> None:
    """Nobody listens."""


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """Whom the loop tells of what happens, and whom it asks."""

    announce: Callable[[str], None] = _nothing
    """Told of each stage within the training: `eval`, `save`, `train`."""
    out_of_memory: Callable[[OomEvent], None] = _nothing
    stop_asked: Callable[[], bool] = _never
    """Whether this process was told to stop after the step."""
    pause_asked: Callable[[], bool] = _never
    wanted: Callable[[], Sequence[Command]] = tuple
    """What this process was told to do after the step."""
    waits: Callable[[Any, Any], bool] = lambda state, control: False
    """Keeps a paused run waiting after each thing that it does; True where there is another to do."""
    sample: Callable[[], str | None] | None = None
    """Makes an evaluation's sample."""
