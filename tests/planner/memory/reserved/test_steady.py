"""Micro-batches that are counted instead of played: they come to what playing them does."""

from __future__ import annotations

import numpy as np
import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.units import MIB
from planner.memory.engine.unroll import Event
from planner.memory.engine.values import multipliers
from planner.memory.reserved import history as histories
from planner.memory.reserved.allocator import OutOfMemory
from planner.memory.reserved.history import History, play
from planner.memory.reserved.player import Player, PreparedEvents
from planner.memory.reserved.replay import Asked, history, numbers
from planner.memory.reserved.steady import small_most
from planner.memory.step.case import Case
from planner.models.sources import load_model

LARGE, SMALL = 20 * MIB, 4096


def run_of(name: str, changes: dict[str, object], batch: int = 4) -> History:
    """A run with accumulation and evaluation."""
    choices = TrainingChoices(**{"gradient_accumulation_steps": 4, **changes})  # type: ignore[arg-type]
    spec = load_model(name)
    layers = spec.total_layers if choices.gradient_checkpointing else 0
    case = Case(spec, choices, layers)
    values = numbers(multipliers(np.array([batch]), np.array([700]), np.array([layers]), 64)[0])
    evaluation = Case(spec, choices, layers, evaluating=True)
    waiting = (30_000, 60_000) if choices.gradient_accumulation_steps > 1 else ()
    return history(Asked(case, values, 8 * MIB, waiting, evaluation, values))


@pytest.mark.parametrize(
    ("name", "changes", "expandable", "counted"),
    [
        ("qwen2.5-0.5b", {}, False, True),
        ("qwen2.5-0.5b", {}, True, True),
        ("phi-2", {"gradient_checkpointing": False, "loss": "chunked"}, False, True),
        ("qwen2.5-0.5b", {"stack": "peft", "method": "qlora", "precision": "bf16"}, False, True),
        ("qwen2.5-0.5b", {"adapter_dtype": "fp32", "lora_r": 4}, True, True),
        ("qwen2.5-0.5b", {"lora_r": 256}, False, False),  # its gradients are large
        ("qwen2.5-0.5b", {"method": "full"}, True, False),
        ("phi-2", {"gradient_accumulation_steps": 1}, False, False),
    ],
)
def test_what_is_counted_is_what_playing_gives(
    name: str, changes: dict[str, object], expandable: bool, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(name, changes)
    counts: list[int] = []
    count = Player.count
    monkeypatch.setattr(Player, "count", lambda self, *args, **sizes: counts.append(1) or count(self, *args, **sizes))
    found = play(run, expandable_segments=expandable)
    assert bool(counts) == counted
    monkeypatch.setattr(histories, "small_most", lambda first, later, stride: None)
    assert found == play(run, expandable_segments=expandable)


def test_below_a_limit_it_is_counted_where_nothing_is_given_back_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN limits from too little to enough WHEN a run is played below them THEN counting changes nothing."""
    run = run_of("qwen2.5-0.5b", {})
    (free,) = play(run)
    limits = [free.allocated + (free.reserved - free.allocated) * part // 16 for part in range(-1, 18)]
    counts: list[int] = []
    count = Player.count
    monkeypatch.setattr(Player, "count", lambda self, *args, **sizes: counts.append(1) or count(self, *args, **sizes))
    found = [(outcome(run, limit, expandable), len(counts)) for expandable in (False, True) for limit in limits]
    assert {count for _, count in found} != {0}
    monkeypatch.setattr(histories, "small_most", lambda first, later, stride: None)
    assert [each for each, _ in found] == [
        outcome(run, limit, expandable) for expandable in (False, True) for limit in limits
    ]


def outcome(run: History, limit: int, expandable: bool) -> object:
    """What was held below a limit; None where that does not suffice."""
    try:
        return play(run, limit=limit, expandable_segments=expandable)
    except OutOfMemory:
        return None


def test_nothing_is_counted_where_segments_go_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("qwen2.5-0.5b", {})
    (free,) = play(run)
    monkeypatch.setattr(Player, "count", lambda self, *args, **sizes: pytest.fail("it was counted"))
    assert play(run, collect_above=2 * free.reserved)[0].reserved == free.reserved


def most(first: list[Event], later: list[Event]) -> int | None:
    """`small_most` of two logs."""
    return small_most(PreparedEvents.of(first), PreparedEvents.of(later), 1)


def test_a_gradient_that_is_added_to_is_all_that_may_differ() -> None:
    first = [(1, LARGE), (2, SMALL), (3, LARGE), (1, -1), (3, -1)]
    later = [(11, LARGE), (12, SMALL), (13, LARGE), (11, -1), (13, -1), (12, -1)]
    assert most(first, later) == SMALL
    assert most(first, [(11, LARGE + MIB), *later[1:]]) is None
    assert most(first, [*later[:-3], (13, -1), (11, -1), (12, -1)]) is None  # another order
    assert most(first, later[:3]) is None  # its large blocks stay
    assert most([*first, (4, LARGE)], later) is None


def test_a_first_micro_batch_that_holds_more_is_played() -> None:
    """GIVEN small tensors that only the first one makes and releases WHEN both are compared THEN nothing is said."""
    later = [(11, LARGE), (12, SMALL), (12, -1), (11, -1)]
    assert most([(1, LARGE), (2, 2 * SMALL), (2, -1), (1, -1)], later) is None
    assert most([(1, LARGE), (2, SMALL), (2, -1), (1, -1)], later) == SMALL
    assert most([(1, LARGE), (1, -1), (2, 2 * SMALL), (2, -1)], [(11, LARGE), (11, -1)]) is None  # after the last


def test_two_tensors_that_are_one_in_the_other_log_are_told_apart() -> None:
    first = [(1, LARGE), (1, -1), (5, SMALL), (2, LARGE), (2, -1)]
    assert most(first, [(11, LARGE), (11, -1), (15, SMALL), (12, LARGE), (12, -1)]) == SMALL
    assert most(first, [(11, LARGE), (11, -1), (15, SMALL), (11, LARGE), (11, -1)]) is None
