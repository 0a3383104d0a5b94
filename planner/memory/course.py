"""The course of one step: live bytes by component, event after event, from loading to the update and an evaluation.

The same run of the same program that sets the peak, with every event written down instead of the largest ones: the
largest total of an instant is the instant's peak in the report (before any calibration).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.contract.choices import TrainingChoices
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.data.lengths import Lengths
from planner.memory import device, loads
from planner.memory.engine.ledger import EVERY, Ledger
from planner.memory.engine.monomials import ZERO

MOST_COPIES = 64
"""Copies of a repeated stretch that are written out; of more, so many spread evenly."""


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Live bytes of one step."""

    components: tuple[str, ...]
    """Names of the rows, the one that lives longest first."""
    live: npt.NDArray[np.int64]
    """(components, events), bytes in tensors."""
    instants: tuple[tuple[str, int], ...]
    """(instant, its first event), in the order in which they come."""

    @property
    def totals(self) -> npt.NDArray[np.int64]:
        """(events), bytes."""
        found: npt.NDArray[np.int64] = self.live.sum(axis=0)
        return found

    def instant_at(self, event: int) -> tuple[str, int, int]:
        """The instant of an event, its first event and the first of the next."""
        starts = [start for _, start in self.instants]
        place = max(index for index, start in enumerate(starts) if start <= event)
        stop = starts[place + 1] if place + 1 < len(starts) else self.live.shape[1]
        return self.instants[place][0], starts[place], stop


def course(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, *, lengths: Lengths | None = None
) -> Course:
    """The heaviest micro-batch's step, then an evaluation; arguments and what is raised: as `predict`."""
    from planner.memory.step.program import run, waiting_gradients

    step, evaluation = loads.loads(model, hardware, choices, lengths)
    waiting = step.handed_over * (choices.gradient_accumulation_steps - 1)
    stretches: list[_Part] = []
    for load in (step, evaluation):
        envelope = loads.envelope_of(load.case)
        values = load.at(envelope, int(load.live(envelope).argmax()))
        ledger = run(load.case, EVERY).ledger
        stretches += [one for one in _written_out(ledger, values) if (one.instant == "eval") == (load is evaluation)]
    earlier = waiting_gradients(step.case) if choices.gradient_accumulation_steps > 1 else 0
    workspaces = device.workspace_bytes(hardware)
    for one in stretches:
        one.sizes["workspaces"] = np.array([workspaces])
        if one.instant not in ("load", "eval"):
            one.sizes["waiting_batches"] = np.array([waiting])
        if one.instant == "load" and "gradients" in one.sizes:
            # There when a step's last micro-batch begins, not between steps.
            one.sizes["gradients"] = np.maximum(one.sizes["gradients"] - earlier, 0)
    return _table(stretches)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A run of events of one instant: bytes of each component, one number for each event or one for all."""

    instant: str
    events: int
    sizes: dict[str, npt.NDArray[np.int64]]


def _written_out(ledger: Ledger, values: npt.NDArray[np.float64]) -> Iterator[_Part]:
    """Every event in its order, repeated stretches copy by copy."""
    assert ledger.history is not None
    copies = {group.index: group.copies for group in ledger.groups}
    for segment, history in zip(ledger.segments, ledger.history, strict=True):
        if not history:
            continue
        names = sorted({*(name for event in history for name in event), *segment.parts[-1]})
        each = np.array([[event.get(name, ZERO) for event in history] for name in names], dtype=np.float64) @ values
        last = np.array([segment.parts[-1].get(name, ZERO) for name in names], dtype=np.float64) @ values
        shown = min(copies.get(segment.group, 1), MOST_COPIES) if len(segment.parts) > 1 else 1
        shares = np.linspace(0, 1, shown) if shown > 1 else np.zeros(1)
        # (components, copies, events): live bytes change by the same amount from copy to copy.
        sizes = each[:, None, :] + shares[None, :, None] * last[:, None, None]
        flat = np.rint(sizes).astype(np.int64).reshape(len(names), -1)
        yield _Part(segment.name, flat.shape[1], dict(zip(names, flat, strict=True)))


def _table(stretches: list[_Part]) -> Course:
    names = sorted({name for one in stretches for name in one.sizes})
    live = np.zeros((len(names), sum(one.events for one in stretches)), dtype=np.int64)
    row = {name: index for index, name in enumerate(names)}
    instants: list[tuple[str, int]] = []
    place = 0
    for one in stretches:
        for name, sizes in one.sizes.items():
            live[row[name], place : place + one.events] = sizes
        if not instants or instants[-1][0] != one.instant:
            instants.append((one.instant, place))
        place += one.events
    steadiness = np.median(live, axis=1)
    kept = [index for index in np.lexsort((-live.max(axis=1), -steadiness)) if live[index].any()]
    return Course(tuple(names[index] for index in kept), live[kept], tuple(instants))


__all__ = ["Course", "course"]
