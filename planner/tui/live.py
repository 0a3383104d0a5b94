"""A run as the live and end screens show it: a snapshot, and how one event of the trainer changes it. UI-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from planner.contract.records import Event, Plan
from planner.contract.units import format_bytes, format_deviation, format_duration
from planner.contract.words import LAYOUT, one_line, shown
from planner.tui.figures import short_bytes

Phase = Literal["starting", "running", "paused", "stopping", "finished", "failed"]
Point = tuple[float, float]

CURVE_POINTS = 600
"""A curve that grows past this is thinned to half; a terminal has fewer columns than that."""
LOG_LINES = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSnapshot:
    """Everything that is known of a run at one moment."""

    phase: Phase = "starting"
    doing: str = "starting the trainer"
    """What the trainer does just now, in words."""
    run_dir: str = ""
    device: str = ""
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: Point | None = None
    train: tuple[Point, ...] = ()
    evals: tuple[Point, ...] = ()
    learning_rates: tuple[Point, ...] = ()
    speeds: tuple[Point, ...] = ()
    step_seconds: float | None = None
    seconds_left: float | None = None
    predicted_bytes: int | None = None
    """Predicted allocated peak."""
    predicted_device_bytes: int | None = None
    planned_speed: float | None = None
    """Tokens per second that the plan promised."""
    measured_bytes: int | None = None
    """Measured allocated peak so far."""
    device_bytes: int | None = None
    sample: str = ""
    checkpoint: str | None = None
    log: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    """`data` of the `finished` event."""
    failure: str | None = None

    @property
    def over(self) -> bool:
        """Whether the trainer has ended."""
        return self.phase in ("finished", "failed")

    @property
    def deviation(self) -> float | None:
        """Measured over predicted peak, minus one; None while either is unknown."""
        if not self.predicted_bytes or not self.measured_bytes:
            return None
        return self.measured_bytes / self.predicted_bytes - 1


def begin(plan: Plan, before: RunSnapshot | None = None) -> RunSnapshot:
    """The snapshot before the first event: what the plan promised, and the curves of the run that is resumed."""
    memory = plan.predicted
    return replace(
        RunSnapshot() if before is None else _resumable(before),
        predicted_bytes=memory.allocated_peak_bytes if memory else None,
        predicted_device_bytes=memory.device_peak_bytes if memory else None,
        planned_speed=plan.predicted_speed.tokens_per_second if plan.predicted_speed else None,
    )


def _resumable(run: RunSnapshot) -> RunSnapshot:
    return RunSnapshot(
        step=run.step,
        total_steps=run.total_steps,
        train=run.train,
        evals=run.evals,
        learning_rates=run.learning_rates,
        speeds=run.speeds,
        sample=run.sample,
        checkpoint=run.checkpoint,
    )


def reduce(run: RunSnapshot, event: Event) -> RunSnapshot:
    """The snapshot after one event; an unknown kind leaves a line in the log."""
    handler = _HANDLERS.get(event.kind)
    if handler is None:
        return _logged(run, f"{event.kind} {event.data}")
    try:
        return handler(run, event.data)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        # Another program's run, or a damaged one: what it says is shown, not believed.
        return _logged(run, f"{event.kind} that can't be read: {str(event.data)[:200]}")


def ended(run: RunSnapshot, exit_code: int | None, tail: str = "") -> RunSnapshot:
    """The process has ended; without a `finished` or `failed` event before, that is the failure."""
    if run.over:
        return run
    return fail(run, death(exit_code, tail))


def fail(run: RunSnapshot, message: str) -> RunSnapshot:
    """The run failed, for the reason given in one line."""
    line = one_line(message)
    return _logged(replace(run, phase="failed", doing="failed", failure=line, seconds_left=None), line)


def death(exit_code: int | None, tail: str = "") -> str:
    """How a trainer ended that said nothing itself, in one line."""
    if exit_code is None:
        text = "the trainer ended without a last word: it was killed, or the machine went down"
    elif exit_code < 0:
        text = f"the trainer was killed by signal {-exit_code}"
        if exit_code == -9:
            text += " (a SIGKILL often means that the machine ran out of memory)"
    else:
        text = f"the trainer ended with exit code {exit_code} before it finished"
    last = [line for line in tail.split("\n") if line.strip()]
    return f"{text}: {last[-1].strip()}" if last else text


def note(run: RunSnapshot, phase: Phase, doing: str) -> RunSnapshot:
    """What the person asked for, shown until the trainer answers."""
    return run if run.over else _logged(replace(run, phase=phase, doing=doing), doing)


def _logged(run: RunSnapshot, line: str) -> RunSnapshot:
    return replace(run, log=(*run.log, shown(line, keep=LAYOUT))[-LOG_LINES:])


def _curve(points: tuple[Point, ...], x: float, y: Any) -> tuple[Point, ...]:
    if y is None or not math.isfinite(float(y)):
        return points
    # A resumed run repeats the steps after its checkpoint: the later word holds.
    longer = (*(point for point in points if point[0] < x), (x, float(y)))
    return longer if len(longer) <= CURVE_POINTS else longer[::2]


def _started(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    device = one_line(data.get("device", ""))
    run = replace(
        run,
        phase="running",
        doing="started",
        run_dir=str(data.get("run_dir", run.run_dir)),
        device=device,
        total_steps=int(data.get("total_steps") or 0),
    )
    trainable = data.get("trainable_parameters")
    parts = f", {trainable:,} trainable parameters" if isinstance(trainable, int) else ""
    return _logged(run, f"started on {device}: {run.total_steps} steps{parts}")


def _phase(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    name, detail = one_line(data.get("name", "")), one_line(data.get("detail") or "")
    words = {"load": "loading the model", "data": "reading the data", "train": "training", "eval": "evaluating"}
    words |= {"save": "saving", "finish": "finishing"}
    doing = words.get(name, name) + (f": {detail}" if detail else "")
    phase: Phase = run.phase if run.phase in ("stopping", "paused") else "running"
    run = replace(run, phase=phase, doing=doing)
    # These come round with every evaluation, which has a line of its own.
    return run if name in ("train", "eval", "save") else _logged(run, doing)


def _data(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    line = f"{data.get('examples', '?')} examples to train on, {data.get('validation_examples', 0)} to validate"
    if data.get("truncated"):
        line += f", {data['truncated']} truncated"
    if data.get("skipped"):
        line += f", {data['skipped']} skipped"
    return _logged(run, line)


def _step(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    step = int(data.get("step", run.step))
    loss = data.get("loss")
    measured = [value for value in (run.measured_bytes, data.get("allocated_peak_bytes")) if value]
    device = [value for value in (run.device_bytes, data.get("device_bytes")) if value]
    phase: Phase = run.phase if run.phase in ("stopping", "paused") else "running"
    return replace(
        run,
        phase=phase,
        doing="training" if phase == "running" else run.doing,
        step=step,
        total_steps=int(data.get("total_steps") or run.total_steps),
        epoch=float(data.get("epoch") or run.epoch),
        loss=(step, float(loss)) if loss is not None else run.loss,
        train=_curve(run.train, step, loss),
        learning_rates=_curve(run.learning_rates, step, data.get("learning_rate")),
        speeds=_curve(run.speeds, step, data.get("tokens_per_second")),
        step_seconds=data.get("step_seconds", run.step_seconds),
        seconds_left=data.get("seconds_left", run.seconds_left),
        measured_bytes=max(measured, default=None),
        device_bytes=max(device, default=None),
    )


def _eval(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    step, loss = int(data.get("step", run.step)), data.get("loss")
    line = f"step {step}: evaluation loss {loss:.4f}" if isinstance(loss, (int, float)) else f"step {step}: evaluated"
    perplexity = data.get("perplexity")
    if isinstance(perplexity, (int, float)):
        line += f", perplexity {perplexity:.4g}"
    if data.get("best"):
        line += ", the best so far"
    sample = data.get("sample")
    run = replace(run, step=max(run.step, step), evals=_curve(run.evals, step, loss))
    if sample:
        run = replace(run, sample=sample_text(sample))
    return _logged(run, line)


def sample_text(sample: Any) -> str:
    """The sample of an evaluation as text, whether the trainer sent a string or prompt and completion."""
    if isinstance(sample, dict):
        return shown("\n".join(f"{name}: {value}" for name, value in sample.items() if value is not None), keep=LAYOUT)
    return shown(sample, keep=LAYOUT)


def _checkpoint(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    path = str(data.get("path", ""))
    kind = data.get("kind", "last")
    kept = run.checkpoint if kind == "best" and run.checkpoint else path
    return _logged(replace(run, checkpoint=kept), f"step {data.get('step', run.step)}: {kind} checkpoint saved")


def _warning(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    message, advice = str(data.get("message") or data.get("what") or ""), str(data.get("advice") or "")
    return _logged(run, f"warning: {message}" + (f" ({advice})" if advice else ""))


def _oom(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    new = data.get("new_batch_size")
    outcome = (
        "nothing is left to halve"
        if new is None
        else f"now {new}, accumulation {data.get('gradient_accumulation_steps', '?')}"
    )
    return _logged(
        run,
        f"out of memory in {data.get('phase', 'the step')} at step {data.get('step', run.step)}: batch "
        f"{data.get('batch_size', '?')}, {outcome}",
    )


def _paused(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    step = data.get("step", run.step)
    doing = f"paused after step {step}"
    return _logged(replace(run, phase="paused", doing=doing, step=int(step)), doing)


def _resumed(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    return _logged(replace(run, phase="running", doing="training"), f"goes on after step {data.get('step', run.step)}")


REASONS = {"early_stopping": "stopped early (the evaluation loss no longer fell)"}


def _finished(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    reason = REASONS.get(str(data.get("reason", "completed")), one_line(data.get("reason")))
    return _logged(
        replace(
            run,
            phase="finished",
            doing=reason,
            result=data,
            seconds_left=0.0,
            predicted_bytes=data.get("predicted_bytes") or run.predicted_bytes,
            measured_bytes=data.get("measured_bytes") or run.measured_bytes,
        ),
        f"{reason} after {data.get('steps', run.step)} steps",
    )


def _failed(run: RunSnapshot, data: dict[str, Any]) -> RunSnapshot:
    return fail(run, str(data.get("message") or death(data.get("exit_code"))))


_HANDLERS = {
    "started": _started, "phase": _phase, "data": _data, "step": _step, "eval": _eval, "checkpoint": _checkpoint,
    "warning": _warning, "oom": _oom, "paused": _paused, "resumed": _resumed, "finished": _finished, "failed": _failed,
}  # fmt: skip


def figures(run: RunSnapshot) -> list[tuple[str, str]]:
    """Name and text of every number that the live screen lists."""
    rows: list[tuple[str, str]] = [
        ("loss", f"{run.train[-1][1]:.4f}" if run.train else "–"),
        ("eval loss", f"{run.evals[-1][1]:.4f}" if run.evals else "–"),
        ("learning rate", f"{run.learning_rates[-1][1]:.2e}" if run.learning_rates else "–"),
        ("tokens/s", f"{run.speeds[-1][1]:,.0f}" if run.speeds else "–"),
        ("step time", format_duration(run.step_seconds) if run.step_seconds else "–"),
        ("epoch", f"{run.epoch:.2f}" if run.epoch else "–"),
        ("time left", format_duration(run.seconds_left) if run.seconds_left is not None else "–"),
    ]
    return rows


def memory_lines(run: RunSnapshot) -> list[tuple[str, int | None]]:
    """Predicted and measured peak of allocated bytes (live tensors), on one scale."""
    return [("predicted", run.predicted_bytes), ("measured", run.measured_bytes)]


def holder(run: RunSnapshot) -> str:
    """Whose bytes `device_bytes` are: a CPU has no memory of its own, so there it is the whole process."""
    return "process" if run.device.endswith("cpu") else "device"


def device_text(run: RunSnapshot) -> str:
    """What the device holds for the process, beside what was predicted."""
    measured = short_bytes(run.device_bytes) if run.device_bytes else "–"
    return measured + (f" plan {short_bytes(run.predicted_device_bytes)}" if run.predicted_device_bytes else "")


def deviation_text(run: RunSnapshot) -> str:
    """How far the measured peak is from the predicted one, e.g. `+1.2 %`."""
    deviation = run.deviation
    return "–" if deviation is None else format_deviation(deviation).replace("%", " %")


def outcome(run: RunSnapshot) -> list[tuple[str, str]]:
    """Name and text of every figure on the end screen."""
    data = run.result or {}
    if not data.get("steps", run.step):
        return [("steps", "none: it was stopped before the first one, and nothing was trained")]
    before, after = data.get("eval_loss_before"), data.get("eval_loss")
    steps = f"{data.get('steps', run.step)}" + (f" of {run.total_steps}" if run.total_steps else "")
    if data.get("seconds") is not None:
        steps += f" in {format_duration(float(data['seconds']))}"
    written = near_path(data.get("adapter_path"))
    rows = [("model" if Path(written).name == "model" else "adapter", written or "none written"), ("steps", steps)]
    if after is not None:
        first = "" if before is None else f"{before:.4f} before, "
        rows.append(("held-out loss", f"{first}{after:.4f} after"))
    rows.append(("peak in tensors", _beside(run.measured_bytes, run.predicted_bytes, f" ({deviation_text(run)})")))
    if data.get("as_predicted") is False:
        rows.append(("", "predicted for the heaviest batch; the measured steps met lighter ones"))
    if run.device_bytes:
        rows.append((f"peak of {holder(run)}", _beside(run.device_bytes, run.predicted_device_bytes)))
    if run.speeds:
        planned = f", planned {run.planned_speed:,.0f}" if run.planned_speed else ""
        rows.append(("tokens/s", f"{median(speed for _, speed in run.speeds):,.0f}{planned}"))
    if data.get("observation_path"):
        rows.append(("observation", near_path(data["observation_path"])))
    return rows


def _beside(measured: int | None, predicted: int | None, more: str = "") -> str:
    """`13.1 MiB measured, 12.9 MiB predicted`, with more behind it where both are known."""
    if not measured:
        return "not measured" + (f", {format_bytes(predicted)} predicted" if predicted else "")
    text = f"{format_bytes(measured)} measured"
    return f"{text}, {format_bytes(predicted)} predicted{more}" if predicted else text


def near_path(path: Any) -> str:
    """A path as seen from here where it lies below, whole elsewhere; empty for none."""
    if not path:
        return ""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
