"""What the bare model says of an observed run, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.records import Observation
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import device

SPEED_SOURCES = ("calibrate", "gpu_observe", "cpu_observe")
"""Observations whose steps are all of one shape, so that their times belong to the settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One observation as the fit sees it; bytes unless said otherwise, None where nothing was measured."""

    model: str
    label: str
    spec: ModelSpec
    choices: TrainingChoices
    workspaces: int
    """Bare prediction: the profile's cuBLAS workspaces."""
    persistent: int
    """Bare prediction: weights, adapters, optimizer state."""
    moving: int
    """Bare prediction: what comes and goes, at the peak over the measured instants."""
    beyond: int
    """Bare prediction: what the allocator holds beyond the tensors."""
    context: int
    """Bare prediction: the device beyond the allocator."""
    allocated: int | None
    reserved: int | None
    device: int | None
    step_seconds: float | None
    """Median of the measured steps, of one micro-batch each."""

    @property
    def bare_allocated(self) -> int:
        """Bare prediction of the allocated peak."""
        return self.workspaces + self.persistent + self.moving

    @property
    def bare_reserved(self) -> int:
        """Bare prediction of the reserved peak."""
        return self.bare_allocated + self.beyond

    @property
    def bare_device(self) -> int:
        """Bare prediction of the device peak."""
        return self.bare_reserved + self.context


def rows(observations: Iterable[Observation], hardware: HardwareProfile) -> tuple[list[Row], list[str]]:
    """Rows of the observations that ran on `hardware` (a bare profile), and why others were left out."""
    found, left_out = [], []
    for item in observations:
        name = str(item.probe.get("label") or item.model.get("id"))
        if item.hardware.get("profile") != hardware.name:
            continue
        if item.outcome != "ran" or not item.instants or any(note.startswith("failed") for note in item.notes):
            continue
        try:
            found.append(row(item, hardware))
        except TuneplanError as error:
            left_out.append(f"{name}: {error}")
    return found, left_out


def row(item: Observation, hardware: HardwareProfile) -> Row:
    """One observation beside the bare prediction of the running version; raises NotModelled where that has none."""
    from planner import memory
    from planner.contract import settings
    from planner.data.lengths import OneBatch, as_batch
    from planner.models import sources

    name = str(item.model.get("id"))
    spec = sources.from_config(item.model["config"], name)
    choices = settings.choices_from({k: v for k, v in item.settings.items() if v is not None})
    known = None if item.batch_lengths is None else OneBatch(as_batch(item.batch_lengths))
    report = memory.predict(spec, hardware, choices, lengths=known)
    workspaces = device.workspace_bytes(hardware)
    persistent = report.instants["load"] - workspaces
    instants = [name for name in item.instants if name in report.instants]
    tensors = report.tensors_peak_bytes or report.allocated_peak_bytes
    # What blocks hold beyond their tensors is allocated, too, as the device counts it.
    rounding = report.allocated_peak_bytes - tensors
    peak = max(report.instants[name] for name in instants) + rounding if instants else report.allocated_peak_bytes
    uniform = item.source in SPEED_SOURCES and item.step_seconds
    return Row(
        model=name,
        label=str(item.probe.get("label") or name),
        spec=spec,
        choices=choices,
        workspaces=workspaces,
        persistent=persistent,
        moving=peak - workspaces - persistent,
        beyond=report.reserved_peak_bytes - report.allocated_peak_bytes,
        context=hardware.context_bytes,
        allocated=item.allocated_peak_bytes,
        reserved=item.reserved_peak_bytes,
        device=item.device_peak_bytes,
        step_seconds=float(np.median(item.step_seconds)) if uniform else None,
    )
