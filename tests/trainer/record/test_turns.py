"""A loop over pieces of the sequence is told by a few of its turns, and nothing that counts is lost."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from trainer.record.turns import Chain, Mark, Timed, gathered

STATE, TEMPORARY, GRADIENT, OUTPUT = 40, 7, 11, 5
WHOLE = 100


class _Tape:
    def __init__(self) -> None:
        self.events: list[Timed] = []
        self.marks: list[Mark] = []
        self.clock = 0
        self.made = 0

    def at(self, stage: str, chain: Chain) -> None:
        self.marks.append((self.clock, stage, chain))

    def grow(self, size: int, component: str) -> int:
        self.clock += 1
        self.made += 1
        self.events.append((self.clock, [self.made, size, f"op|m|float32|0|{component}"]))
        return self.made

    def free(self, key: int) -> None:
        self.clock += 1
        self.events.append((self.clock, [key, -1]))


def _recurrence(turns: int, *, unlike: int | None = None, listed: bool = False) -> _Tape:
    """A state that each turn makes of the one before and that backward needs; a gradient of the whole in backward.

    unlike: a turn that makes a temporary of another size. listed: each turn puts an output on a list, which is let go
    in the same call behind the loop, so that it counts as the last turn's.
    """
    tape = _Tape()
    tape.at("forward", ())
    whole = tape.grow(WHOLE, "layer_activations")
    states, outputs, last = [], [], None
    for turn in range(turns):
        tape.at("forward", ((0, 0), (1, turn)))
        temporary = tape.grow(TEMPORARY * (3 if turn == unlike else 1), "temporaries")
        if last is not None:
            tape.free(last)  # what the turn before handed on
        states.append(tape.grow(STATE, "layer_activations"))
        last = tape.grow(2, "temporaries")
        if listed:
            outputs.append(tape.grow(OUTPUT, "layer_activations"))
        tape.free(temporary)
    if listed:
        stacked = tape.grow(OUTPUT * turns, "layer_activations")
        for output in outputs:
            tape.free(output)
    tape.at("forward", ())
    assert last is not None
    tape.free(last)
    total = None
    for turn in reversed(range(turns)):
        tape.at("derived", ((0, 0), (1, turn)))
        piece = tape.grow(GRADIENT * turns, "temporaries")
        if total is not None:
            added = tape.grow(GRADIENT * turns, "temporaries")
            tape.free(total)
            tape.free(piece)
            total = added
        else:
            total = piece
        tape.free(states[turn])
    tape.at("derived", ())
    assert total is not None
    tape.free(total)
    if listed:
        tape.free(stacked)
    tape.free(whole)
    return tape


def _course(events: list[Timed]) -> list[int]:
    live: dict[int, int] = {}
    course = []
    for _, event in events:
        if len(event) == 3:
            assert event[0] not in live
            live[event[0]] = event[1]
        else:
            live.pop(event[0])
        course.append(sum(live.values()))
    assert not live
    return course


def _story(events: list[Timed]) -> list[Any]:
    return [(event[0], event[2] if len(event) == 3 else event[1]) for _, event in events]


@pytest.mark.parametrize("listed", [False, True])
def test_the_largest_is_as_large_and_longer_loops_tell_one_story(listed: bool) -> None:
    stories = []
    for turns in (8, 13, 40):
        tape = _recurrence(turns, listed=listed)
        shorter = gathered(tape.events, tape.marks)
        assert shorter is not None
        assert len(shorter) < len(tape.events)
        assert max(_course(shorter)) == max(_course(tape.events))
        stories.append(_story(shorter))
    assert stories[0] == stories[1] == stories[2]


def test_what_the_middle_turns_leave_is_one_allocation_of_their_bytes() -> None:
    def lumps(turns: int) -> list[int]:
        tape = _recurrence(turns)
        shorter = gathered(tape.events, tape.marks)
        assert shorter is not None
        return [event[1] for _, event in shorter if len(event) == 3 and event[2].startswith("loop")]

    (few,), (many,) = lumps(10), lumps(17)
    assert many - few == 7 * STATE


def test_turns_that_differ_stay_as_they_are() -> None:
    tape = _recurrence(9, unlike=4)
    shorter = gathered(tape.events, tape.marks)
    assert shorter is None or max(_course(shorter)) == max(_course(tape.events))
    assert gathered(_recurrence(3).events, _recurrence(3).marks) is None
