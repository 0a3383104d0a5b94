"""What a person wants of a run while it goes: an evaluation, a checkpoint, another rate or another pace of the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from planner.contract.control import Command
from planner.contract.events import ChangedEvent
from planner.contract.run_settings import Hyperparameters
from trainer.wire.events import EventStream

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

COLUMNS = ("evaluate", "checkpoint", "learning_rate", "logging_steps")
"""How processes tell each other: the value, 1 for what has none, 0 for what isn't wanted."""


NOTHING: tuple[float, ...] = (0.0,) * len(COLUMNS)


def as_row(wishes: Sequence[Command]) -> list[float]:
    """The newest wish of each kind as numbers, by `COLUMNS`."""
    newest: dict[str, float] = {wish.command: 1.0 if wish.value is None else wish.value for wish in wishes}
    return [newest.get(name, 0.0) for name in COLUMNS]


def fulfil(
    row: Sequence[float], trainer: Any, state: TrainerState, control: TrainerControl, events: EventStream
) -> Hyperparameters:
    """Sets going what was wanted, by `COLUMNS`; returns what is trained with from here on."""
    evaluate, checkpoint, rate, pace = row
    if evaluate and trainer.eval_dataset is None:
        events.warn("control", "there is nothing to evaluate on", "a validation share or file is set before the start")
    elif evaluate:
        control.should_evaluate = True
    if checkpoint:
        control.should_save = True
    h: Hyperparameters = trainer.hyperparameters
    new = h
    if rate and rate != h.learning_rate:
        new = new.model_copy(update={"learning_rate": rate})
        set_rate(trainer, rate / h.learning_rate)
        events.emit(ChangedEvent(step=state.global_step, name="learning_rate", before=h.learning_rate, after=rate))
    if pace and int(pace) != h.logging_steps:
        new = new.model_copy(update={"logging_steps": int(pace)})
        state.logging_steps = trainer.args.logging_steps = int(pace)
        events.emit(ChangedEvent(step=state.global_step, name="logging_steps", before=h.logging_steps, after=pace))
    return new


def set_rate(trainer: Any, factor: float) -> None:
    """The schedule goes on as it was, so many times as high; moments and the number of the step stay."""
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)  # of accelerate's wrapper
    scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
    for group in trainer.optimizer.param_groups:
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    scheduler._last_lr = [group["lr"] for group in trainer.optimizer.param_groups]
