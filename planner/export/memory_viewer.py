"""A traced step in the format of PyTorch's memory viewer (pytorch.org/memory_viz, `torch.cuda._memory_viz`).

The viewer reads the pickle that `torch.cuda.memory._dump_snapshot` writes: the allocator's segments with their blocks
at the end, and the history of allocations (`Snapshot`, `Segment`, `Block`, `TraceEntry` in torch/cuda/memory.py of
torch 2.13). Here the history is the traced step's, and the allocator's model gives it addresses and segments.
"""

from __future__ import annotations

import pickle
from typing import Any

from planner.export.timeline import Timeline, TimelineStorage
from planner.memory.reserved.allocator import CachingAllocator

STEPS = 2
"""The second step shows what the allocator does with the pools that the first one left."""


def snapshot(timeline: Timeline, *, workspaces: int = 2, steps: int = STEPS) -> dict[str, object]:
    """The history of loading and `steps` steps as plain Python objects.

    workspaces: how many library workspaces the constant bytes are.
    """
    history = _History()
    for _ in range(workspaces):
        size = timeline.constant_bytes // workspaces
        history.make(TimelineStorage(size, "workspaces", "load", "workspace", "cublas", "", (size,)))
    for key in timeline.before:
        history.make(timeline.storages[key])
    for _ in range(steps):
        held: dict[int, _Held] = {}
        for key, made in timeline.step:
            if made:
                held[key] = history.make(timeline.storages[key])
            else:
                history.release(held.pop(key))
        for left in held.values():
            history.release(left)
    return {"segments": history.segments(), "device_traces": [history.entries]}


def pickled(timeline: Timeline) -> bytes:
    """The file's content."""
    return pickle.dumps(snapshot(timeline), protocol=4)


_Held = tuple[int, int, list[dict[str, object]]]
"""Address, bytes that were asked for, frames."""


class _History:
    def __init__(self) -> None:
        self.allocator = CachingAllocator()
        self.entries: list[dict[str, object]] = []
        self._alive: dict[int, _Held] = {}
        self._frames: dict[TimelineStorage, list[dict[str, object]]] = {}
        self._time = 0

    def make(self, storage: TimelineStorage) -> _Held:
        reserved = self.allocator.reserved
        address = self.allocator.allocate(storage.size)
        frames = self._frames.get(storage)
        if frames is None:
            frames = self._frames[storage] = _frames(storage)
        grown = self.allocator.reserved - reserved
        if grown:
            self._note("segment_alloc", address, grown, frames)
        self._note("alloc", address, storage.size, frames)
        held = (address, storage.size, frames)
        self._alive[address] = held
        return held

    def release(self, held: _Held) -> None:
        address, size, frames = held
        self.allocator.release(address)
        del self._alive[address]
        self._note("free_requested", address, size, frames)
        self._note("free_completed", address, size, frames)

    def segments(self) -> list[dict[str, object]]:
        """Segments with their blocks as they are now."""
        found: list[dict[str, object]] = []
        for small, parts in self.allocator.segments():
            blocks: list[dict[str, Any]] = []
            for address, size, free in parts:
                held = self._alive.get(address)
                blocks.append(
                    {
                        "address": address,
                        "size": size,
                        "requested_size": size if held is None else held[1],
                        "state": "inactive" if free else "active_allocated",
                        "frames": [] if held is None else held[2],
                    }
                )
            used = sum(block["size"] for block in blocks if block["state"] == "active_allocated")
            found.append(
                {
                    "device": 0,
                    "address": parts[0][0],
                    "total_size": sum(size for _, size, _ in parts),
                    "stream": 0,
                    "segment_type": "small" if small else "large",
                    "segment_pool_id": (0, 0),
                    "allocated_size": used,
                    "active_size": used,
                    "requested_size": sum(b["requested_size"] for b in blocks if b["state"] == "active_allocated"),
                    "is_expandable": False,
                    "blocks": blocks,
                    "frames": [],
                }
            )
        return found

    def _note(self, action: str, address: int, size: int, frames: list[dict[str, object]]) -> None:
        self._time += 1
        self.entries.append(
            {"action": action, "addr": address, "size": size, "stream": 0, "time_us": self._time, "frames": frames}
        )


def _frames(storage: TimelineStorage) -> list[dict[str, object]]:
    """What the viewer shows of a block, innermost first, in place of a call stack."""
    shape = "x".join(map(str, storage.shape))
    return [
        {"name": f"{storage.op} {storage.dtype} [{shape}]", "filename": storage.module or "step", "line": 0},
        {"name": storage.component, "filename": storage.phase, "line": 0},
    ]


__all__ = ["pickled", "snapshot"]
