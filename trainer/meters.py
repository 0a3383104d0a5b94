"""Which instant of the step is running, and the measured peak of each (filled by `trainer.meter`)."""

from __future__ import annotations

from typing import Any

import torch

from trainer import devices


class StepMeter:
    """Called by the loop at the borders of instants. On cuda each instant's peak is read from the allocator's counters."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.instants: dict[str, int] = {}
        self.current: str | None = None

    def begin(self, instant: str) -> None:
        """Ends the running instant and starts this one."""
        self.end()
        self.current = instant
        devices.reset_peaks(self.device)

    def end(self) -> None:
        """Ends the running instant and notes its peak."""
        if self.current is None:
            return
        peak = devices.allocated_peak_bytes(self.device)
        if peak is not None:
            self.instants[self.current] = max(peak, self.instants.get(self.current, 0))
        self.current = None

    def peak(self) -> int | None:
        """Largest peak of any instant."""
        return max(self.instants.values(), default=None)  # type: ignore[return-value]

    def step_done(self, step: int) -> None:
        """Called after each optimizer step."""

    def measured(self) -> dict[str, Any]:
        """Fields of the observation."""
        return {
            "allocated_peak_bytes": self.peak(),
            "device_peak_bytes": devices.device_bytes(self.device),
            "instants": dict(self.instants),
        }
