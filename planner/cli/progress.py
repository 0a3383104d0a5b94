"""A training run as text on stderr: one moving line in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from planner.cli.signals import handling, hanging_up
from planner.contract import process
from planner.contract.errors import Interrupted, RunFailed
from planner.contract.events import (
    DataEvent,
    EvalEvent,
    Event,
    FailedEvent,
    FinishedEvent,
    OomEvent,
    PhaseEvent,
    StartedEvent,
    StepEvent,
    WarningEvent,
)
from planner.contract.run_folder import checkpoints
from planner.contract.units import format_bytes, format_duration, format_energy
from planner.contract.words import json_safe, shown

if TYPE_CHECKING:
    from planner.handover.trainer_process import Run

LINE_SECONDS = 10.0
"""Outside a terminal a step is reported so often at most."""


class Follower:
    """Reads a run's events, shows them, and keeps what the end needs."""

    def __init__(self, stream: IO[str] | None = None, *, raw: bool = False) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.raw = raw
        """Pass the events on as JSON lines on stdout instead of showing them."""
        self.moving = self.stream.isatty()
        self.finished: FinishedEvent | None = None
        self.failed: FailedEvent | None = None
        self.started = StartedEvent()
        self.interrupts = 0
        self._stepping = False
        self._deaf = False
        """Whether stdout has lost its reader: the events go on in the run folder."""
        self._open_line = False
        self._last_line = 0.0

    def follow(self, run: Run) -> int:
        """Shows the run to its end. Ctrl-C or SIGTERM stops it, twice ends it at once; either way the exit code is 130
        unless the run completed all the same.
        """

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.interrupts += 1
            if self.interrupts == 1:
                how = "after this step with a checkpoint" if self._stepping else "before the first step"
                self._say(f"stopping {how} (Ctrl-C again to end at once)")
                run.stop()
            else:
                run.kill()

        # SIGTERM to this process must not leave the trainer behind unseen.
        try:
            with hanging_up(run.let_go), handling(interrupt, terminal=False):
                for event in run:
                    self._pass_on(event)
                    self.show(event)
                code = run.wait()
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._close_line()
        if self.stopped:
            return Interrupted.exit_code
        if self.failed is not None:
            return process.exit_code(self.failed.exit_code or 0) or RunFailed.exit_code
        return 0 if code == 0 else RunFailed.exit_code

    @property
    def stopped(self) -> bool:
        """Whether the run ended because this process was told to end it."""
        if self.interrupts == 0:
            return False
        if self.finished is not None:
            return self.finished.reason == "stopped"
        return self.interrupts > 1 or self.failed is None

    def _pass_on(self, event: Event) -> None:
        if not self.raw or self._deaf:
            return
        try:
            print(json_safe(event.model_dump_json(by_alias=True)), flush=True)
        except BrokenPipeError:
            self._deaf = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._say("nobody reads the events any more; the training goes on (Ctrl-C stops it with a checkpoint)")

    def show(self, event: Event) -> None:
        """One event as text; kinds it does not know are passed over."""
        told = event.told
        if isinstance(told, StepEvent | EvalEvent):
            self._stepping = True
        match told:
            case StartedEvent():
                self.started = told
                self._say(
                    f"training on {told.device}: {told.total_steps} steps in {told.run_dir} (Ctrl-C stops with a "
                    "checkpoint)"
                )
            case PhaseEvent():
                # A phase without a detail says nothing that its own event does not.
                if told.detail:
                    self._say(f"{told.name}: {told.detail}")
            case DataEvent():
                self._say(
                    f"data: {told.examples} examples, {told.validation_examples} to validate, {told.truncated} cut, "
                    f"{told.skipped} skipped"
                )
            case StepEvent():
                self._step(told)
            case EvalEvent():
                best = ", best so far" if told.best else ""
                self._say(f"step {told.step}: validation loss {_number(told.loss, '.4f')}{best}")
            case WarningEvent():
                self._say(f"warning: {told.message}" + (f" ({told.advice})" if told.advice else ""))
            case OomEvent():
                new = told.new_batch_size
                outcome = "nothing is left to halve" if new is None else f"becomes {new}, the effective batch stays"
                self._say(f"out of memory in {told.phase}: micro-batch {told.batch_size} {outcome}")
            case FinishedEvent():
                self.finished = told
            case FailedEvent():
                self.failed = told
                if not self.raw and self.interrupts < 2:
                    self._say(f"failed: {told.message}")

    def _step(self, told: StepEvent) -> None:
        now = time.monotonic()
        if not self.moving and told.step != told.total_steps and now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        parts = [
            f"step {told.step}/{told.total_steps}",
            f"loss {_number(told.loss, '.4f')}",
            f"lr {_number(told.learning_rate, '.2g')}",
            f"{_number(told.tokens_per_second, ',.0f')} tok/s",
        ]
        parts += [text] if (text := self._memory(told)) else []
        parts += [f"{told.device_watts:.0f} W"] if told.device_watts else []
        parts += [f"{format_duration(told.seconds_left)} left"] if told.seconds_left else []
        line = "  ".join(parts)
        if self.moving:  # a terminal: nothing that could lose its reader
            print(f"\r\x1b[K{shown(line)}", end="", file=self.stream, flush=True)
            self._open_line = True
        else:
            self._say(line)

    def _memory(self, told: StepEvent) -> str:
        """The peak of tensors, which the end of the run and every prediction name; beside it what the device holds."""
        tensors, held = told.allocated_peak_bytes, told.device_bytes
        where = "process" if (self.started.device or "").endswith("cpu") else "device"
        parts = [f"tensors {format_bytes(tensors)}"] if tensors else []
        parts += [f"{where} {format_bytes(held)}"] if held else []
        return ", ".join(parts)

    def _say(self, line: str) -> None:
        # stderr without a reader (`2>&1 | head`) is no reason to lose a training.
        with contextlib.suppress(BrokenPipeError):
            self._close_line()
            print(f"plan: {shown(line)}", file=self.stream, flush=True)

    def _close_line(self) -> None:
        if self._open_line:
            print(file=self.stream)
            self._open_line = False


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def summary_lines(finished: FinishedEvent) -> list[str]:
    """What a finished run has to say: how it ended, loss before and after, promised against measured memory, where."""
    if finished.reason == "stopped" and not finished.steps:
        return []  # nothing was trained, and `kept_line` says so
    reason = {"completed": "Completed", "stopped": "Stopped", "early_stopping": "Stopped early"}
    took = f" in {format_duration(finished.seconds)}" if finished.seconds is not None else ""
    lines = [f"{reason.get(finished.reason or '', 'Ended')} after {finished.steps} steps{took}"]
    before, after = finished.eval_loss_before, finished.eval_loss
    if before is not None and after is not None:
        lines.append(
            f"Held-out loss: {before:.4f} before, {after:.4f} after (perplexity {_exp(before)} to {_exp(after)})"
        )
    predicted, measured = finished.predicted_bytes, finished.measured_bytes
    if predicted and measured:
        off = measured / predicted - 1
        side = "as predicted"
        if abs(off) >= 0.0005:
            side = f"{abs(off):.1%} {'above' if off > 0 else 'below'} the prediction"
        if finished.as_predicted is False:
            side += ", which is for the heaviest batch; the measured steps met lighter ones"
        lines.append(
            f"Peak of tensors: {format_bytes(predicted)} predicted, {format_bytes(measured)} measured ({side})"
        )
    elif measured:
        lines.append(f"Peak of tensors: {format_bytes(measured)} measured (the plan holds no prediction)")
    if finished.device_watt_hours:
        lines.append(f"Energy of the card: {format_energy(finished.device_watt_hours)}")
    whole = Path(finished.adapter_path or "").name == "model"  # of full fine-tuning
    written = (("Model" if whole else "Adapter", finished.adapter_path), ("Observation", finished.observation_path))
    return [*lines, *(f"{title}: {path}" for title, path in written if path)]


def kept_line(run_dir: str | Path | None, device: str = "auto") -> str:
    """What a run that was interrupted leaves, and the command that goes on from there."""
    newest = _newest_checkpoint(Path(run_dir)) if run_dir else None
    if newest is None:
        return "stopped before there was a checkpoint: nothing is kept, the same command starts again"
    folder = newest.parent
    words = ["plan", "train", _near(folder / "plan.yaml"), "--output", _near(folder), "--resume"]
    words += ["--device", device] if device != "auto" else []
    return f"{newest.name} is kept in {_near(folder)}; go on with: {shlex.join(words)}"


def _newest_checkpoint(folder: Path) -> Path | None:
    return next((path for _, path in checkpoints(folder)), None)


def _near(path: Path) -> str:
    """Relative to the working folder where it lies below it."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def _exp(loss: float) -> str:
    return f"{math.exp(loss):.2f}" if loss < 50 else "huge"
