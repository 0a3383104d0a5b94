"""A larger micro-batch never fits where a smaller one doesn't, whatever luck the allocator's rounding has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner import memory
from planner.contract.choices import TrainingChoices
from planner.contract.units import GIB
from planner.decide.reasons import explain
from planner.decide.verdict import verdict_of
from planner.devices.profiles import load
from planner.models.sources import load_model

RANK = {"fits": 0, "tight": 1, "does_not_fit": 2}


@pytest.mark.parametrize(
    ("gpu", "precision", "model", "attention", "batches"),
    [
        ("rtx-3060-12gb", "bf16", "qwen2.5-0.5b", "eager", range(8, 12)),  # the replay alone: 9 doesn't fit, 10 does
        ("t4", "fp16", "smollm2-135m", "eager", range(2, 9)),
    ],
)
def test_verdicts_rise_with_the_batch(gpu: str, precision: str, model: str, attention: str, batches: range) -> None:
    """GIVEN batches around the budget THEN the verdict never gets better as they grow."""
    spec, hardware = load_model(model), load(gpu)
    ranks = []
    for size in batches:
        choices = TrainingChoices(
            stack="peft",
            loss="full",
            attention=attention,
            precision=precision,
            batch_size=size,
            max_length=512,
            gradient_accumulation_steps=1,
        )
        ranks.append(RANK[verdict_of(memory.predict(spec, hardware, choices))])
    assert ranks == sorted(ranks)


def test_the_components_still_sum_to_the_device_peak() -> None:
    """GIVEN a peak that a smaller batch set THEN its components make it up."""
    choices = TrainingChoices(stack="peft", loss="full", attention="eager", batch_size=10, max_length=512)
    report = memory.predict(load_model("qwen2.5-0.5b"), load("rtx-3060-12gb"), choices)
    assert sum(report.components.values()) == report.device_peak_bytes


def test_a_tensor_beyond_one_buffer_fits_nowhere() -> None:
    """GIVEN a Mac whose largest buffer is small WHEN the whole logits are one tensor THEN the refusal says so."""
    chosen = TrainingChoices(batch_size=8, max_length=2048, stack="peft", loss="full", padding="max")
    spec, mac = load_model("phi-2"), load("m3-max-128gb")
    whole = memory.predict(spec, mac, chosen)
    assert whole.largest_tensor_bytes == 8 * 32 * 2048 * 2048 * 4  # one layer's scores
    assert verdict_of(whole) != "does_not_fit"
    narrow = memory.predict(spec, replace(mac, largest_buffer_bytes=2 * GIB), chosen)
    assert narrow.device_peak_bytes == whole.device_peak_bytes
    assert verdict_of(narrow) == "does_not_fit"
    assert any("One tensor takes 4.0 GiB" in reason for reason in explain(narrow, "does_not_fit"))
