"""Every choice of a plan has a row in the wizard, with every value that is allowed, or a reason why it has none."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args, get_origin

from planner.contract.records import DataSettings, Hyperparameters
from planner.contract.settings import BY_NAME
from planner.contract.spec import TrainingChoices
from planner.tui import state
from planner.tui.fields import BY_KEY, FIELDS
from planner.tui.fields_more import HIDDEN

FIELDS_OF = {
    "choices": [each.name for each in dataclasses.fields(TrainingChoices)],
    "hyperparameters": list(Hyperparameters.model_fields),
    "data": list(DataSettings.model_fields),
}


def test_every_field_is_shown_or_hidden_with_a_reason() -> None:
    for where, names in FIELDS_OF.items():
        for name in names:
            assert (name in BY_KEY) != (name in HIDDEN), name
            if name in BY_KEY:
                assert BY_KEY[name].where == where
            else:
                assert HIDDEN[name]
    known = {name for names in FIELDS_OF.values() for name in names}
    assert {field.key for field in FIELDS} - known == {"effective_batch_size"}
    assert HIDDEN.keys() <= known
    assert len(BY_KEY) == len(FIELDS)


def test_every_allowed_value_is_offered() -> None:
    for field in FIELDS:
        if field.kind != "choice":
            continue
        if field.where == "choices":
            assert field.options == BY_NAME[field.key].allowed, field.key
        else:
            annotation = Hyperparameters.model_fields[field.key].annotation
            assert get_origin(annotation) is Literal
            assert field.options == get_args(annotation)


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
