"""Measures a run's peaks by instant while it trains, with the meters of `trainer.meter`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from trainer import devices
from trainer.meter import StorageMeter, peak_meter

METERED_STEPS = 3
"""Optimizer steps under the storage meter on cpu. It slows each operator down a little, and after the second step,
when the optimizer state exists and the longest batches have passed, nothing new is to be learned."""
METERED_EVAL_BATCHES = 2


class StepMeter:
    """Told by the loop where instants begin and end.

    On cuda and mps the device's own counters are read throughout. A cpu has none, so the first steps run under a meter
    that counts tensor storages; the process's resident memory is sampled beside it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.current: str | None = None
        self._counters = peak_meter(device)
        self._storages: StorageMeter | None = None
        self._entered = False
        self._steps = 0

    # ---- the cpu's storage meter -----------------------------------------------------------------------------------

    def start_training(self, model: Any) -> None:
        """From here on the model's tensors are known; on cpu, counting starts."""
        if self.device.type != "cpu":
            return
        self._storages = StorageMeter()
        self._storages.adopt_training(model, _NoState())
        self._enter()

    def step_done(self) -> None:
        """After each optimizer step."""
        self._steps += 1
        if self._steps >= METERED_STEPS:
            self._leave()
            if self._storages is not None:
                self._storages.forget()

    def eval_batch_done(self, count: int) -> None:
        """After each evaluation batch; the first ones of the first evaluation are enough."""
        if count >= METERED_EVAL_BATCHES:
            self._leave()

    def _enter(self) -> None:
        if self._storages is not None and not self._entered and self._steps < METERED_STEPS:
            self._storages.__enter__()
            self._entered = True

    def _leave(self) -> None:
        if self._storages is not None and self._entered:
            self._storages.__exit__(None, None, None)
            self._entered = False

    @contextlib.contextmanager
    def unmetered(self) -> Iterator[None]:
        """Work that isn't part of any instant of the plan, such as generating a sample."""
        self._leave()
        try:
            yield
        finally:
            self._enter()

    def close(self) -> None:
        """Stops whatever still measures."""
        self.end()
        self._leave()
        self._counters.stop()

    # ---- instants --------------------------------------------------------------------------------------------------

    def begin(self, instant: str) -> None:
        """Ends the running instant and starts this one."""
        self.current = instant
        self._counters.enter(instant)
        if self._storages is not None and self._entered:
            self._storages.enter(instant)

    def loss_begins(self, instant: str) -> None:
        """Called at the vocabulary head: inside a training forward the loss starts here, elsewhere nothing does."""
        if self.current == "forward":
            self.begin(instant)

    def end(self) -> None:
        """Ends the running instant; what follows belongs to none until the next begins."""
        if self.current is None:
            return
        self.current = None
        # Counters close an instant by opening the next; `other` takes what lies between and is not reported.
        self._counters.enter("other")
        if self._storages is not None and self._entered:
            self._storages.enter("other")

    @property
    def instants(self) -> dict[str, int]:
        """Peak of allocated bytes by instant so far; empty where nothing could be measured."""
        if self._storages is not None:
            found = self._storages.instants
        elif self.device.type == "cpu":
            found = {}
        else:
            found = self._counters.instants
        return {name: value for name, value in found.items() if name != "other"}

    def peak(self) -> int | None:
        """Largest allocated peak of any instant in bytes, None before anything was measured."""
        return max(self.instants.values(), default=None)

    def measured(self) -> dict[str, Any]:
        """The observation's fields: allocated, reserved and device peak in bytes, instants."""
        reserved = {name: value for name, value in self._counters.reserved.items() if name != "other"}
        device_bytes = max(self._counters.device_bytes, devices.device_bytes(self.device))
        if self.device.type == "cuda":
            # The counters only know what the whole card holds; the driver's number for this process is better.
            own = devices.nvml_process_bytes(self.device)
            device_bytes = own if own is not None else device_bytes
        return {
            "allocated_peak_bytes": self.peak(),
            "reserved_peak_bytes": None if self.device.type == "cpu" else max(reserved.values(), default=None),
            "device_peak_bytes": device_bytes,
            "instants": self.instants,
        }


class _NoState:
    """Stands for an optimizer that has no state yet."""

    state: dict[Any, dict[str, Any]] = {}  # noqa: RUF012
