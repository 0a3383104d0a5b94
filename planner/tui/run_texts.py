"""What is said of a run: its figures, its memory predicted beside measured, and what came of it. UI-free."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from statistics import median

from planner.contract.events import FinishedEvent
from planner.contract.units import format_bytes, format_deviation, format_duration, format_energy
from planner.tui.figures import short_bytes
from planner.tui.live import RunSnapshot, near_path

CLOCK_FROM = 60
"""Seconds that have to be left for the clock's time of the end to be worth saying."""


def figures(run: RunSnapshot) -> list[tuple[str, str]]:
    """Name and text of every number that the live screen lists."""
    rows: list[tuple[str, str]] = [
        ("loss", f"{run.train[-1][1]:.4f}" if run.train else "–"),
        ("eval loss", eval_text(run)),
        ("learning rate", f"{run.learning_rates[-1][1]:.2e}" if run.learning_rates else "–"),
        ("tokens/s", f"{run.speeds[-1][1]:,.0f}" if run.speeds else "–"),
        ("step time", format_duration(run.step_seconds) if run.step_seconds else "–"),
        ("epoch", f"{run.epoch:.2f}" if run.epoch else "–"),
        ("time left", left_text(run)),
        *sensor_rows(run),
    ]
    return rows


def sensor_rows(run: RunSnapshot) -> list[tuple[str, str]]:
    """What the card says of itself; nothing where it says nothing."""
    heat = "" if run.device_celsius is None else f"{run.device_celsius:.0f} °C"
    load = "" if run.device_load is None else f"{run.device_load:.0%}".replace("%", " %")
    power = "" if run.device_watts is None else f"{run.device_watts:.0f} W"
    energy = "" if run.watt_hours is None else format_energy(run.watt_hours)
    rows = [("device load", [load, heat]), ("power", [power, energy])]
    return [(name, ", ".join(filter(None, texts))) for name, texts in rows if any(texts)]


def eval_text(run: RunSnapshot) -> str:
    """The last evaluation's loss, and the best one where that is another."""
    if not run.evals:
        return "–"
    last, best = run.evals[-1][1], min(loss for _, loss in run.evals)
    return f"{last:.4f}" + (f" ▾{best:.4f}" if best < last else " best")


def left_text(run: RunSnapshot) -> str:
    """The time that is left, and when that is over by the clock."""
    if run.seconds_left is None:
        return "–"
    text = format_duration(run.seconds_left)
    if run.over or run.heard is None or run.seconds_left < CLOCK_FROM:
        return text
    return f"{text}, {datetime.fromtimestamp(run.heard + run.seconds_left):%H:%M}"


def elapsed(run: RunSnapshot, now: float) -> str:
    """Time since the first event: as a clock shows it; empty before that."""
    if run.began is None or not run.began:
        return ""
    end = run.heard if run.over and run.heard is not None else now
    seconds = max(0, int(end - run.began))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


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


FELL = 0.01
"""Share by which the held-out loss must differ to say something of another run."""


def again(run: RunSnapshot) -> str:
    """What the evaluations say of another run; empty where they say nothing, as after fewer than three."""
    evals = [point for point in run.evals if point[0] > 0]
    if len(evals) < 3:
        return ""
    (last_step, last), (best_step, best) = evals[-1], min(evals, key=lambda point: point[1])
    if last > best * (1 + FELL):
        return (
            f"The held-out loss was best at step {best_step:,.0f} ({best:.4f}) and rose to {last:.4f} by step "
            f"{last_step:,.0f}: again with fewer epochs, a lower learning rate or more data."
        )
    stopped = run.result is not None and run.result.reason == "stopped"  # it goes on, rather than again
    if not stopped and best_step == last_step and last < evals[-2][1] * (1 - FELL):
        return (
            f"The held-out loss still fell at the end, from {evals[-2][1]:.4f} to {last:.4f}: again with more epochs."
        )
    return ""


def deviation_text(run: RunSnapshot) -> str:
    """How far the measured peak is from the predicted one, e.g. `+1.2 %`."""
    deviation = run.deviation
    return "–" if deviation is None else format_deviation(deviation).replace("%", " %")


def outcome(run: RunSnapshot) -> list[tuple[str, str]]:
    """Name and text of every figure on the end screen."""
    end = run.result or FinishedEvent()
    made = run.step if end.steps is None else end.steps
    if not made:
        return [("steps", "none: it was stopped before the first one, and nothing was trained")]
    steps = f"{made}" + (f" of {run.total_steps}" if run.total_steps else "")
    if end.seconds is not None:
        steps += f" in {format_duration(end.seconds)}"
    written = near_path(end.adapter_path)
    rows = [("model" if Path(written).name == "model" else "adapter", written or "none written"), ("steps", steps)]
    if end.eval_loss is not None:
        first = "" if end.eval_loss_before is None else f"{end.eval_loss_before:.4f} before, "
        rows.append(("held-out loss", f"{first}{end.eval_loss:.4f} after"))
    rows.append(("peak in tensors", _beside(run.measured_bytes, run.predicted_bytes, f" ({deviation_text(run)})")))
    if end.as_predicted is False:
        rows.append(("", "predicted for the heaviest batch; the measured steps met lighter ones"))
    if run.device_bytes:
        rows.append((f"peak of {holder(run)}", _beside(run.device_bytes, run.predicted_device_bytes)))
    if run.speeds:
        planned = f", planned {run.planned_speed:,.0f}" if run.planned_speed else ""
        rows.append(("tokens/s", f"{median(speed for _, speed in run.speeds):,.0f}{planned}"))
    if run.watt_hours:
        rows.append(("energy", format_energy(run.watt_hours)))
    if end.observation_path:
        rows.append(("observation", near_path(end.observation_path)))
    return rows


def _beside(measured: int | None, predicted: int | None, more: str = "") -> str:
    """`13.1 MiB measured, 12.9 MiB predicted`, with more behind it where both are known."""
    if not measured:
        return "not measured" + (f", {format_bytes(predicted)} predicted" if predicted else "")
    text = f"{format_bytes(measured)} measured"
    return f"{text}, {format_bytes(predicted)} predicted{more}" if predicted else text
