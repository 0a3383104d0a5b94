"""How training runs on this machine correct a peak: as a calibration does, by what comes and goes and by what the
device holds beyond the tensors. The interval stays as wide as it was.
"""

from __future__ import annotations

import math
from dataclasses import replace

from planner.contract.choices import TrainingChoices
from planner.contract.own_runs import OwnRun, pooled
from planner.contract.spec import Calibration, HardwareProfile

PRIOR = 0.5
"""Runs that the model itself weighs."""


def groups(hardware: HardwareProfile, choices: TrainingChoices) -> tuple[list[OwnRun], list[OwnRun]]:
    """The runs of the choices' kind whose memory was measured, and those of other kinds."""
    known = [run for run in hardware.own_runs if run.moving is not None or run.beyond_bytes is not None]
    kind = (choices.stack, choices.method)
    return (
        [run for run in known if (run.stack, run.method) == kind],
        [run for run in known if (run.stack, run.method) != kind],
    )


def count(hardware: HardwareProfile, choices: TrainingChoices) -> int:
    """Runs that a peak's correction rests on."""
    return sum(map(len, groups(hardware, choices)))


def moving_factor(hardware: HardwareProfile, choices: TrainingChoices) -> float:
    """Measured over predicted bytes of what comes and goes."""
    return math.exp(_pooled(hardware, choices, "moving"))


def _pooled(hardware: HardwareProfile, choices: TrainingChoices, name: str) -> float:
    own, others = (
        [value for run in group if (value := getattr(run, name)) is not None] for group in groups(hardware, choices)
    )
    total: float = pooled(own, float(len(own)), others, float(len(others)), PRIOR)
    return total


def taught(hardware: HardwareProfile, choices: TrainingChoices) -> HardwareProfile:
    """The device as its own runs of the choices' kind corrected it; itself without any."""
    if not count(hardware, choices):
        return hardware
    found = hardware.calibration
    if found is None or not found.applied:
        found = Calibration(applied=True)
    return replace(
        hardware,
        calibration=replace(found, moving_factor=found.moving_factor * moving_factor(hardware, choices)),
        context_bytes=max(0, round(hardware.context_bytes + _pooled(hardware, choices, "beyond_bytes"))),
        own_runs=(),
    )
