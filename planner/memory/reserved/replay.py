"""Reserved bytes of one configuration: its step's allocations, one by one, through the model of the caching
allocator.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.memory.engine.monomials import WIDTH
from planner.memory.engine.unroll import Event, LogPart, unroll
from planner.memory.engine.values import Array, multipliers
from planner.memory.reserved.allocator import OutOfMemory, replay
from planner.memory.step.case import Case
from planner.memory.step.kept import recall


@dataclass(frozen=True, slots=True)
class Replay:
    """What the caching allocator would hold."""

    free_bytes: int
    """Peak of reserved bytes with nothing in the way."""
    limited_bytes: int | None
    """The same below the limit, with free segments given back when it is reached; None where even that overflows."""
    flushes: int
    """How often in two steps segments would have to be given back below the limit: each costs a synchronisation."""


def replayed(
    case: Case,
    batch_size: Array,
    length: Array,
    chunk_rows: int,
    *,
    first: list[int],
    limit: int | None = None,
    expandable: bool = False,
    values: npt.NDArray[np.float64] | None = None,
) -> Replay:
    """Two steps of `case` (whose N is fixed) at one batch and length, or at the monomials' `values`.

    `first`: sizes allocated before the weights.
    """
    assert case.checkpointed is not None
    if values is None:
        values = multipliers(batch_size, length, batch_size * 0, chunk_rows)[0]
    values = values[:WIDTH]
    numbers = [float(value) for value in values]

    def made() -> list[int | None]:
        found = _replayed(case, numbers, first, limit, expandable)
        return [found.free_bytes, found.limited_bytes, found.flushes]

    asked = (numbers, first, limit, expandable)
    return Replay(*recall("reserved", case, asked, made, _is_replay))


def _is_replay(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    free, limited, flushes = value
    return all(type(x) is int and x >= 0 for x in (free, flushes, 0 if limited is None else limited))


def _replayed(case: Case, values: list[float], first: list[int], limit: int | None, expandable: bool) -> Replay:
    from planner.memory.step.program import persistent_sizes

    collecting = gc.isenabled()
    gc.disable()  # tens of thousands of small objects, none in a cycle that matters
    try:
        log = step_log(case, values)
        return held(first + persistent_sizes(case), log, limit=limit, expandable=expandable)
    finally:
        if collecting:
            gc.enable()


def held(persistent: list[int], log: list[Event], *, limit: int | None, expandable: bool = False) -> Replay:
    """What the allocator holds over two repetitions of a step, without a limit and below it."""
    free = replay(persistent, log, expandable_segments=expandable).reserved_peak
    if limit is None or free <= limit:
        return Replay(free, free, 0)
    try:
        limited = replay(persistent, log, expandable_segments=expandable, limit=limit)
    except OutOfMemory:
        return Replay(free, None, 0)
    return Replay(free, limited.reserved_peak, limited.flushes)


def step_log(case: Case, values: list[float]) -> list[Event]:
    """Allocations and releases of one step, layer by layer, at the monomials' `values`."""
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
