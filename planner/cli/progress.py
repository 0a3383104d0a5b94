"""A training run as text on stderr: one moving line in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import signal
import sys
import time
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from planner.errors import RunFailed
from planner.records import Event
from planner.units import format_bytes, format_duration

if TYPE_CHECKING:
    from planner.runs import Run

LINE_SECONDS = 10.0
"""Outside a terminal a step is reported so often at most."""


class Follower:
    """Reads a run's events, shows them, and keeps what the end needs."""

    def __init__(self, stream: IO[str] | None = None, *, raw: bool = False) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.raw = raw
        """Pass the events on as JSON lines on stdout instead of showing them."""
        self.moving = self.stream.isatty()
        self.finished: dict[str, Any] | None = None
        self.failed: dict[str, Any] | None = None
        self.started: dict[str, Any] = {}
        self.interrupts = 0
        self._open_line = False
        self._last_line = 0.0

    def follow(self, run: Run) -> int:
        """Shows the run to its end; exit code 0 also when it was stopped. Ctrl-C or SIGTERM stops it, twice kills."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.interrupts += 1
            if self.interrupts == 1:
                self._say("stopping after this step with a checkpoint (Ctrl-C again to end at once)")
                run.stop()
            else:
                run.kill()

        # SIGTERM to this process must not leave the trainer behind unseen.
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for event in run:
                if self.raw:
                    print(event.model_dump_json(by_alias=True), flush=True)
                self.show(event)
            code = run.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close_line()
        if self.failed is not None:
            return int(self.failed.get("exit_code") or RunFailed.exit_code)
        return 0 if code == 0 else RunFailed.exit_code

    def show(self, event: Event) -> None:
        """One event as text; kinds it does not know are passed over."""
        data = event.data
        if event.kind == "started":
            self.started = data
            self._say(
                f"training on {data.get('device')}: {data.get('total_steps')} steps in {data.get('run_dir')} "
                f"(Ctrl-C stops with a checkpoint)"
            )
        elif event.kind == "phase":
            # A phase without a detail says nothing that its own event does not.
            if data.get("detail"):
                self._say(f"{data.get('name')}: {data['detail']}")
        elif event.kind == "data":
            self._say(
                f"data: {data.get('examples')} examples, {data.get('validation_examples')} to validate, "
                f"{data.get('truncated')} cut, {data.get('skipped')} skipped"
            )
        elif event.kind == "step":
            self._step(data)
        elif event.kind == "eval":
            best = ", best so far" if data.get("best") else ""
            self._say(f"step {data.get('step')}: validation loss {_number(data.get('loss'), '.4f')}{best}")
        elif event.kind == "warning":
            self._say(f"warning: {data.get('message')}" + (f" ({data['advice']})" if data.get("advice") else ""))
        elif event.kind == "oom":
            new = data.get("new_batch_size")
            outcome = "nothing is left to halve" if new is None else f"becomes {new}, the effective batch stays"
            self._say(f"out of memory in {data.get('phase')}: micro-batch {data.get('batch_size')} {outcome}")
        elif event.kind == "finished":
            self.finished = data
        elif event.kind == "failed":
            self.failed = data
            if not self.raw:
                self._say(f"failed: {data.get('message')}")

    def _step(self, data: dict[str, Any]) -> None:
        step, total = data.get("step"), data.get("total_steps")
        now = time.monotonic()
        if not self.moving and step != total and now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        left = data.get("seconds_left")
        memory = data.get("device_bytes") or data.get("allocated_peak_bytes")
        parts = [
            f"step {step}/{total}",
            f"loss {_number(data.get('loss'), '.4f')}",
            f"lr {_number(data.get('learning_rate'), '.2g')}",
            f"{_number(data.get('tokens_per_second'), ',.0f')} tok/s",
        ]
        parts += [format_bytes(memory)] if memory else []
        parts += [f"{format_duration(left)} left"] if left else []
        line = "  ".join(parts)
        if self.moving:
            print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)
            self._open_line = True
        else:
            self._say(line)

    def _say(self, line: str) -> None:
        self._close_line()
        print(f"plan: {line}", file=self.stream, flush=True)

    def _close_line(self) -> None:
        if self._open_line:
            print(file=self.stream)
            self._open_line = False


def _number(value: Any, form: str) -> str:
    if not isinstance(value, int | float) or (isinstance(value, float) and math.isnan(value)):
        return "?"
    return format(value, form)


def summary_lines(finished: dict[str, Any]) -> list[str]:
    """What a finished run has to say: how it ended, loss before and after, promised against measured memory, where."""
    reason = {"completed": "Completed", "stopped": "Stopped", "early_stopping": "Stopped early"}
    seconds = finished.get("seconds")
    lines = [
        f"{reason.get(str(finished.get('reason')), 'Ended')} after {finished.get('steps')} steps"
        + (f" in {format_duration(seconds)}" if isinstance(seconds, int | float) else "")
    ]
    before, after = finished.get("eval_loss_before"), finished.get("eval_loss")
    if before is not None and after is not None:
        lines.append(
            f"Held-out loss: {before:.4f} before, {after:.4f} after (perplexity {_exp(before)} to {_exp(after)})"
        )
    predicted, measured = finished.get("predicted_bytes"), finished.get("measured_bytes")
    if predicted and measured:
        off = measured / predicted - 1
        side = "above" if off > 0 else "below"
        lines.append(
            f"Peak of tensors: {format_bytes(predicted)} predicted, {format_bytes(measured)} measured "
            f"({abs(off):.1%} {side} the prediction)"
        )
    elif measured:
        lines.append(f"Peak of tensors: {format_bytes(measured)} measured (the plan holds no prediction)")
    for key, title in (("adapter_path", "Adapter"), ("observation_path", "Observation")):
        if finished.get(key):
            lines.append(f"{title}: {finished[key]}")
    return lines


def _exp(loss: float) -> str:
    return f"{math.exp(loss):.2f}" if loss < 50 else "huge"
