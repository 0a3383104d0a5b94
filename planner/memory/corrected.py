"""Peaks on a device as this machine's own runs corrected it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy.typing as npt

from planner.contract.choices import TrainingChoices
from planner.contract.records import MemoryReport
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import estimate, grid
from planner.memory.own_runs import taught

if TYPE_CHECKING:
    from planner.data.lengths import Lengths


def predict(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    *,
    budget_bytes: int | None = None,
    lengths: Lengths | None = None,
) -> MemoryReport:
    """As `estimate.predict`, whose words hold here too."""
    budget = hardware.budget_bytes if budget_bytes is None else budget_bytes
    return estimate.predict(model, taught(hardware, choices), choices, budget_bytes=budget, lengths=lengths)


def predict_grid(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    batch_size: npt.ArrayLike,
    length: npt.ArrayLike,
    checkpointed_layers: npt.ArrayLike,
    *,
    data: Lengths | None = None,
) -> grid.Grid:
    """As `grid.predict_grid`, whose words hold here too."""
    device = taught(hardware, choices)
    return grid.predict_grid(model, device, choices, batch_size, length, checkpointed_layers, data=data)
