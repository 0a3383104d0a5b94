"""A run as the live and end screens show it: a snapshot, and how one event of the trainer changes it. UI-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from planner.contract.events import (
    ChangedEvent,
    CheckpointEvent,
    DataEvent,
    EvalEvent,
    Event,
    FailedEvent,
    FinishedEvent,
    OomEvent,
    PausedEvent,
    PhaseEvent,
    ResumedEvent,
    StartedEvent,
    StepEvent,
    Told,
    WarningEvent,
)
from planner.contract.records import Plan
from planner.contract.words import LAYOUT, one_line, shown

Phase = Literal["starting", "running", "paused", "stopping", "finished", "failed"]
Point = tuple[float, float]

CURVE_POINTS = 600
"""A curve that grows past this is thinned to half; a terminal has fewer columns than that."""
LOG_LINES = 500
SAMPLES = 20
"""Samples that are kept."""


class AskedSample(NamedTuple):
    """What the model was asked at an evaluation."""

    prompt: str = ""
    """Empty where the run doesn't tell it, as those of earlier versions."""
    expected: str = ""
    """The answer that the example holds; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSnapshot:
    """Everything that is known of a run at one moment."""

    phase: Phase = "starting"
    doing: str = "starting the trainer"
    """What the trainer does just now, in words."""
    title: str = ""
    """Device, model and data of its plan, in one short line."""
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
    norms: tuple[Point, ...] = ()
    """Norm of the gradients before clipping."""
    memory: tuple[Point, ...] = ()
    """Measured allocated peak so far, by step."""
    loads: tuple[Point, ...] = ()
    """Load of the card in percent, and below its temperature in °C; empty where no sensor tells."""
    heats: tuple[Point, ...] = ()
    samples: tuple[tuple[int, str], ...] = ()
    """(step, what the model wrote), the newest last."""
    asked: tuple[AskedSample, ...] = ()
    """By sample, what it was asked."""
    began: float | None = None
    """Seconds since the epoch at the first event."""
    heard: float | None = None
    """The same at the last."""
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
    device_load: float | None = None
    """Share of the last moments in which the card computed."""
    device_celsius: float | None = None
    device_watts: float | None = None
    watt_hours: float | None = None
    """Energy of the cards so far."""
    sample: str = ""
    checkpoint: str | None = None
    peak_rate: float | None = None
    """Learning rate at the schedule's top, as the plan has it or a person changed it."""
    logging_steps: int | None = None
    log: tuple[str, ...] = ()
    result: FinishedEvent | None = None
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
        title=" · ".join(word for word in (plan.gpu, *_names(plan.model, plan.data.path)) if word),
        device="cpu" if plan.gpu == "cpu" else "",
        predicted_bytes=memory.allocated_peak_bytes if memory else None,
        predicted_device_bytes=memory.device_peak_bytes if memory else None,
        planned_speed=plan.predicted_speed.tokens_per_second if plan.predicted_speed else None,
        peak_rate=plan.hyperparameters.learning_rate,
        logging_steps=plan.hyperparameters.logging_steps,
    )


def _names(*paths: str | None) -> tuple[str, ...]:
    """What each is called without its folder or owner."""
    return tuple(one_line((path or "").rstrip("/").rsplit("/", 1)[-1]) for path in paths)


def _resumable(run: RunSnapshot) -> RunSnapshot:
    return RunSnapshot(
        step=run.step,
        total_steps=run.total_steps,
        train=run.train,
        evals=run.evals,
        learning_rates=run.learning_rates,
        speeds=run.speeds,
        norms=run.norms,
        memory=run.memory,
        loads=run.loads,
        heats=run.heats,
        samples=run.samples,
        asked=run.asked,
        sample=run.sample,
        checkpoint=run.checkpoint,
    )


def reduce(run: RunSnapshot, event: Event) -> RunSnapshot:
    """The snapshot after one event; an unknown kind leaves a line in the log."""
    run = replace(run, began=event.time if run.began is None else run.began, heard=event.time)
    try:
        told = event.told
        return _logged(run, f"{event.kind} {event.data}") if told is None else _after(run, told)
    except (TypeError, ValueError, ArithmeticError):
        # Another program's run, or a damaged one: what it says is shown, not believed.
        return _logged(run, f"{event.kind} that can't be read: {str(event.data)[:200]}")


def _after(run: RunSnapshot, told: Told) -> RunSnapshot:
    match told:
        case StartedEvent():
            return _started(run, told)
        case PhaseEvent():
            return _phase(run, told)
        case DataEvent():
            return _data(run, told)
        case StepEvent():
            return _step(run, told)
        case EvalEvent():
            return _eval(run, told)
        case CheckpointEvent():
            return _checkpoint(run, told)
        case WarningEvent():
            advice = f" ({told.advice})" if told.advice else ""
            return _logged(run, f"warning: {told.message or told.what or ''}{advice}")
        case OomEvent():
            return _oom(run, told)
        case PausedEvent():
            step = run.step if told.step is None else told.step
            doing = f"paused after step {step}"
            return _logged(replace(run, phase="paused", doing=doing, step=step), doing)
        case ResumedEvent():
            step = run.step if told.step is None else told.step
            return _logged(replace(run, phase="running", doing="training"), f"goes on after step {step}")
        case ChangedEvent():
            return _changed(run, told)
        case FinishedEvent():
            return _finished(run, told)
        case FailedEvent():
            return fail(run, told.message or death(told.exit_code))
    return run


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


def _curve(points: tuple[Point, ...], x: float, y: float | None) -> tuple[Point, ...]:
    if y is None:
        return points
    # A resumed run repeats the steps after its checkpoint: the later word holds.
    longer = (*(point for point in points if point[0] < x), (x, y))
    return longer if len(longer) <= CURVE_POINTS else longer[::2]


def _started(run: RunSnapshot, told: StartedEvent) -> RunSnapshot:
    device = one_line(told.device or "")
    run_dir = run.run_dir if told.run_dir is None else told.run_dir
    run = replace(
        run, phase="running", doing="started", run_dir=run_dir, device=device, total_steps=told.total_steps or 0
    )
    trainable = told.trainable_parameters
    parts = f", {trainable:,} trainable parameters" if trainable is not None else ""
    return _logged(run, f"started on {device}: {run.total_steps} steps{parts}")


def _phase(run: RunSnapshot, told: PhaseEvent) -> RunSnapshot:
    name, detail = one_line(told.name or ""), one_line(told.detail or "")
    words = {"load": "loading the model", "data": "reading the data", "train": "training", "eval": "evaluating"}
    words |= {"save": "saving", "finish": "finishing"}
    doing = words.get(name, name) + (f": {detail}" if detail else "")
    phase: Phase = run.phase if run.phase in ("stopping", "paused") else "running"
    run = replace(run, phase=phase, doing=doing)
    # These come round with every evaluation, which has a line of its own.
    return run if name in ("train", "eval", "save") else _logged(run, doing)


def _data(run: RunSnapshot, told: DataEvent) -> RunSnapshot:
    examples = "?" if told.examples is None else told.examples
    line = f"{examples} examples to train on, {told.validation_examples or 0} to validate"
    if told.truncated:
        line += f", {told.truncated} truncated"
    if told.skipped:
        line += f", {told.skipped} skipped"
    return _logged(run, line)


def _step(run: RunSnapshot, told: StepEvent) -> RunSnapshot:
    step = run.step if told.step is None else told.step
    measured = [value for value in (run.measured_bytes, told.allocated_peak_bytes) if value]
    device = [value for value in (run.device_bytes, told.device_bytes) if value]
    phase: Phase = run.phase if run.phase in ("stopping", "paused") else "running"
    if phase == "paused" and step > run.step:
        phase = "running"  # it has made another step
    return replace(
        run,
        phase=phase,
        doing="training" if phase == "running" else run.doing,
        step=step,
        total_steps=told.total_steps or run.total_steps,
        epoch=told.epoch or run.epoch,
        loss=run.loss if told.loss is None else (step, told.loss),
        train=_curve(run.train, step, told.loss),
        learning_rates=_curve(run.learning_rates, step, told.learning_rate),
        speeds=_curve(run.speeds, step, told.tokens_per_second),
        norms=_curve(run.norms, step, told.grad_norm),
        memory=_curve(run.memory, step, max(measured, default=None)),
        loads=_curve(run.loads, step, None if told.device_load is None else 100 * told.device_load),
        heats=_curve(run.heats, step, told.device_celsius),
        step_seconds=run.step_seconds if told.step_seconds is None else told.step_seconds,
        seconds_left=run.seconds_left if told.seconds_left is None else told.seconds_left,
        measured_bytes=max(measured, default=None),
        device_bytes=max(device, default=None),
        device_load=told.device_load,
        device_celsius=told.device_celsius,
        device_watts=told.device_watts,
        watt_hours=run.watt_hours if told.device_watt_hours is None else told.device_watt_hours,
    )


def _eval(run: RunSnapshot, told: EvalEvent) -> RunSnapshot:
    step = run.step if told.step is None else told.step
    line = f"step {step}: evaluated" if told.loss is None else f"step {step}: evaluation loss {told.loss:.4f}"
    if told.perplexity is not None:
        line += f", perplexity {told.perplexity:.4g}"
    if told.best:
        line += ", the best so far"
    evals = _curve(run.evals, step, told.loss)
    run = replace(run, step=max(run.step, step), evals=evals)
    if told.sample:
        sample, *words = (shown(x or "", keep=LAYOUT) for x in (told.sample, told.sample_prompt, told.sample_expected))
        samples, asked = (*run.samples, (step, sample)), (*run.asked, AskedSample(*words))
        run = replace(run, sample=sample, samples=samples[-SAMPLES:], asked=asked[-SAMPLES:])
    return _logged(run, line)


def _checkpoint(run: RunSnapshot, told: CheckpointEvent) -> RunSnapshot:
    kind, step = told.kind or "last", run.step if told.step is None else told.step
    kept = run.checkpoint if kind == "best" and run.checkpoint else told.path or ""
    return _logged(replace(run, checkpoint=kept), f"step {step}: {kind} checkpoint saved")


def _oom(run: RunSnapshot, told: OomEvent) -> RunSnapshot:
    def known(value: int | None) -> str:
        return "?" if value is None else str(value)

    outcome = "nothing is left to halve"
    if told.new_batch_size is not None:
        outcome = f"now {told.new_batch_size}, accumulation {known(told.gradient_accumulation_steps)}"
    return _logged(
        run,
        f"out of memory in {told.phase or 'the step'} at step {run.step if told.step is None else told.step}: batch "
        f"{known(told.batch_size)}, {outcome}",
    )


def _changed(run: RunSnapshot, told: ChangedEvent) -> RunSnapshot:
    if told.after is not None and told.name == "learning_rate":
        run = replace(run, peak_rate=told.after)
    elif told.after is not None and told.name == "logging_steps":
        run = replace(run, logging_steps=int(told.after))
    name = one_line(told.name or "a setting").replace("_", " ")
    before, after = ("?" if value is None else f"{value:g}" for value in (told.before, told.after))
    return _logged(run, f"{name} changed from {before} to {after} after step {told.step or run.step}")


REASONS = {"early_stopping": "stopped early (the evaluation loss no longer fell)"}


def _finished(run: RunSnapshot, told: FinishedEvent) -> RunSnapshot:
    reason = told.reason or "completed"
    reason = REASONS.get(reason, one_line(reason))
    return _logged(
        replace(
            run,
            phase="finished",
            doing=reason,
            result=told,
            seconds_left=0.0,
            predicted_bytes=told.predicted_bytes or run.predicted_bytes,
            measured_bytes=told.measured_bytes or run.measured_bytes,
            watt_hours=told.device_watt_hours or run.watt_hours,
        ),
        f"{reason} after {run.step if told.steps is None else told.steps} steps",
    )


def near_path(path: str | Path | None) -> str:
    """A path as seen from here where it lies below, whole elsewhere; empty for none."""
    if not path:
        return ""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
