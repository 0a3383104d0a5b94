"""What would shorten a run that takes too long, in figures: fewer passes, and devices that many can rent."""

from __future__ import annotations

from dataclasses import replace

from planner.contract.errors import TuneplanError
from planner.contract.records import CheckReport
from planner.contract.units import format_duration
from planner.decide.check import check
from planner.decide.question import Question
from planner.decide.run_time import RunTime
from planner.devices import profiles

LONG_STEP, LONG_RUN, VERY_LONG_RUN = 600.0, 86_400.0, 7 * 86_400.0
"""Seconds from which a step, or a run, is called long."""
RENTED = ("rtx-4090", "a100-80gb", "h100-80gb")
"""Devices whose time is told."""
WORTH = 0.7
"""Share of the time under which another device is worth naming."""


def is_long(time: RunTime | None, report: CheckReport) -> bool:
    """Whether the run, or one step of it, takes so long that something should be done about it."""
    return (
        time is not None
        and report.speed is not None
        and (report.speed.step_seconds > LONG_STEP or time.total > LONG_RUN)
    )


def line(question: Question, report: CheckReport, time: RunTime | None) -> str | None:
    """One line on what would help; None where the run isn't long, or nothing does."""
    if time is None or not is_long(time, report):
        return None
    ways = []
    for name in RENTED:
        taken = _there(question, report, name, time)
        if taken is not None and taken < WORTH * time.total:
            ways.append(f"{profiles.load(name).title.removeprefix('NVIDIA ')} {format_duration(taken)}")
    if time.epochs > 1:
        ways.append(f"one epoch {format_duration(time.total - time.train * (1 - 1 / time.epochs))}")
    if time.epochs > 1 or ways:
        return f"What would help: {', '.join(ways)}."
    return None


def _there(question: Question, report: CheckReport, name: str, time: RunTime) -> float | None:
    """Seconds of the same run on another device, recomputing as little as fits there; None where nothing does."""
    there = replace(question, hardware=profiles.load(name), budget=None, notes=())
    settings = report.settings
    precision = "bf16" if settings.precision == "fp32" and "precision" not in question.fixed else settings.precision
    free = replace(settings, precision=precision, gradient_checkpointing=False, checkpoint_layers=None)
    for choices in (free, replace(free, gradient_checkpointing=True)):
        try:
            found = check(there.having(choices), with_remedies=False)
        except TuneplanError:
            continue
        if found.verdict == "fits" and found.speed is not None and report.speed is not None:
            return time.beside + time.train * found.speed.step_seconds / report.speed.step_seconds
    return None
