"""Records of events: what is written, what is read back, and what odd lines do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest
import torch

from planner.contract import events
from planner.contract.events import EvalEvent, Event, FinishedEvent, OomEvent, StartedEvent, StepEvent, Told, line_of


def test_only_what_was_set_is_written_and_null_where_nothing_is_known() -> None:
    line = line_of(OomEvent(phase="eval", step=3, batch_size=8, new_batch_size=None), 1.5)
    assert line.data == {"phase": "eval", "step": 3, "batch_size": 8, "new_batch_size": None}
    assert json.loads(line.model_dump_json(by_alias=True)) == {
        "schema": "tuneplan.event/1", "kind": "oom", "time": 1.5, "data": line.data,
    }  # fmt: skip


def test_numbers_of_other_libraries_and_none_at_all() -> None:
    told = StepEvent(step=1, loss=torch.tensor(1.5), grad_norm=math.inf, learning_rate=math.nan)  # type: ignore[arg-type]
    assert line_of(told, 0.0).data == {"step": 1, "loss": 1.5, "learning_rate": None, "grad_norm": None}


def test_a_perplexity_past_any_count_is_told() -> None:
    """GIVEN a validation loss of 100 THEN its event is written and read: exp(100) is a number like another."""
    line = line_of(EvalEvent(step=1, loss=100.0, perplexity=math.exp(100)), 0.0)
    (read,) = [Event.model_validate_json(line.model_dump_json(by_alias=True)).told]
    assert read == EvalEvent(step=1, loss=100.0, perplexity=math.exp(100))


def test_a_path_that_is_no_text_is_told_as_it_is() -> None:
    assert StartedEvent(run_dir=str(Path("a\udcff"))).run_dir == "a\udcff"


def test_an_unknown_kind_keeps_its_data_and_says_nothing() -> None:
    event = Event.model_validate_json('{"kind": "news", "time": 0.0, "data": {"step": "x"}}')
    assert event.told is None
    assert event.data == {"step": "x"}


def test_a_newer_versions_fields_are_passed_over_and_passed_on() -> None:
    text = '{"schema": "tuneplan.event/1", "kind": "finished", "time": 0.0, "data": {"steps": 3, "grade": "good"}}'
    event = Event.model_validate_json(text)
    assert event.told == FinishedEvent(steps=3)
    assert json.loads(event.model_dump_json(by_alias=True)) == json.loads(text)


@pytest.mark.parametrize("value", ["3", True, [], 2**63, {}])
def test_a_line_whose_values_make_no_sense_is_none(value: object) -> None:
    with pytest.raises(ValueError, match="step"):
        Event.model_validate({"kind": "step", "time": 0.0, "data": {"step": value}})


@pytest.mark.parametrize("record", events.RECORDS)
def test_whatever_stands_in_a_line_is_read_or_refused(record: type[Told]) -> None:
    random = Random(record.event_kind)
    values = (None, True, 0, -1, 1.5, 2**70, math.nan, -math.inf, 1e300, "", "3", [], {}, {"a": [None]})
    read = 0
    for _ in range(200):
        names = random.sample([*record.model_fields, "other"], random.randint(0, 2))
        data = {name: random.choice(values) for name in names}
        try:
            event = Event(kind=record.event_kind, time=0.0, data=data)
        except ValueError:
            continue
        read += 1
        assert isinstance(event.told, record)
        again = line_of(event.told, 0.0)
        assert set(again.data) == set(names) - {"other"}
        assert Event.model_validate_json(again.model_dump_json(by_alias=True)).told == event.told
    assert 20 < read < 200
