"""The course of a step: its largest moments are the peaks that are reported."""

from __future__ import annotations

from typing import Any

import pytest

from planner import memory
from planner.calibration import attach
from planner.contract.choices import TrainingChoices
from planner.memory.course import course
from planner.models.sources import load_model

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "checkpointed": ("phi-2", "a10g", {"gradient_checkpointing": True}),
    "some layers, accumulated": ("phi-2", "a10g", {"checkpoint_layers": 5, "gradient_accumulation_steps": 4}),
    "quantized, peft": ("llama-3-8b", "a10g", {"method": "qlora", "stack": "peft"}),
    "nothing checkpointed, cpu": ("gpt2", "cpu", {"gradient_checkpointing": False}),
    "encoder and decoder": ("flan-t5-base", "t4", {}),
    "full": ("gemma-3-1b", "rtx4090", {"method": "full"}),
}


@pytest.mark.parametrize("case", CASES)
def test_largest_moment_of_each_instant_is_its_peak(case: str) -> None:
    name, device, settings = CASES[case]
    model, hardware = load_model(name), attach.find(device)
    choices = TrainingChoices(**{"batch_size": 4, "max_length": 512, "gradient_checkpointing": True, **settings})
    report = memory.predict(model, hardware, choices)
    found = course(model, hardware, choices)
    totals = found.totals
    largest: dict[str, int] = {}
    for _, start in found.instants:
        instant, first, stop = found.instant_at(start)
        largest[instant] = max(largest.get(instant, 0), int(totals[first:stop].max()))
    assert largest == {instant: report.instants[instant] for instant in largest}
    assert set(largest) == {"load", "forward", "loss", "backward", "optimizer", "eval"}
    at_peak = dict(zip(found.components, found.live[:, totals.argmax()].tolist(), strict=True))
    for component in ("weights", "adapters", "optimizer_state"):
        if component in report.components:
            assert at_peak[component] == report.components[component]
    assert (found.live >= 0).all(), "nothing is released twice"
