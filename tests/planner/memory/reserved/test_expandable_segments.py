"""Segments that grow: planned, offered as a remedy, and handed to the allocator of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner import memory
from planner.contract.allocator_conf import configure
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.decide.check import check
from planner.decide.question import Question
from planner.devices.hardware import find
from planner.models import sources

TIGHT = TrainingChoices(stack="peft", batch_size=8, max_length=2048, lora_dropout=0.05)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        (
            {"PYTORCH_ALLOC_CONF": "max_split_size_mb:128"},
            {"PYTORCH_ALLOC_CONF": "max_split_size_mb:128,expandable_segments:True"},
        ),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"},
            {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128,expandable_segments:True"},
        ),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:False"}, {"PYTORCH_ALLOC_CONF": "expandable_segments:False"}),
    ],
)
def test_the_users_own_settings_of_the_allocator_stay(before: dict[str, str], after: dict[str, str]) -> None:
    environment = dict(before)
    configure(TrainingChoices(), environment)
    assert environment == before
    configure(TrainingChoices(expandable_segments=True), environment)
    assert environment == after


def test_less_is_reserved_and_as_much_allocated() -> None:
    spec, card = sources.load_model("phi-2"), find("a10g")
    plain = memory.predict(spec, card, TIGHT)
    grown = memory.predict(spec, card, replace(TIGHT, expandable_segments=True))
    assert grown.tensors_peak_bytes == plain.tensors_peak_bytes
    assert grown.allocated_peak_bytes <= plain.allocated_peak_bytes
    assert grown.reserved_peak_bytes < 0.95 * plain.reserved_peak_bytes
    assert grown.reserved_peak_bytes >= grown.allocated_peak_bytes


def test_it_is_offered_where_it_makes_room() -> None:
    spec, card = sources.load_model("phi-2"), find("a10g")
    choices = replace(TIGHT, optimizer_implementation="fused")
    report = check(Question(model=spec, hardware=card, choices=choices, fixed=frozenset({"stack"})))
    offered = {str(remedy.change): remedy for remedy in report.remedies}
    assert report.verdict == "tight"
    assert offered["{'expandable_segments': True}"].fits


def test_other_allocators_have_no_such_setting() -> None:
    spec = sources.load_model("phi-2")
    for name in ("cpu", "m3-max-36gb", "mi300x"):
        with pytest.raises(NotModelled, match="expandable-segments"):
            check(Question(model=spec, hardware=find(name), choices=replace(TIGHT, expandable_segments=True)))


def test_the_wizard_drops_it_with_the_card() -> None:
    from planner.tui.state import preset, with_hardware

    state = with_hardware(preset({"expandable_segments": True}, {}, None), find("a10g"))
    assert state.choices.expandable_segments
    assert not with_hardware(state, find("m3-max-36gb")).choices.expandable_segments
