"""How long it takes, in words: the whole run with a verdict, and durations that stay apart where they differ."""

from __future__ import annotations

from collections.abc import Sequence

from planner.contract.units import format_duration
from planner.decide.own_runs import timed_runs
from planner.decide.search import Recommendation

EXAMPLES = 1_000
"""Without data, time is told for so many examples of full length."""
LONG_STEP, LONG_RUN, VERY_LONG_RUN = 600.0, 86_400.0, 7 * 86_400.0
"""Seconds from which a step, or a run, is called long."""
SAME = 0.005


def durations(seconds: Sequence[float | None]) -> list[str]:
    """Each as text, finer where two that differ would read the same; `?` for what is unknown."""
    texts = ["?" if value is None else format_duration(value) for value in seconds]
    for place, value in enumerate(seconds):
        for other, text in zip(seconds, texts, strict=True):
            if value is None or other is None or text != texts[place]:
                continue
            if abs(value - other) > SAME * max(value, other):
                return [_finer(each) for each in seconds]
    return texts


def _finer(seconds: float | None) -> str:
    """One digit or unit more than `format_duration` shows."""
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.3g} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min {rest:02d} s" if hours else f"{minutes} min {rest:02d} s"


def run_seconds(answer: Recommendation) -> tuple[float, float] | None:
    """(seconds of the whole run, epochs): of the data's epochs, else of 1,000 full examples; None without a speed."""
    speed = answer.recommended.speed
    if speed is None:
        return None
    epochs = next((float(entry.value) for entry in answer.advice if entry.name == "epochs"), 1.0)
    if speed.epoch_seconds is not None:
        return speed.epoch_seconds * epochs, epochs
    steps = -(-EXAMPLES // answer.effective_batch_size)
    return speed.step_seconds * steps * epochs, epochs


def time_line(answer: Recommendation) -> str:
    """The whole run's time and what to think of it."""
    found, speed = run_seconds(answer), answer.recommended.speed
    if found is None or speed is None:
        return "Time: no speed is modelled for this configuration."
    total, epochs = found
    count = f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    if speed.epoch_seconds is not None:
        text = f"Time: {format_duration(total)} for {count} of {format_duration(speed.epoch_seconds)}"
    else:
        text = f"Time: {format_duration(total)} for {count} of {EXAMPLES:,} examples of full length"
    runs = timed_runs(answer.recommended)
    if runs:
        text += f" (corrected by {runs} run{'' if runs == 1 else 's'} here)"
    return f"{text}{verdict(total, speed.step_seconds)}."


def verdict(total: float, step: float) -> str:
    """What to do about a run or a step that is too long; nothing where neither is."""
    if step > LONG_STEP:
        return (
            f": {format_duration(step)} a step is no way to train; take a faster device (plan compare) or smaller model"
        )
    if total > VERY_LONG_RUN:
        return ": more than a week; fewer epochs (--scenario quick), less data or a faster device (plan compare)"
    if total > LONG_RUN:
        return (
            ": more than a day, so keep the checkpoints; --scenario quick or a faster device (plan compare) shorten it"
        )
    return ""
