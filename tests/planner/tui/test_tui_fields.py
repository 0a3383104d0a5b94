"""Every choice of a plan has a row in the wizard, with every value that is allowed, or a reason why it has none."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args, get_origin

from planner.contract.about import About
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.record import Record
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.settings import BY_NAME
from planner.decide.advice_sources import SCENARIOS
from planner.decide.question import GOALS
from planner.tui import state
from planner.tui.field import Field
from planner.tui.fields import AIMS, BY_KEY, FIELDS

RECORDS: dict[str, type[Record]] = {"hyperparameters": Hyperparameters, "data": DataSettings}


def about_of(record: type[Record], name: str) -> About:
    """What a field of a record is, from its annotation."""
    (found,) = (part for part in record.model_fields[name].metadata if isinstance(part, About))
    return found


ABOUT = {("choices", entry.name): entry.metadata["about"] for entry in dataclasses.fields(TrainingChoices)} | {
    (where, name): about_of(record, name) for where, record in RECORDS.items() for name in record.model_fields
}


def test_every_field_is_shown_or_hidden_with_a_reason() -> None:
    for (where, name), about in ABOUT.items():
        assert about.help, name
        assert bool(about.label) != bool(about.hidden), name
        assert (name in BY_KEY) == bool(about.label), name
        if about.label:
            assert BY_KEY[name].where == where
    aims = {field.key for field in AIMS}
    assert {field.key for field in FIELDS} - {name for _, name in ABOUT} == {"effective_batch_size", *aims}
    assert aims <= {entry.name for entry in dataclasses.fields(state.WizardState)}
    assert len(BY_KEY) == len(FIELDS)


def test_every_allowed_value_is_offered() -> None:
    for field in FIELDS:
        if field.kind != "choice":
            continue
        if field.where == "choices":
            assert field.options == BY_NAME[field.key].about.allowed, field.key
        elif field.where == "aim":
            assert field.options == {"scenario": tuple(SCENARIOS), "goal": tuple(GOALS)}[field.key]
        else:
            annotation = Hyperparameters.model_fields[field.key].annotation
            assert get_origin(annotation) is Literal
            assert field.options == get_args(annotation)


def test_a_row_takes_what_its_record_takes() -> None:
    """GIVEN the bounds of a row THEN the record takes the closed ones and refuses the open ones and what is beyond."""

    def taken(field: Field, value: float) -> bool:
        try:
            if field.where == "choices":
                dataclasses.replace(TrainingChoices(), **{field.key: value})
            elif field.where == "aim":
                return value > 0 or (value == 0 and field.key == "reserve_bytes")
            else:
                RECORDS[field.where](**{field.key: value})
        except (InvalidInput, ValueError):
            return False
        return True

    for field in FIELDS:
        if field.kind not in ("whole", "number") or field.key == "effective_batch_size":
            continue
        for side, bound, beyond in (("low", field.low, -1), ("high", field.high, 1)):
            if bound is None:
                continue
            exact = int(bound) if field.kind == "whole" else bound
            assert taken(field, exact) == (field.open != side), (field.key, side)
            assert not taken(field, exact + beyond), (field.key, side)


def test_every_row_can_be_stepped_and_typed_back() -> None:
    """Arrows never raise; what a row shows can be typed again and means the same."""
    wizard = state.preset({}, {}, None)
    for field in FIELDS:
        if field.key == "effective_batch_size":
            continue
        value = state.value(wizard, field.key)
        for direction in (1, -1):
            field.neighbour(value, direction)
        assert field.parse(field.format(value)) == value, field.key


def test_rows_follow_the_choices_that_they_belong_to() -> None:
    def shown(**changes: object) -> set[str]:
        wizard = state.preset({}, {}, None)
        for name, new in changes.items():
            wizard = state.change(wizard, name, new)
        return {field.key for field in state.visible_fields(wizard)}

    assert "scheduler_cycles" not in shown()
    assert "scheduler_cycles" in shown(scheduler="cosine-restarts")
    assert {"scheduler_gamma", "scheduler_step_epochs"} <= shown(scheduler="step")
    assert "strategy" in shown(num_gpus=2)
    assert "keep_logits" in shown(stack="peft") - shown()
    assert "modules_to_save" not in shown(method="full")
