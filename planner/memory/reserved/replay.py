"""Reserved bytes of one configuration: its run's allocations, one by one, through the model of the caching
allocator.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from planner.memory.engine.monomials import WIDTH
from planner.memory.engine.unroll import Event, LogPart, unroll
from planner.memory.reserved.allocator import OutOfMemory
from planner.memory.reserved.history import History, Step, apart, before_the_step, play, split, state_sizes
from planner.memory.step.case import Case
from planner.memory.step.kept import recall

Values = list[float]


@dataclass(frozen=True, slots=True)
class Replay:
    """What the caching allocator would hold."""

    free_bytes: int
    """Peak of reserved bytes with nothing in the way."""
    limited_bytes: int | None
    """The same below the limit, with free segments given back when it is reached; None where even that overflows."""
    flushes: int
    """How often segments would have to be given back below the limit: each costs a synchronisation."""
    allocated_bytes: int
    """Peak of allocated bytes: blocks as the allocator hands them out, which may be larger than what was asked for."""
    resident_bytes: int
    """Allocated bytes once the model is loaded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is played: the cases of training and evaluation at the monomials' values."""

    case: Case
    values: Values
    workspace: int
    """Bytes of one cuBLAS workspace."""
    waiting: tuple[int, ...] = ()
    """Sizes of the batches that wait for their turn."""
    evaluation: Case | None = None
    evaluation_values: Values | None = None
    limit: int | None = None
    expandable: bool = False


def numbers(values: npt.NDArray[Any]) -> Values:
    """The monomials' values of a fixed number of checkpointed layers."""
    return [float(value) for value in values[:WIDTH]]


def replayed(asked: Asked) -> Replay:
    """The run of `asked.case` (whose N is fixed) through the allocator."""
    assert asked.case.checkpointed is not None

    def made() -> list[int | None]:
        found = _replayed(asked)
        return [
            found.free_bytes,
            found.limited_bytes,
            found.flushes,
            found.allocated_bytes,
            found.resident_bytes,
        ]

    evaluation = None if asked.evaluation is None else (repr(asked.evaluation.choices), asked.evaluation.flat)
    further = (
        *(asked.values, asked.workspace, asked.waiting, asked.limit, asked.expandable),
        *(evaluation, asked.evaluation_values),
    )
    return Replay(*recall("replay", asked.case, further, made, _is_replay))


def _is_replay(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 5:
        return False
    return all(type(x) is int and x >= 0 for place, x in enumerate(value) if place != 1 or x is not None)


def _replayed(asked: Asked) -> Replay:
    collecting = gc.isenabled()
    gc.disable()  # tens of thousands of small objects, none in a cycle that matters
    try:
        return held(history(asked), limit=asked.limit, expandable=asked.expandable)
    finally:
        if collecting:
            gc.enable()


def history(asked: Asked) -> History:
    """All events of the run."""
    case = asked.case
    log, update = split(step_log(case, asked.values))
    later = None
    if asked.waiting:  # gradients are born in the first micro-batch, and added to in the others
        alone = replace(case, choices=replace(case.choices, gradient_accumulation_steps=1))
        later, log = apart(log), split(step_log(alone, asked.values))[0]
    evaluation = None
    if asked.evaluation is not None and asked.evaluation_values is not None:
        evaluation = step_log(asked.evaluation, asked.evaluation_values)
    return History(
        load=before_the_step(case),
        step=Step(log, later, update),
        state=state_sizes(case),
        workspace=asked.workspace,
        waiting=list(asked.waiting),
        evaluation=evaluation,
    )


def held(run: History, *, limit: int | None, expandable: bool = False) -> Replay:
    """What the allocator holds over a run, without a limit and below it: the middle of the ways it may go."""
    free = play(run, expandable_segments=expandable)
    found = Replay(
        free_bytes=_middle(played.reserved for played in free),
        limited_bytes=None,
        flushes=0,
        allocated_bytes=_middle(played.allocated for played in free),
        resident_bytes=_middle(played.resident for played in free),
    )
    if limit is None or max(played.reserved for played in free) <= limit:
        return replace(found, limited_bytes=found.free_bytes)
    try:
        limited = play(run, expandable_segments=expandable, limit=limit)
    except OutOfMemory:
        return found
    return replace(
        found,
        limited_bytes=_middle(played.reserved for played in limited),
        flushes=max(played.flushes for played in limited),
    )


def _middle(sizes: Iterable[int]) -> int:
    ordered = sorted(sizes)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2


def alike(persistent: list[int], log: list[Event]) -> History:
    """A history in which every step is the same: what persists, then the step's log again and again."""
    return History(load=[list(enumerate(persistent))], step=Step(log, None, []), state=[], workspace=0, waiting=[])


def largest_tensor(case: Case, values: Values) -> int:
    """Bytes of the largest tensor that a run makes or loads."""

    def made() -> int:
        loaded = before_the_step(case)[-1]  # without a warm-up, which is no tensor
        return max(size for _, size in (*loaded, *split(step_log(case, values))[0]))

    return int(recall("largest tensor", case, values, made, lambda value: type(value) is int and value >= 0))


def step_log(case: Case, values: Values) -> list[Event]:
    """Allocations and releases of one step, layer by layer, at the monomials' `values`; marks have keys below 0."""
    from planner.memory.step.program import run

    tape = run(case, None, values)
    copies = {group.index: group.copies for group in tape.ledger.groups}
    parts = [LogPart(s.log, s.group, s.name in ("backward", "optimizer")) for s in tape.ledger.segments]
    if not copies:
        return [event for part in parts for event in part.events]
    whole = unroll(parts, copies)
    if whole is None:
        whole = [event for s in run(case, None, values, every_layer=True).ledger.segments for event in s.log]
    return whole
