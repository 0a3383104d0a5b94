"""Peaks of memory by instant of a training step: from tensor storages, from the device's counters, or from the process.

`StorageMeter` counts the storages of tensors themselves and works everywhere, also on fake tensors. `peak_meter` reads
the counters that a device keeps anyway, at no cost.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NO_NODE = -1


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements fill its stretch of memory in some order: nothing expanded, nothing skipped."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


class StorageMeter(TorchDispatchMode):
    """Counts live tensor storages from each operator's outputs; `enter(phase)` starts an instant.

    A dispatch mode sees operators below autograd: what an operator makes and frees inside itself stays unseen. It holds
    weak references only. Tensors that exist already (weights, optimizer state, the batch) are taken in by `adopt`.

    Where two gradients of one tensor meet, the autograd engine adds the second to the first in place if nobody else
    holds the first, but never while a dispatch mode is active or on fake tensors
    (torch/csrc/autograd/input_buffer.cpp). The meter counts what happens without it: a sum whose first operand is gone
    at the next operator took that operand's place.

    Storages that change their size (FSDP frees and refills gathered weights so) are followed; of a tensor that several
    processes hold in parts, this process's part counts.
    """

    _running: ClassVar[list[StorageMeter]] = []

    def __init__(self, *, granularity: int = 1, constant_bytes: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.granularity = granularity
        """Every storage is counted in multiples of this many bytes (512 in the CUDA caching allocator)."""
        self.constant_bytes = constant_bytes
        self.phase = "load"
        self.current = constant_bytes
        self.instants: dict[str, int] = {}
        """Peak bytes by phase."""
        self._live: dict[int, tuple[weakref.ref[object], Any]] = {}
        self._bytes: dict[int, int] = {}
        """What each live storage counts for."""
        self._node = NO_NODE
        """The autograd node that the engine runs, by its sequence number."""
        self._node_of: dict[int, int] = {}
        """The node in which a live storage was made."""
        self._open = False
        self._sum: tuple[int, Any, int] | None = None
        """A sum of the engine whose first operand may die: that operand's storage, its record, and the bytes alive."""

    def enter(self, phase: str) -> None:
        """Starts a phase; its peak starts from what is alive now."""
        self._settle()
        self.phase = phase
        self._note_peak()

    def reset_peaks(self) -> None:
        """Forgets the peaks seen so far."""
        self.instants.clear()

    def adopt(self, tensors: Iterable[torch.Tensor]) -> None:
        """Takes in tensors that were made before the meter ran."""
        for tensor in tensors:
            self._see(tensor, None)

    def adopt_training(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Iterable[torch.Tensor] = ()
    ) -> None:
        """Takes in a model's weights (with quantisation states) and gradients, an optimizer's state and a batch."""
        from trainer.modeling.quantized import quantization_tensors

        self.adopt(model.parameters())
        self.adopt(model.buffers())
        for module in model.modules():
            self.adopt(quantization_tensors(module))
        self.adopt(p.grad for p in model.parameters() if p.grad is not None)
        self.adopt(v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
        self.adopt(batch)

    def forget(self) -> None:
        """Drops the weak references, so that storages which outlive the meter do not call back."""
        self._live.clear()
        self._bytes.clear()

    def __enter__(self) -> object:
        if not self._running:
            torch.UntypedStorage.resize_ = _resize  # type: ignore[method-assign, assignment]
        self._running.append(self)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        self._running.remove(self)
        if not self._running:
            torch.UntypedStorage.resize_ = _RESIZE  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def resized(self, storage: Any) -> None:
        """A storage has another size now."""
        self._settle()
        key = storage._cdata
        if key not in self._live:
            return
        size = -(-storage.nbytes() // self.granularity) * self.granularity
        self.current += size - self._bytes[key]
        self._bytes[key] = size
        self._note_peak()

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        self._settle()
        out = func(*args, **(kwargs or {}))
        if self._is_engine_sum(func, args):
            self._see_sum(args[0], out, func)
        else:
            self._see_all(out, func)
        return out

    def _is_engine_sum(self, func: object, args: Any) -> bool:
        """Whether the engine itself adds two gradients, as it does after the node whose output is the second one.

        Formulas of derivatives call the same operator; the sums among them are of what the same node has just made.
        """
        node = None
        if torch._C._current_graph_task_id() != -1:
            node = torch._C._current_autograd_node()
        self._node = NO_NODE if node is None else node._sequence_nr()
        if node is None or func is not torch.ops.aten.add.Tensor or torch.is_grad_enabled():
            return False
        first = args[0]
        if not isinstance(first, torch.Tensor) or not _is_dense(first):
            return False
        born = self._node_of.get(first.untyped_storage()._cdata, NO_NODE)
        return born != self._node or node.name() == "MulBackward0"

    def _see_sum(self, first: torch.Tensor, out: torch.Tensor, origin: object) -> None:
        """Counts the result, but leaves open whether both were alive at once."""
        key = first.untyped_storage()._cdata
        entry = self._live.get(key)
        if entry is None:
            self._see_all(out, origin)
            return
        self._open = True
        self._see(out, origin)
        self._open = False
        made = self._live.get(out.untyped_storage()._cdata)
        self._sum = (key, (entry[1], made[1] if made else None), self.current)

    def _settle(self) -> None:
        """Before whatever comes next: was the last sum made in place?"""
        if self._sum is None:
            return
        key, records, alive = self._sum
        self._sum = None
        if key not in self._live:
            self._in_place(*records)
        elif alive > self.instants.get(self.phase, -1):
            self.instants[self.phase] = alive
            self._at_peak()

    def _see_all(self, out: torch.Tensor, origin: object) -> None:
        if isinstance(out, torch.Tensor):
            self._see(out, origin)
        elif isinstance(out, (tuple, list)):
            for item in out:
                self._see_all(item, origin)

    def _see(self, tensor: torch.Tensor, origin: object) -> None:
        tensor = getattr(tensor, "_local_tensor", tensor)
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        if size == 0 or not self._counts(tensor):
            return
        size = -(-size // self.granularity) * self.granularity
        token = self._born(tensor, size, origin)

        def on_death(_: object) -> None:
            entry = self._live.pop(key, None)
            if entry is not None:
                self.current -= self._bytes.pop(key)
                self._node_of.pop(key, None)
                self._died(entry[1])

        self._live[key] = (weakref.ref(storage, on_death), token)
        self._bytes[key] = size
        self._node_of[key] = self._node
        self.current += size
        if not self._open:
            self._note_peak()

    def _note_peak(self) -> None:
        if self.current > self.instants.get(self.phase, -1):
            self.instants[self.phase] = self.current
            self._at_peak()

    # What a meter that records more than sizes adds.

    def _counts(self, tensor: torch.Tensor) -> bool:
        return True

    def _born(self, tensor: torch.Tensor, size: int, origin: object) -> object:
        return None

    def _died(self, token: Any) -> None:
        pass

    def _at_peak(self) -> None:
        pass

    def _in_place(self, first: Any, made: Any) -> None:
        pass


_RESIZE = torch.UntypedStorage.resize_


def _resize(storage: Any, size: int) -> object:
    done = _RESIZE(storage, size)
    for meter in StorageMeter._running:
        meter.resized(storage)
    return done


class PeakMeter:
    """Peaks by instant from a device's own counters; `enter` closes the running instant and starts the next."""

    def __init__(self) -> None:
        self.instants: dict[str, int] = {}
        """Allocated bytes at the peak within each instant (process memory on cpu)."""
        self.reserved: dict[str, int] = {}
        self.device_bytes: int = 0
        """Largest value of what the device shows for this process, as far as it can be read."""
        self.phase: str | None = None

    def enter(self, phase: str) -> None:
        """Ends the running phase and starts `phase`; an instant met twice keeps its larger peak."""
        self._close()
        self.phase = phase
        self._open()

    def stop(self) -> dict[str, int]:
        """Ends the running phase and returns the peaks."""
        self._close()
        self.phase = None
        return self.instants

    def _keep(self, table: dict[str, int], value: int) -> None:
        if self.phase is not None:
            table[self.phase] = max(value, table.get(self.phase, 0))

    def _open(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class CudaPeakMeter(PeakMeter):
    """CUDA memory statistics, reset at each phase. Kernels run later than Python, but allocation does not."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def _open(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def _close(self) -> None:
        if self.phase is None:
            return
        self._keep(self.instants, torch.cuda.max_memory_allocated(self.device))
        self._keep(self.reserved, torch.cuda.max_memory_reserved(self.device))
        free, total = torch.cuda.mem_get_info(self.device)
        self.device_bytes = max(self.device_bytes, total - free)


class SampledPeakMeter(PeakMeter):
    """A counter without a peak of its own, sampled by a thread every few milliseconds (mps, cpu)."""

    interval_seconds = 0.005

    def __init__(self) -> None:
        super().__init__()
        self._peak = self._held = 0
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None

    def read(self) -> tuple[int, int]:
        """(allocated bytes, bytes held from the system) now."""
        raise NotImplementedError

    def _sample(self) -> None:
        try:
            allocated, held = self.read()
        except (MemoryError, OSError):  # a peak that goes unseen is better than a run that ends
            return
        with self._lock:
            self._peak, self._held = max(self._peak, allocated), max(self._held, held)

    def _open(self) -> None:
        with self._lock:
            self._peak = self._held = 0
        self._sample()
        if self._stop is None:
            stop = threading.Event()
            # Without room for a thread, what is read at the phases' ends has to do.
            with contextlib.suppress(RuntimeError, MemoryError):
                threading.Thread(target=self._watch, args=(stop,), daemon=True).start()
                self._stop = stop

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(self.interval_seconds):
            self._sample()

    def _close(self) -> None:
        if self.phase is None:
            return
        self._sample()
        with self._lock:
            self._keep(self.instants, self._peak)
            self._keep(self.reserved, self._held)
            self.device_bytes = max(self.device_bytes, self._held)

    def stop(self) -> dict[str, int]:
        """Ends the running phase and the sampling thread, and returns the peaks."""
        found = super().stop()
        if self._stop is not None:
            self._stop.set()
            self._stop = None
        return found


class MpsPeakMeter(SampledPeakMeter):
    """Metal: bytes in tensors, and bytes that the driver holds for the process."""

    def read(self) -> tuple[int, int]:
        return int(torch.mps.current_allocated_memory()), int(torch.mps.driver_allocated_memory())


class HostPeakMeter(SampledPeakMeter):
    """Resident memory of the process, Python and libraries included."""

    def __init__(self) -> None:
        super().__init__()
        import psutil

        self._process = psutil.Process(os.getpid())

    def read(self) -> tuple[int, int]:
        resident = int(self._process.memory_info().rss)
        return resident, resident


def peak_meter(device: str | torch.device) -> PeakMeter:
    """The meter that fits a device: `cuda`, `mps` or `cpu`."""
    chosen = torch.device(device)
    if chosen.type == "cuda":
        return CudaPeakMeter(chosen)
    if chosen.type == "mps":
        return MpsPeakMeter()
    return HostPeakMeter()
