"""How training runs on this machine correct a step's time.

A toy's step is the host's, a large model's the device's: what one ran tells nothing of the other. So a run counts by
how near its predicted time is to the one that is asked for, as a bell curve of the ratio. The correction changes less
with the time than the time does itself, so that what was the faster of two stays it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.contract.choices import TrainingChoices
from planner.contract.own_runs import OwnRun, pooled
from planner.contract.spec import HardwareProfile

Array = NDArray[np.float64]

REACH = math.log(10)
"""Logarithm of the ratio of times at which a run counts for 0.6 of one."""
PRIOR = 0.25
"""Runs that the rules weigh: the square of how much a run's mean scatters over how far the rules may be off, both as
deviations of the logarithm (0.3, 0.6)."""
SCATTER = 0.3
LEAST_SPREAD = 0.05
"""Deviation of the logarithm below which no number of runs brings a prediction."""


def groups(hardware: HardwareProfile, choices: TrainingChoices) -> tuple[list[OwnRun], list[OwnRun]]:
    """The timed runs of the choices' kind, and those of other kinds."""
    timed = [run for run in hardware.own_runs if run.pace is not None and run.predicted_seconds]
    kind = (choices.stack, choices.method)
    return (
        [run for run in timed if (run.stack, run.method) == kind],
        [run for run in timed if (run.stack, run.method) != kind],
    )


def _counted(runs: Sequence[OwnRun], seconds: Array) -> Array:
    """How many runs these count for at each of the times."""
    total = np.zeros(np.shape(seconds))
    for run in runs:
        far = (np.log(np.maximum(seconds, 1e-12)) - math.log(run.predicted_seconds or 1.0)) / REACH
        total = total + np.exp(-0.5 * far * far)
    return total


def factor(hardware: HardwareProfile, choices: TrainingChoices, seconds: Array) -> Array:
    """Measured over predicted time to expect of steps that are predicted to take `seconds`."""
    own, others = groups(hardware, choices)
    if not own and not others:
        return np.ones(np.shape(seconds))
    logs = pooled(
        [run.pace or 0.0 for run in own],
        _counted(own, seconds),
        [run.pace or 0.0 for run in others],
        _counted(others, seconds),
        PRIOR,
    )
    found: Array = np.exp(logs)
    return found


def count(hardware: HardwareProfile, choices: TrainingChoices, seconds: float) -> int:
    """Runs that such a step's prediction rests on: those that count for a tenth of one at least."""
    at = np.asarray(seconds)
    return sum(float(_counted([run], at)) >= 0.1 for group in groups(hardware, choices) for run in group)


def spread(hardware: HardwareProfile, choices: TrainingChoices, seconds: float) -> float | None:
    """Deviation of the logarithm of a corrected time; None where fewer than one run of its kind counts."""
    own, _ = groups(hardware, choices)
    counted = float(_counted(own, np.asarray(seconds)))
    if counted < 0.5:
        return None
    logs = [run.pace or 0.0 for run in own]
    seen = 1.4826 * float(np.median(np.abs(np.array(logs) - np.median(logs)))) if len(logs) > 2 else SCATTER / 2
    return max(LEAST_SPREAD, math.hypot(seen, SCATTER / math.sqrt(counted + PRIOR)))
