"""A smaller card than the one that is there: the allocator is told to stop at so many bytes."""

from __future__ import annotations

import torch

from planner.contract.errors import NotModelled
from trainer.measure.meter import StorageMeter


class LimitedStorageMeter(StorageMeter):
    """Counts tensor storages and raises torch's out-of-memory error when they pass `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes

    def _note_peak(self) -> None:
        super()._note_peak()
        if self.current > self.limit_bytes:
            raise torch.OutOfMemoryError(f"tensors take {self.current} bytes of {self.limit_bytes}")


def limit_device(device: torch.device, limit_bytes: int | None) -> None:
    """Caps what the caching allocator may hold, None lifts the cap; a cpu is capped by its storage meter instead."""
    if device.type == "cpu":
        return
    if device.type == "mps":
        if limit_bytes is not None:
            raise NotModelled("memory_limit_bytes: a limit is emulated on cuda and cpu only, not on mps")
        return
    # This call, unlike the others, takes no device without an index.
    index = torch.cuda.current_device() if device.index is None else device.index
    _, total = torch.cuda.mem_get_info(index)
    torch.cuda.set_per_process_memory_fraction(1.0 if limit_bytes is None else min(1.0, limit_bytes / total), index)
