"""The whole history of a run's allocations: loading, the first step, which makes the optimizer's state, later steps.

Between the parts some live on: weights and adapters, cuBLAS' workspaces (one of each of PyTorch's threads, from its
first matrix product on), the optimizer's state (from the first update on), gradients until the update is done. What the
allocator holds hangs on the order in which all of them come and go, since what is left over between two blocks that
stay is lost to anything larger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec
from planner.memory.engine.ledger import BACKWARD_LIBRARY, FORWARD_LIBRARY, UPDATE
from planner.memory.engine.unroll import Copies, Event, Log
from planner.memory.network.net import Net
from planner.memory.reserved.loading import loading
from planner.memory.reserved.player import Player, PreparedEvents
from planner.memory.reserved.steady import small_most
from planner.memory.step.case import Case
from planner.memory.step.kept import config_hash
from planner.memory.step.optimizers import state_bytes, trained_tensors
from planner.memory.step.sharding import exchanges, kept_share
from planner.memory.step.updates import one_by_one

LASTING = 1 << 40
"""Keys from here on are of what outlives its step."""
LATER_STEPS = 3
"""At most so many steps after the first are played; fewer once one of them reserves nothing more."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its first micro-batch, a later one (None where there is none), the update."""

    first: Log
    later: Log | None
    update: Log


@dataclass(frozen=True, slots=True)
class History:
    """All parts of a run."""

    load: list[PreparedEvents]
    """Each way that loading may go, under keys that no step has."""
    step: Step
    state: list[int]
    """Sizes of the optimizer's state, in the order in which it is made."""
    workspace: int
    """Bytes of one cuBLAS workspace."""
    waiting: list[int]
    """Sizes of the batches that a step fetches with its first one."""
    evaluation: Log | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """What the allocator held, in bytes."""

    resident: int
    """Allocated once the model is loaded."""
    allocated: int
    """Most that was allocated in a step, or in an evaluation."""
    reserved: int
    """Most that was reserved, loading included."""
    flushes: int


def split(log: Log) -> tuple[Log, Log]:
    """A step's events before its update, and those of the update."""
    places = [place for place, event in enumerate(log) if not isinstance(event, Copies) and event[0] == UPDATE]
    at = places[0] if places else len(log)
    return log[:at], log[at + 1 :]


def apart(log: Log) -> Log:
    """The events under keys that no other micro-batch has, whose gradients live on under theirs."""
    return [_apart(item) for item in log]


def _apart(item: Event | Copies) -> Event | Copies:
    away = LASTING // 2
    if isinstance(item, Copies):
        return replace(item, shifts=[shift + away for shift in item.shifts])
    return (item[0] + away, item[1]) if item[0] >= 0 else item


def state_sizes(case: Case) -> list[int]:
    """The optimizer's state, tensor after tensor in the order of the update."""
    return _told_once(_STATES, case, _state_sizes)


def _state_sizes(case: Case) -> list[int]:
    net = Net.build(case.spec, case.choices)
    tensors = trained_tensors(case.spec, case.choices, net.itemsize, net.adapter_itemsize)
    sizes: list[int] = []
    known: dict[tuple[int, ...], int] = {}
    for tensor in one_by_one(tensors):
        size = known.get(tensor.shape)
        if size is None:
            size = known[tensor.shape] = state_bytes([replace(tensor, copies=1)], case.choices) // 2
        sizes += [size, size] if size else []
    ranks = kept_share(case.choices) if exchanges(case.choices) else 1
    return [-(-size // ranks) for size in sizes]


def before_the_step(case: Case) -> list[PreparedEvents]:
    """Loading (`reserved.loading`), each way that it may go."""
    return _told_once(_LOADED, case, _prepared)


def largest_loaded(case: Case) -> int:
    """Bytes of the largest tensor that loading makes."""
    return _told_once(_LARGEST, case, _largest_loaded)


def _largest_loaded(case: Case) -> int:
    events = loading(Net.build(case.spec, case.choices))[-1]  # without a warm-up, which is no tensor
    return max((size for _, size in events), default=0)


def _prepared(case: Case) -> list[PreparedEvents]:
    return [prepared_loading(way) for way in loading(Net.build(case.spec, case.choices))]


Told = TypeVar("Told")
_Kept = OrderedDict[tuple[ModelSpec, str, TrainingChoices], Told]
_LOADED: _Kept[list[PreparedEvents]] = OrderedDict()
_STATES: _Kept[list[int]] = OrderedDict()
_LARGEST: _Kept[int] = OrderedDict()
MOST_KEPT = 8


def _told_once(kept: _Kept[Told], case: Case, tell: Callable[[Case], Told]) -> Told:
    """What is the same for every batch and length, whose choices are those of a case."""
    key = case.spec, config_hash(case.spec), case.choices
    found = kept.get(key)
    if found is None:
        found = kept[key] = tell(case)
        if len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    return found  # another thread may have dropped it meanwhile


def prepared_loading(events: Iterable[Event]) -> PreparedEvents:
    """Events of loading under keys that are told from those of a step."""
    return PreparedEvents.of((key + 2 * LASTING, size) for key, size in events)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a history that are played again and again."""

    first: PreparedEvents
    later: PreparedEvents | None
    update: PreparedEvents
    evaluation: PreparedEvents | None
    small_most: int | None
    """`steady.small_most` of the first micro-batch and a later one."""

    @classmethod
    def of(cls, history: History) -> _Parts:
        step = history.step
        first = PreparedEvents.of(step.first)
        later = None if step.later is None else PreparedEvents.of(step.later)
        evaluation = None if history.evaluation is None else PreparedEvents.of(history.evaluation)
        stride = max((item.stride for item in step.first if isinstance(item, Copies)), default=1)
        most = None if later is None else small_most(first, later, stride)
        return cls(first, later, PreparedEvents.of(step.update), evaluation, most)


@dataclass(frozen=True, slots=True)
class _Steady:
    """A later micro-batch that left the large pool as it found it."""

    pool: object
    """That pool's state."""
    peak: int
    """Most that was allocated meanwhile, over what the small pool held at its start."""


class _Run:
    """Plays a history step by step."""

    def __init__(self, history: History, parts: _Parts, player: Player) -> None:
        self.history, self.parts, self.player = history, parts, player
        self._lasting = LASTING
        self._steady: _Steady | None = None
        marked = {passage.mark for passage in parts.first.passages}
        self._marks: dict[int, list[int]] = {
            FORWARD_LIBRARY: [history.workspace],
            BACKWARD_LIBRARY: [history.workspace],
        }

        for mark in {FORWARD_LIBRARY, BACKWARD_LIBRARY} - marked:  # a recorded program does not say where it multiplies
            self._take(self._marks.pop(mark))

    def step(self) -> None:
        """One optimizer step: its micro-batches, the update, and the gradients gone."""
        parts, history = self.parts, self.history
        waiting = [(LASTING - 1 - number, size) for number, size in enumerate(history.waiting)]
        self.player.play(waiting)
        if not self._goes_as_before():
            self._pass(parts.first)
            if parts.later is not None:
                for _ in range(min(len(history.waiting), 2)):
                    before = self.player.state()
                    self._later(parts.later)
                    if self.player.state() == before:
                        break  # another one would be this one again
        self._take(history.state, first=UPDATE)
        self._pass(parts.update)
        self.player.release([key for key, _ in waiting])
        self.player.release([*parts.first.left, *parts.update.left])

    def _later(self, log: PreparedEvents) -> None:
        """A later micro-batch, and whether it is one that all further ones are like."""
        player = self.player
        begun, small, peak, flushes = player.pool.state(), player.small, player.allocated_peak, player.flushes
        player.forget_peak()
        self._pass(log)
        self._steady = None
        as_it_was = player.pool.state() == begun and player.flushes == flushes
        if as_it_was and player.small == small + sum(log.small.values()):
            self._steady = _Steady(begun, player.allocated_peak - small)
        player.pool.allocated_peak = max(peak, player.allocated_peak)
        player.release(log.left)

    def _goes_as_before(self) -> bool:
        """Counts a step's micro-batches without playing them, where they would go as the last one did (`steady`)."""
        player, steady, small, left = self.player, self._steady, self.parts.small_most, self.parts.first.small
        if steady is None or small is None or player.pool.state() != steady.pool:
            return False
        if not player.has_room(player.small + sum(left.values()) + small):
            return False
        player.count(left, allocated=steady.peak, small=small)
        return True

    def evaluate(self) -> None:
        """An evaluation batch."""
        if self.parts.evaluation is not None:
            self._pass(self.parts.evaluation)
            self.player.release(self.parts.evaluation.left)

    def _pass(self, log: PreparedEvents) -> None:
        """Events of a pass; at a mark what is made there once."""
        self.player.repeat(log, lambda mark: self._take(self._marks.pop(mark, [])))

    def _take(self, sizes: list[int], *, first: int = 0) -> None:
        """Allocates what stays; under the mark `first` only the first time."""
        if first and first in self._marks:
            return
        if first:
            self._marks[first] = []
        self.player.play((self._lasting + number, size) for number, size in enumerate(sizes))
        self._lasting += len(sizes)


def play(
    history: History,
    *,
    limit: int | None = None,
    expandable_segments: bool = False,
    collect_above: int | None = None,
) -> list[Played]:
    """The history played to where nothing changes any more, for each way that loading may go.

    Raises `OutOfMemory` where `limit` does not suffice for one of them.
    """
    parts = _Parts.of(history)
    return [
        _played(
            history,
            parts,
            load,
            Player(expandable_segments=expandable_segments, limit=limit, collect_above=collect_above),
        )
        for load in history.load
    ]


def _played(history: History, parts: _Parts, load: PreparedEvents, player: Player) -> Played:
    player.repeat(load)
    resident = player.allocated
    player.forget_peak()
    run = _Run(history, parts, player)
    run.step()
    before, begun = -1, None
    for number in range(LATER_STEPS):
        if number == 1:
            run.evaluate()
        if begun == (begun := player.state()):
            break  # this step would be the last one again
        run.step()
        if player.reserved_peak == before and number:
            break
        before = player.reserved_peak
    return Played(resident, player.allocated_peak, player.reserved_peak, player.flushes)
