"""What surrounds a plan: its step's memory moment by moment, and peak and speed at other batches and lengths. UI-free.

Asked after verdict and tiers; answers never raise, what can't be said is None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.records import CheckReport

if TYPE_CHECKING:
    from planner.decide.question import Question
    from planner.memory.course import Course

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LENGTHS = (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768)
MOST_BATCHES, MOST_LENGTHS = 10, 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """One batch and length: what it would take and how fast it would be."""

    device_bytes: int
    upper_bytes: int
    """Upper end of the device peak's interval."""
    tokens_per_second: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """Peaks and speeds around a plan, its own among them."""

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    spots: tuple[tuple[Spot, ...], ...]
    """By length, by batch."""
    batch: int
    length: int
    """The plan's own."""
    budget_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Both pictures of one plan."""

    course: Course | None = None
    around: Around | None = None
    error: str | None = None


def surroundings(question: Question, report: CheckReport, wanted: Callable[[], None]) -> Surroundings:
    """Both pictures; `wanted` is called between them and ends the work by raising."""
    from planner.memory.course import course

    choices = report.settings
    try:
        found = course(question.model, question.hardware, choices, lengths=question.lengths)
    except TuneplanError:
        found = None
    wanted()
    try:
        matrix = _around(question, report)
    except TuneplanError:
        matrix = None
    return Surroundings(course=found, around=matrix)


def _around(question: Question, report: CheckReport) -> Around:
    from planner import memory

    choices, model = report.settings, question.model
    most = model.max_positions or LENGTHS[-1]
    batches = near(BATCHES, choices.batch_size, MOST_BATCHES)
    if question.data is not None and choices.padding != "max":  # longer rows than the data has change nothing
        longest = question.data.profile.longest_upper
        most = min(most, next((each for each in LENGTHS if each >= longest), most))
    lengths = near(tuple(each for each in LENGTHS if each <= most), choices.max_length, MOST_LENGTHS)
    batch, length = (axis.ravel() for axis in np.meshgrid(np.array(batches), np.array(lengths)))
    layers = np.full(batch.shape, choices.checkpointed_layers(model.total_layers))
    grid = memory.predict_grid(model, question.hardware, choices, batch, length, layers, data=question.lengths)
    speeds = _speeds(question, choices, batches, lengths)
    spots = []
    for row, own in enumerate(lengths):
        line = []
        for column, size in enumerate(batches):
            place = row * len(batches) + column
            spot = Spot(
                device_bytes=int(grid.device[place]),
                upper_bytes=int(grid.upper[place]),
                tokens_per_second=speeds.get((size, own)),
            )
            if (size, own) == (choices.batch_size, choices.max_length):  # judged already, and to the last block
                judged = report.memory
                speed = None if report.speed is None else report.speed.tokens_per_second
                spot = Spot(
                    device_bytes=judged.device_peak_bytes,
                    upper_bytes=judged.interval_bytes[1],
                    tokens_per_second=speed,
                )
            line.append(spot)
        spots.append(tuple(line))
    return Around(
        batches=batches,
        lengths=lengths,
        spots=tuple(spots),
        batch=choices.batch_size,
        length=choices.max_length,
        budget_bytes=report.memory.budget_bytes,
    )


def _speeds(
    question: Question, choices: TrainingChoices, batches: tuple[int, ...], lengths: tuple[int, ...]
) -> dict[tuple[int, int], float]:
    """Tokens per second by batch and length, at the plan's effective batch; empty where no speed is modelled."""
    from planner import speed

    found: dict[tuple[int, int], float] = {}
    layers = choices.checkpointed_layers(question.model.total_layers)
    here = np.array(lengths)
    for size in batches:
        steps = max(1, round(choices.effective_batch_size / (size * choices.num_gpus)))
        paired = replace(choices, batch_size=size, gradient_accumulation_steps=steps)
        try:
            seconds = speed.step_seconds(
                question.model, question.hardware, paired, 0 * here + size, here, 0 * here + layers
            )
        except TuneplanError:
            return {}
        tokens = here * size * steps * choices.num_gpus
        found |= {(size, own): float(count / time) for own, count, time in zip(lengths, tokens, seconds, strict=True)}
    return found


def near(ladder: tuple[int, ...], own: int, most: int) -> tuple[int, ...]:
    """At most `most` rungs around one's own, which is among them."""
    rungs = sorted({*ladder, own})
    place = rungs.index(own)
    start = max(0, min(place - (most - 1) // 2, len(rungs) - most))
    return tuple(rungs[start : start + most])
