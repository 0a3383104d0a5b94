"""Peaks of a configuration: allocated, reserved and device bytes by instant and component."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.records import MemoryReport
from planner.contract.sentence import named
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import device
from planner.memory.engine.monomials import is_vector
from planner.memory.loads import Load, envelope_of, largest, loads, persistent_bytes
from planner.memory.reserved.replay import Asked, Replay, SegmentRules, largest_tensor, numbers, replayed
from planner.memory.step.case import Case
from planner.memory.step.kept import recall
from planner.memory.step.sharding import UNMEASURED_SHARE, exchanges, may_hold, zero2

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
    """Peaks by instant and component of one configuration on one device.

    `lengths`: those of the data; the peak is then that of the heaviest micro-batch the trainer makes of them, not that
    of rows which all have the maximal length.
    Raises `NotModelled` for what has no program, `InvalidInput` for more checkpointed layers than there are.
    """

    if choices.checkpoint_layers is not None and choices.checkpoint_layers > model.total_layers:
        raise InvalidInput(
            named("checkpoint_layers"),
            f" {choices.checkpoint_layers} is more than the {model.total_layers} layers of {model.id}",
        )
    step = _step(model, hardware, choices, lengths)
    budget = hardware.budget_bytes if budget_bytes is None else budget_bytes
    held = _held(model, hardware, choices, step, budget)
    if held.replayed:
        held = _no_less_than_smaller(model, hardware, choices, lengths, budget, step, held)
    total = held.reserved + hardware.context_bytes
    components = _step_components(step, device.workspace_bytes(hardware))
    components["fragmentation"] = held.reserved - step.allocated  # what is lost within blocks, and between them
    components["context"] = hardware.context_bytes
    lower, upper = _interval(hardware, step, held)
    if choices.num_gpus > 1:
        margin = int(UNMEASURED_SHARE * total)
        lower, upper = lower - margin, upper + margin + may_hold(choices, total, step.allocated - step.persistent)
    report = MemoryReport(
        allocated_peak_bytes=held.allocated,
        tensors_peak_bytes=step.allocated,
        largest_tensor_bytes=None if hardware.largest_buffer_bytes is None else _largest_tensor(step),
        largest_buffer_bytes=hardware.largest_buffer_bytes,
        reserved_peak_bytes=held.reserved,
        device_peak_bytes=total,
        interval_bytes=(lower, upper),
        budget_bytes=budget,
        binding_instant=step.binding,
        instants=step.instants,
        components={name: size for name, size in components.items() if size},
        batch_lengths=step.load.rows,
    )
    return device.corrected_report(hardware, report, step.persistent, held.most)


@dataclass(frozen=True, slots=True)
class _Step:
    """Allocated bytes of a step, before any calibration."""

    load: Load
    evaluation: Load
    instants: dict[str, int]
    binding: str
    waiting: int
    """Bytes of the micro-batches that wait for their turn."""
    earlier: int
    """Bytes of gradients that are there in a step and not between steps."""
    persistent: int

    @property
    def allocated(self) -> int:
        """The peak."""
        return self.instants[self.binding]

    @property
    def at_peak(self) -> Load:
        """What passes through the model where the peak is."""
        return self.evaluation if self.binding == "eval" else self.load


def _step(model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, lengths: Lengths | None) -> _Step:
    load, evaluation = loads(model, hardware, choices, lengths)
    found = envelope_of(load.case)
    workspaces = device.workspace_bytes(hardware)
    instants: dict[str, int] = {}
    for name, size in zip(found.instants, load.live(found), strict=True):
        instants[name] = max(instants.get(name, 0), round(float(size)) + workspaces)
    waiting = load.handed_over * (choices.gradient_accumulation_steps - 1)
    instants = {name: size + (waiting if name != "load" else 0) for name, size in instants.items()}
    instants["eval"] = round(largest(evaluation)) + workspaces
    earlier = _waiting_gradients(load.case)
    instants["load"] -= earlier
    instants["save"] = instants["load"]
    if (exchanges(choices) or zero2(choices)) and hardware.kind == "cpu":
        from planner.memory.step.program import gathered_bytes

        instants["save"] += gathered_bytes(load.case)
    binding = max(instants, key=lambda name: instants[name])
    return _Step(load, evaluation, instants, binding, waiting, earlier, persistent_bytes(found))


def _step_components(step: _Step, workspaces: int) -> dict[str, int]:
    """Allocated bytes by component at the peak."""
    components = _components(step.at_peak, "load" if step.binding == "save" else step.binding)
    if step.binding == "save":
        components["communication"] = step.allocated - step.instants["load"]
    if step.binding in ("load", "save") and step.earlier:
        components["gradients"] -= step.earlier
    if step.binding not in ("load", "eval", "save"):
        components["temporaries"] = components.get("temporaries", 0) + step.waiting
    components["workspaces"] = workspaces
    return components


@dataclass(frozen=True, slots=True)
class _Held:
    """What the allocator holds."""

    allocated: int
    """In blocks, which may be larger than the tensors in them."""
    reserved: int
    """Below the budget, with free segments given back, where that suffices."""
    most: int
    """With nothing in the way."""
    replayed: bool = False
    """Whether an allocator was replayed, whose rounding makes a larger batch hold less now and then."""


def _held(model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, step: _Step, budget: int) -> _Held:
    by_rule = int(device.reserved(np.array([step.allocated]), np.array([step.persistent]))[0])
    if hardware.kind in ("cuda", "rocm") and choices.num_gpus == 1:
        found = _replayed(hardware, step, budget - hardware.context_bytes)
        allocated = max(found.allocated_bytes, step.allocated)
        most = max(found.free_bytes, allocated)
        return _Held(allocated, max(found.limited_bytes or most, allocated), most, replayed=True)
    if hardware.kind in ("cuda", "rocm") and exchanges(choices):
        # What the allocator can't use again; the parts of loading and update are rough, so the peak is the step's own.
        found = _replayed(hardware, step, budget - hardware.context_bytes)
        unused = (found.limited_bytes or found.free_bytes) - found.allocated_bytes
        held = max(step.allocated + unused, by_rule)
        most = by_rule if choices.stack == "peft" else held  # `may_hold` is what stack `peft` may hold beyond the rule
        return _Held(step.allocated, held, most, replayed=True)
    return _Held(step.allocated, by_rule, by_rule)


def _interval(hardware: HardwareProfile, step: _Step, held: _Held) -> tuple[int, int]:
    low, persistent = np.array([step.allocated]), np.array([step.persistent])
    upper = int(device.upper(np.array([held.most + hardware.context_bytes]), low, persistent)[0])
    reserved = min(held.reserved, held.most)
    lower = int(device.lower(np.array([reserved + hardware.context_bytes]), low, persistent)[0])
    return lower, max(upper, held.reserved + hardware.context_bytes)


FALL = 0.8
"""A larger micro-batch may hold so little of what a smaller one holds: of 5,848 pairs of sizes (random settings, seven
models, 2026-11) 1.2 % fell at all, 0.1 % to under 0.91, one to 0.83."""


def _no_less_than_smaller(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    lengths: Lengths | None,
    budget: int,
    step: _Step,
    held: _Held,
) -> _Held:
    """What a smaller micro-batch holds is held by this one too, where the budget is near enough for that to count.

    Segments are rounded, so that a larger batch may fit into them with less left over; which one has that luck hangs on
    a few bytes, and nobody should be told that eight sequences fit where seven don't.
    """
    size = choices.batch_size
    upper = _interval(hardware, step, held)[1]
    fails = held.reserved + hardware.context_bytes > budget
    if fails or upper < FALL * budget:
        return held
    for batch in _smaller(size):
        fewer = replace(choices, batch_size=batch)
        other = _held(model, hardware, fewer, _step(model, hardware, fewer, lengths), budget)
        held = _Held(held.allocated, max(held.reserved, other.reserved), max(held.most, other.most), replayed=True)
    return held


def _smaller(size: int) -> list[int]:
    """The next two micro-batches below `size`, and some down to where a fall is made up for by what each one adds."""
    return [size - less for less in (1, 2, 3, 5, 8, 13, 21) if size - less >= max(1, min(size - 2, FALL * size))]


def _waiting_gradients(case: Case) -> int:
    """Bytes of earlier micro-batches' gradients: a step's last micro-batch finds them, between steps they are gone."""
    if case.choices.gradient_accumulation_steps == 1:
        return 0

    def made() -> int:
        from planner.memory.step.program import waiting_gradients

        return waiting_gradients(case)

    return int(recall("waiting gradients", case, None, made, lambda value: type(value) is int and value >= 0))


def _replayed(hardware: HardwareProfile, step: _Step, limit: int) -> Replay:
    """The run's allocations through the allocator, below `limit` where that can suffice."""
    load = step.load
    count = step.waiting // load.handed_over
    return replayed(
        Asked(
            case=load.case,
            values=numbers(load.at_peak()),
            workspace=hardware.cublas_workspace_bytes,
            waiting=(load.handed_over,) * min(count, 2) + ((count - 2) * load.handed_over,) * (count > 2),
            evaluation=step.evaluation.case,
            evaluation_values=numbers(step.evaluation.at_peak()),
            limit=max(limit, 0) if step.allocated <= limit else None,
            rules=SegmentRules.of(load.case.choices, hardware),
        )
    )


def _largest_tensor(step: _Step) -> int:
    """Bytes of the largest single tensor of a step, weights included."""
    return largest_tensor(step.load.case, numbers(step.load.at_peak()))


def _components(load: Load, binding: str) -> dict[str, int]:
    """Live bytes by component at the event that sets the peak: the tape is run again and watched there."""
    case, found = load.case, envelope_of(load.case)
    live = load.live(found)
    rows = [row for row, name in enumerate(found.instants) if name == binding] or [int(live.argmax())]
    row = max(rows, key=lambda index: live[index])
    values = load.at(found, row)
    segment, event, offset = found.where[row]
    vectors = recall("components", case, found.where[row], lambda: _watched(case, segment, event, offset), _is_watched)
    parts: dict[str, int] = {}
    for name, vector in vectors:
        parts[name] = parts.get(name, 0) + round(float(values @ np.array(vector, float)))
    return parts


def _watched(case: Case, segment: int, event: int, offset: int) -> list[tuple[str, list[int]]]:
    """Coefficients by component at an event, and those of the copies of its stretch."""
    from planner.memory.step.program import run

    ledger = run(case, (segment, event)).ledger
    assert ledger.watched is not None
    parts = [(name, list(vector)) for name, vector in ledger.watched.items()]
    return parts + [(name, list(vector)) for name, vector in ledger.segments[segment].parts[offset].items()]


def _is_watched(value: object) -> bool:
    return (
        bool(value)
        and isinstance(value, list)
        and all(
            isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and is_vector(part[1])
            for part in value
        )
    )
