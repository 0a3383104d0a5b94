"""The course of one traced step: every allocation and release in order, who made it, and what is alive in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TimelineStorage:
    """One stretch of memory of the step."""

    size: int
    """Bytes."""
    component: str
    phase: str
    """Instant in which it was made."""
    op: str
    module: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A traced step as it was recorded."""

    storages: dict[int, TimelineStorage]
    """By the number under which the events name them."""
    before: list[int]
    """Storages that live when the step begins and outlive it: weights, adapters, optimizer state, the batch."""
    step: list[tuple[int, bool]]
    """(storage, whether it is made): the step's allocations and releases in order."""
    constant_bytes: int
    """Library workspaces, allocated before everything else."""

    @classmethod
    def from_trace(cls, found: Mapping[str, Any]) -> Timeline:
        """Reads what `python -m trainer.trace --events` printed."""
        storages: dict[int, TimelineStorage] = {}
        alive: dict[int, None] = {}
        step: list[tuple[int, bool]] = []
        for event in found["events"]:
            key, made = int(event["id"]), event["kind"] == "alloc"
            if made:
                storages[key] = TimelineStorage(
                    size=int(event["bytes"]),
                    component=event["component"],
                    phase=event["phase"],
                    op=event["op"],
                    module=event["module"],
                    dtype=event["dtype"],
                    shape=tuple(event["shape"]),
                )
            if event["event"] > found["step_begins"]:
                step.append((key, made))
            elif made:
                alive[key] = None
            else:
                del alive[key]
        # What the step itself releases belongs to it: it is made anew before the next one.
        ended = {key for key, made in step if not made}
        early = [key for key in alive if key in ended]
        before = [key for key in alive if key not in ended]
        constant = int(found["memory"]["components"].get("workspaces", 0))
        return cls(storages, before, [(key, True) for key in early] + step, constant)

    def persistent_sizes(self) -> list[int]:
        """Bytes of each storage that outlives the step, in the order in which they were made."""
        return [self.storages[key].size for key in self.before]

    def log(self) -> list[tuple[int, int]]:
        """The step as the allocator's replay takes it: (key, bytes) for an allocation, (key, -1) for a release."""
        return [(key, self.storages[key].size if made else -1) for key, made in self.step]

    def live_by_component(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Names of the components, the most persistent first, and their live bytes after each event of the step.

        The array has shape (components, events + 1); its first column is the step's beginning.
        """
        names = sorted({storage.component for storage in self.storages.values()} | {"workspaces"})
        row = {name: index for index, name in enumerate(names)}
        change = np.zeros((len(names), len(self.step) + 1), dtype=np.int64)
        change[row["workspaces"], 0] = self.constant_bytes
        for key in self.before:
            storage = self.storages[key]
            change[row[storage.component], 0] += storage.size
        for column, (key, made) in enumerate(self.step, start=1):
            storage = self.storages[key]
            change[row[storage.component], column] += storage.size if made else -storage.size
        live = change.cumsum(axis=1)
        order = np.lexsort((-live.max(axis=1), -live.min(axis=1)))
        return [names[index] for index in order if live[index].any()], live[[i for i in order if live[i].any()]]

    def phases(self) -> list[tuple[str, int]]:
        """(instant, column of its first event) in order; the columns are those of `live_by_component`.

        A release belongs to the instant in which it happens, which only allocations tell: it counts to the one running.
        """
        found: list[tuple[str, int]] = []
        for column, (key, made) in enumerate(self.step, start=1):
            if made and (not found or found[-1][0] != self.storages[key].phase):
                found.append((self.storages[key].phase, column))
        return found


__all__ = ["Timeline", "TimelineStorage"]
