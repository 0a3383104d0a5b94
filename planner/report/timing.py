"""How long it takes, in words: the whole run with a verdict, and durations that stay apart where they differ."""

from __future__ import annotations

from collections.abc import Sequence

from planner.contract.units import counted, format_duration
from planner.decide.faster import LONG_RUN, LONG_STEP, VERY_LONG_RUN
from planner.decide.own_runs import timed_runs
from planner.decide.run_time import EXAMPLES
from planner.decide.search import Recommendation

SAME = 0.005
BESIDE = 0.1
"""Share of a run's time from which what is no training is told."""


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


def time_line(answer: Recommendation) -> str:
    """The whole run's time and what to think of it."""
    time, speed = answer.time, answer.recommended.speed
    if time is None or speed is None:
        return "Time: no speed is modelled for this configuration."
    passes = f"{time.epochs:g} epoch{'' if time.epochs == 1 else 's'}"
    if time.epochs != int(time.epochs):
        text = f"Time: {format_duration(time.total)} for {counted(time.steps, 'step')}"
    elif speed.epoch_seconds is not None:
        text = f"Time: {format_duration(time.total)} for {passes} of {format_duration(speed.epoch_seconds)}"
    else:
        text = f"Time: {format_duration(time.total)} for {passes} of {EXAMPLES:,} examples of full length"
    if time.beside > BESIDE * time.total:
        text += f", {format_duration(time.beside)} of it loading, evaluating and saving"
    runs = timed_runs(answer.recommended)
    if runs:
        text += f" (corrected by {runs} run{'' if runs == 1 else 's'} here)"
    return f"{text}{verdict(time.total, speed.step_seconds)}."


def deadline_lines(answer: Recommendation) -> list[str]:
    """What the given time left room for; nothing where none was given."""
    limit, time = answer.deadline, answer.time
    if limit is None or time is None:
        return []
    given = format_duration(limit.seconds)
    if not limit.kept:
        return [
            f"{given} are not enough: one step with loading takes {format_duration(time.total)}; "
            "a smaller model, a shorter --max-length or a faster device (plan compare)."
        ]
    said = [f"In {given}: {'; '.join(limit.cut)}." if limit.cut else f"In {given}: everything, nothing is cut."]
    if not limit.enough:
        said.append(f"{counted(time.steps, 'step')} teach little (100 are the least): more time, or a smaller model.")
    return said


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
