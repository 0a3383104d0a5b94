"""Reserved bytes of one configuration: its run's allocations, one by one, through the model of the caching
allocator.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from planner.contract.choices import TrainingChoices
from planner.contract.spec import HardwareProfile
from planner.memory.engine.monomials import WIDTH
from planner.memory.step.case import Case
from planner.memory.step.kept import recall

if TYPE_CHECKING:  # most starts ask for what is kept, and need none of it
    from planner.memory.engine.unroll import Event, Log
    from planner.memory.reserved.history import History

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
class SegmentRules:
    """How the allocator was told to go about its segments (`PYTORCH_ALLOC_CONF`)."""

    expandable: bool = False
    collect_above: int | None = None
    """Reserved bytes beyond which it gives free segments back; None for never."""

    @classmethod
    def of(cls, choices: TrainingChoices, hardware: HardwareProfile) -> SegmentRules:
        """Those of a run on a card, all of whose memory the process may hold."""
        share = choices.garbage_collection_threshold
        above = None if share is None or choices.expandable_segments else int(share * hardware.total_bytes)
        return cls(choices.expandable_segments, above)


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
    rules: SegmentRules = SegmentRules()


def numbers(values: npt.NDArray[Any]) -> Values:
    """The monomials' values of a fixed number of checkpointed layers."""
    return [float(value) for value in values[:WIDTH]]


def replayed(asked: Asked) -> Replay:
    """The run of `asked.case` (whose N is fixed) through the allocator.

    Without a limit it is played once for all devices of a kind; below a limit only where that is too much.
    """
    assert asked.case.checkpointed is not None
    open_ = replace(asked, limit=None)
    events = cache(lambda: _history(open_))
    free = Free(*_recalled("replay", open_, lambda: list(_played(events(), asked.rules)), 4))

    def below() -> tuple[int, int]:
        def made() -> list[int]:
            return list(_played_below(events(), asked.rules, asked.limit))

        reserved, flushes = _recalled("replay below", asked, made, 2)
        return reserved, flushes

    return _found(free, asked.limit, below)


def held(run: History, *, limit: int | None, rules: SegmentRules = SegmentRules()) -> Replay:
    """What the allocator holds over a run that is at hand, without a limit and below it."""
    return _found(_played(run, rules), limit, lambda: _played_below(run, rules, limit))


def _found(free: Free, limit: int | None, below: Callable[[], tuple[int, int]]) -> Replay:
    found = Replay(
        free_bytes=free.reserved,
        limited_bytes=None,
        flushes=0,
        allocated_bytes=free.allocated,
        resident_bytes=free.resident,
    )
    if limit is None or free.most_reserved <= limit:
        return replace(found, limited_bytes=free.reserved)
    limited, flushes = below()
    return replace(found, limited_bytes=limited or None, flushes=flushes)


@dataclass(frozen=True, slots=True)
class Free:
    """A run with nothing in the way, in bytes: the middle of the ways that it may go, and their largest."""

    reserved: int
    most_reserved: int
    allocated: int
    resident: int

    def __iter__(self) -> Iterator[int]:
        return iter((self.reserved, self.most_reserved, self.allocated, self.resident))


def _recalled(kind: str, asked: Asked, made: Callable[[], list[int]], count: int) -> list[int]:
    """So many whole numbers, kept from start to start."""
    evaluation = None if asked.evaluation is None else (repr(asked.evaluation.choices), asked.evaluation.flat)
    further = (
        *(asked.values, asked.workspace, asked.waiting, asked.limit, repr(asked.rules)),
        *(evaluation, asked.evaluation_values),
    )

    def right(value: object) -> bool:
        return isinstance(value, list) and len(value) == count and all(type(x) is int and x >= 0 for x in value)

    found: list[int] = recall(kind, asked.case, further, made, right)
    return found


def _played(run: History, rules: SegmentRules) -> Free:
    from planner.memory.reserved.history import play

    with _uncollected():
        ways = play(run, expandable_segments=rules.expandable, collect_above=rules.collect_above)
    return Free(
        reserved=_middle(way.reserved for way in ways),
        most_reserved=max(way.reserved for way in ways),
        allocated=_middle(way.allocated for way in ways),
        resident=_middle(way.resident for way in ways),
    )


def _played_below(run: History, rules: SegmentRules, limit: int | None) -> tuple[int, int]:
    """Reserved bytes below the limit and flushes; (0, 0) where the limit does not suffice."""
    from planner.memory.reserved.allocator import OutOfMemory
    from planner.memory.reserved.history import play

    try:
        with _uncollected():
            ways = play(run, expandable_segments=rules.expandable, collect_above=rules.collect_above, limit=limit)
    except OutOfMemory:
        return 0, 0
    return _middle(way.reserved for way in ways), max(way.flushes for way in ways)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: tens of thousands of small objects, none in a cycle that matters."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _history(asked: Asked) -> History:
    with _uncollected():
        return history(asked)


def history(asked: Asked) -> History:
    """All events of the run."""
    from planner.memory.reserved.history import History, Step, apart, before_the_step, split, state_sizes

    case = asked.case
    log, update = split(folded_log(case, asked.values))
    later = None
    if asked.waiting:  # gradients are born in the first micro-batch, and added to in the others
        alone = replace(case, choices=replace(case.choices, gradient_accumulation_steps=1))
        later, log = apart(log), split(folded_log(alone, asked.values))[0]
    evaluation = None
    if asked.evaluation is not None and asked.evaluation_values is not None:
        evaluation = folded_log(asked.evaluation, asked.evaluation_values)
    return History(
        load=before_the_step(case),
        step=Step(log, later, update),
        state=state_sizes(case),
        workspace=asked.workspace,
        waiting=list(asked.waiting),
        evaluation=evaluation,
    )


def _middle(sizes: Iterable[int]) -> int:
    ordered = sorted(sizes)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2


def alike(persistent: list[int], log: list[Event]) -> History:
    """A history in which every step is the same: what persists, then the step's log again and again."""
    from planner.memory.reserved.history import History, Step, prepared_loading

    load = [prepared_loading(enumerate(persistent))]
    return History(load=load, step=Step(log, None, []), state=[], workspace=0, waiting=[])


def largest_tensor(case: Case, values: Values) -> int:
    """Bytes of the largest tensor that a run makes or loads."""

    def made() -> int:
        from planner.memory.engine.unroll import Copies
        from planner.memory.reserved.history import largest_loaded, split

        step = split(folded_log(case, values))[0]
        events = (event for item in step for event in (item.events if isinstance(item, Copies) else (item,)))
        return max(largest_loaded(case), *(size for _, size in events))

    return int(recall("largest tensor", case, values, made, lambda value: type(value) is int and value >= 0))


def step_log(case: Case, values: Values) -> list[Event]:
    """Allocations and releases of one step, layer by layer, at the monomials' `values`; marks have keys below 0."""
    from planner.memory.engine.unroll import flat

    return flat(folded_log(case, values))


def folded_log(case: Case, values: Values) -> Log:
    """The same, layers that are alike told once."""
    from planner.memory.engine.unroll import LogPart, unroll
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
