"""Callbacks of a run: events for whoever watches, stop and pause, early stopping."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from planner.contract.events import CheckpointEvent, EvalEvent, PausedEvent, ResumedEvent, StepEvent
from planner.contract.run_settings import Hyperparameters
from trainer.data.samples import SamplePrompt
from trainer.loop import wishes
from trainer.measure import devices
from trainer.measure.sensors import Sensors
from trainer.recovery.symptoms import BY_HAND, Symptom, Symptoms, is_due
from trainer.wire.control import Control
from trainer.wire.events import EventStream

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class Reporter(TrainerCallback):
    """Turns the loop's progress into `step`, `eval`, `checkpoint`, `paused`, `resumed` events and obeys `Control`."""

    def __init__(self, events: EventStream, control: Control, device: torch.device, hyperparameters: Hyperparameters):
        self.events = events
        self.flags = control
        self.device = device
        self.hyperparameters = hyperparameters
        self.replan: Callable[[Hyperparameters], None] = lambda new: None
        """Told of what a person changed within the run."""
        self.sensors: Sensors | None = None
        """Of the run's cards, in the process that tells of them."""
        self.trainer: Any = None
        """Set once the trainer exists: transformers doesn't pass it to callbacks."""
        self.asked: SamplePrompt | None = None
        """What the evaluations' sample asks."""
        self.step_seconds: list[float] = []
        self.reason = "completed"
        self.eval_loss_before: float | None = None
        self.eval_loss: float | None = None
        self._by_hand = False
        """Whether the next evaluation is one that a person asked for and that wasn't due."""
        self._paused = False
        """Whether a pause was told whose end was not."""
        self._since_log = (0.0, 0)
        """Seconds and tokens spent in steps since the last `step` event."""
        self._tokens_seen = 0
        self._last_log_step = 0
        self._symptoms: Symptoms | None = None
        self._best: str | None = None
        """A resumed run's best checkpoint, until the training begins."""
        self._history: list[Any] = []
        """A resumed run's log, until the training begins."""

    # ---- steps -----------------------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._last_log_step = state.global_step
        state.best_model_checkpoint = self._best or state.best_model_checkpoint
        state.compute_steps(args, state.max_steps)  # a resumed run has the checkpoint's until here
        trainer = self.trainer
        trainer.meter.start_training(trainer.model, trainer.optimizer, trainer.strategy.kept())
        h = self.hyperparameters
        self._symptoms = Symptoms(
            total_steps=state.max_steps,
            warmup_steps=h.warmup_steps if h.warmup_steps is not None else math.ceil(h.warmup_ratio * state.max_steps),
            max_grad_norm=self.trainer.choices.max_grad_norm,
        )
        self._symptoms.recall(self._history)
        self._history = []

    def _warn(self, symptoms: list[Symptom]) -> None:
        for symptom in symptoms:
            self.events.warn(symptom.what, symptom.message, symptom.advice)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The order of the epoch follows from its number alone, so that a resumed run finds its place again."""
        self.trainer.batches.set_epoch(state.global_step // self.trainer.steps_per_epoch)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> Any:
        self.trainer.meter.end()
        self.trainer.meter.step_done()
        seconds = time.perf_counter() - self.trainer.step_started
        self.step_seconds.append(seconds)
        spent, tokens = self._since_log
        self._since_log = (spent + seconds, tokens + self.trainer.real_tokens - self._tokens_seen)
        self._tokens_seen = self.trainer.real_tokens
        if self._symptoms is not None:
            self._warn(self._symptoms.step(state.global_step, self.trainer.last_loss, self.trainer.last_grad_norm))
        if state.global_step >= state.max_steps:
            control.should_log = True
            if self.trainer.eval_dataset is not None:
                control.should_evaluate = True
            control.should_save = True
        self._wait_while_paused(state)
        self._fulfil(state, control)
        self._stop_where_asked(state, control)
        return control

    def _stop_where_asked(self, state: TrainerState, control: TrainerControl) -> None:
        stop = self.flags.stop.is_set() if self.trainer.world.size == 1 else self.trainer.stops
        if stop and state.global_step < state.max_steps:
            self.reason = "stopped"
            control.should_training_stop = True
            control.should_log = True
            control.should_save = True

    def _fulfil(self, state: TrainerState, control: TrainerControl) -> None:
        """What was wanted since the last step."""
        if self.trainer.world.size == 1:
            self.trainer.wishes = wishes.as_row(self.flags.wanted())
        wanted, self.trainer.wishes = self.trainer.wishes, wishes.NOTHING
        due = control.should_evaluate
        new = wishes.fulfil(wanted, self.trainer, state, control, self.events)
        self._by_hand = control.should_evaluate and not due
        if new != self.hyperparameters:
            self.hyperparameters = self.trainer.hyperparameters = new
            self.replan(new)

    def waits(self, state: TrainerState, control: TrainerControl) -> bool:
        """Waits on where the run is paused still; True: it is to evaluate or save before it goes on waiting."""
        if control.should_training_stop or state.global_step >= state.max_steps:
            return False
        while self._pauses():
            self._wait_while_paused(state)
            self._fulfil(state, control)
            self._stop_where_asked(state, control)
            if control.should_evaluate or control.should_save:
                return True
        self._goes_on(state)
        return False

    def _pauses(self) -> bool:
        """Whether the run is to wait; of several processes, as they agreed."""
        if self.trainer.world.size > 1:
            return bool(self.trainer.pauses and not self.trainer.stops)
        return self.flags.pause.is_set() and not self.flags.stop.is_set()

    def _wait_while_paused(self, state: TrainerState) -> None:
        if self.trainer.world.size > 1:
            self._wait_together(state)
            return
        if not self.flags.pause.is_set() or self.flags.stop.is_set():
            self._goes_on(state)
            return
        self.events.emit(PausedEvent(step=state.global_step))
        self._paused = True
        while self.flags.pause.is_set() and not self.flags.stop.is_set() and not self.flags.wishes:
            time.sleep(0.05)
        if self.flags.pause.is_set() and not self.flags.stop.is_set():
            return  # it does what was wanted, and waits again
        self._goes_on(state)

    def _goes_on(self, state: TrainerState) -> None:
        """Says so where a pause was told; it may have ended while the run did what was wanted."""
        if self._paused:
            self._paused = False
            self.events.emit(ResumedEvent(step=state.global_step))

    def _wait_together(self, state: TrainerState) -> None:
        """All processes wait while one is told to pause: they ask each other, so that none waits for a lost one."""
        if not self._pauses():
            self._goes_on(state)
            return
        self.events.emit(PausedEvent(step=state.global_step))
        self._paused = True
        while self._pauses() and not any(self.trainer.wishes):
            time.sleep(0.1)
            asked = (float(self.flags.pause.is_set()), float(self.flags.stop.is_set()))
            table = self.trainer.world.table([*asked, *wishes.as_row(self.flags.wanted())])
            self.trainer.pauses, self.trainer.stops = bool(table[:, 0].any()), bool(table[:, 1].any())
            self.trainer.wishes = table[:, 2:].max(dim=0).values.tolist()
        if not self._pauses():  # else it does what was wanted, and waits again
            self._goes_on(state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: object
    ) -> None:
        if not logs or "loss" not in logs:
            return
        spent, tokens = self._since_log
        steps = max(1, state.global_step - self._last_log_step)
        self._since_log, self._last_log_step = (0.0, 0), state.global_step
        recent = self.step_seconds[-20:] or [0.0]
        told = StepEvent(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=state.epoch,
            loss=logs["loss"],
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            tokens_per_second=tokens / spent if spent else None,
            step_seconds=spent / steps,
            allocated_peak_bytes=self.trainer.meter.peak(),
            device_bytes=devices.device_bytes(self.device),
            seconds_left=statistics.median(recent) * (state.max_steps - state.global_step),
        )
        self.events.emit(told.model_copy(update=self.sensors.read() if self.sensors is not None else {}))

    # ---- evaluation and checkpoints --------------------------------------------------------------------------------

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: object
    ) -> Any:
        loss = metrics["eval_loss"]
        before_training = state.global_step == 0
        by_hand, self._by_hand = self._by_hand, False
        if by_hand:
            next(entry for entry in reversed(state.log_history) if "eval_loss" in entry)[BY_HAND] = True
        best = not before_training and loss < (state.best_metric if state.best_metric is not None else math.inf)
        if before_training:
            self.eval_loss_before = loss
        else:
            self.eval_loss = min(loss, self.eval_loss) if self.eval_loss is not None else loss
        told = EvalEvent(
            step=state.global_step,
            loss=loss,
            perplexity=metrics["eval_perplexity"],
            best=best,
            sample=self.trainer.last_sample,
        )
        more: dict[str, Any] = {"accuracy": metrics["eval_accuracy"]} if "eval_accuracy" in metrics else {}
        if self.asked is not None and told.sample is not None:
            more |= {"sample_prompt": self.asked.prompt, "sample_expected": self.asked.expected}
        self.events.emit(told.model_copy(update=more))
        if best:
            control.should_save = True  # the best weights are on disk, whatever the save interval is
        if by_hand:  # how often a person looks says nothing of how the training goes
            return control
        if not before_training and self._symptoms is not None:
            self._warn(self._symptoms.evaluation(state.global_step, loss))
        if not before_training and self._should_stop_early(state) and state.global_step < state.max_steps:
            self.reason = "early_stopping"
            control.should_training_stop = True
            control.should_save = True
        return control

    def _should_stop_early(self, state: TrainerState) -> bool:
        """Whether the last `patience` evaluations each failed to beat the best before them by the threshold.

        Counted from the log that checkpoints carry, so a resumed run counts on.
        """
        patience = self.hyperparameters.early_stopping_patience
        if patience <= 0:
            return False
        losses = [entry["eval_loss"] for entry in state.log_history if is_due(entry)]
        best, without = math.inf, 0
        for loss in losses:
            if loss < best - self.hyperparameters.early_stopping_threshold:
                best, without = loss, 0
            else:
                without += 1
        return without >= patience

    def on_save(self, args: Any, state: Any, control: Any, **_: object) -> None:
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        kind = "best" if state.best_global_step == state.global_step else "last"
        self.events.emit(CheckpointEvent(path=str(path), step=state.global_step, kind=kind))

    def recall(self, state: TrainerState) -> None:
        """Takes over from a resumed run's log what the evaluations found earlier."""
        self._history = list(state.log_history)
        self._best = state.best_model_checkpoint
        for entry in state.log_history:
            if "eval_loss" not in entry:
                continue
            if entry["step"] == 0:
                self.eval_loss_before = entry["eval_loss"]
            else:
                best = self.eval_loss if self.eval_loss is not None else math.inf
                self.eval_loss = min(best, entry["eval_loss"])


def without_paths(trainer: Any) -> None:
    """TensorBoard's logs get the run's arguments as they are, but for those that hold a path."""
    from transformers.integrations.integration_utils import TensorBoardCallback

    class Board(TensorBoardCallback):
        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            if not state.is_world_process_zero:
                return
            if self.tb_writer is None:
                self._init_summary_writer(args)  # type: ignore[no-untyped-call]
            told = {
                key: value for key, value in args.to_dict().items() if not (isinstance(value, str) and "/" in value)
            }
            self.tb_writer.add_text("args", json.dumps(told, indent=2, default=str))

    if trainer.pop_callback(TensorBoardCallback) is not None:
        trainer.add_callback(Board)
