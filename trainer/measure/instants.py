"""Measures a run's peaks by instant while it trains, with the meters of `trainer.measure.meter`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trainer.measure import devices
from trainer.measure.meter import StorageMeter, peak_meter

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
        self._tensors: tuple[Any, Any, Sequence[torch.Tensor]] | None = None
        self._found: dict[str, int] = {}
        """Peaks of storage meters that have been put away."""

    # ---- the cpu's storage meter -----------------------------------------------------------------------------------

    def start_training(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, further: Sequence[torch.Tensor] = ()
    ) -> None:
        """From here on tensors of model and optimizer, and `further` ones, are known; on cpu, counting starts."""
        if self.device.type == "cpu":
            self._tensors = (model, optimizer, further)
            self._count_afresh()

    def _count_afresh(self) -> None:
        assert self._tensors is not None
        self._storages = StorageMeter()
        self._storages.adopt_training(*self._tensors)
        self._enter()

    def _put_away(self) -> None:
        """Keeps the peaks of the running storage meter and drops it with its references."""
        self._leave()
        if self._storages is not None:
            for name, value in self._storages.instants.items():
                self._found[name] = max(value, self._found.get(name, 0))
            self._storages.forget()
            self._storages = None

    def step_done(self) -> None:
        """After each optimizer step."""
        self._steps += 1
        if self._steps == METERED_STEPS:
            self._put_away()
            if "torch._dynamo" in sys.modules:
                # A compiled model isn't compiled under a dispatch mode, and is then passed over for good: ask anew.
                sys.modules["torch._dynamo"].reset()

    def eval_batch_done(self, count: int) -> None:
        """After each evaluation batch; the first ones of the first evaluation are enough."""
        if count >= METERED_EVAL_BATCHES:
            self._leave()

    def _enter(self) -> None:
        if self._storages is not None and not self._entered:
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

    def forget_peaks(self) -> None:
        """Measures anew, but for `load`: what comes is smaller than what was."""
        self.end()
        kept = self._found.get("load")
        for table in (self._counters.instants, self._counters.reserved):
            for name in [name for name in table if name != "load"]:
                del table[name]
        if self._tensors is not None:
            self._put_away()
            kept = self._found.get("load", kept)
            self._steps = 0
            self._count_afresh()
        self._found = {} if kept is None else {"load": kept}

    def close(self) -> None:
        """Stops whatever still measures."""
        self.end()
        self._put_away()
        self._counters.stop()

    # ---- instants --------------------------------------------------------------------------------------------------

    def begin(self, instant: str) -> None:
        """Ends the running instant and starts this one."""
        self.current = instant
        # Rare instants that come after the metered steps are counted once, from a fresh account.
        rare = instant in ("eval", "save") and instant not in self._found
        if rare and self._tensors is not None and self._storages is None:
            self._count_afresh()
        self._counters.enter(instant)
        if self._storages is not None and self._entered:
            self._storages.enter(instant)

    @property
    def counting(self) -> bool:
        """Whether what runs now enters the measured peaks; on cpu only the metered steps do."""
        return self.device.type != "cpu" or self._entered

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
        if self._steps >= METERED_STEPS:
            self._put_away()

    @property
    def instants(self) -> dict[str, int]:
        """Peak of allocated bytes by instant so far; empty where nothing could be measured."""
        found = dict(self._found) if self.device.type == "cpu" else dict(self._counters.instants)
        if self._storages is not None:
            for name, value in self._storages.instants.items():
                found[name] = max(value, found.get(name, 0))
        found.pop("other", None)
        return found

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
