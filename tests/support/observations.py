"""Observations that stand in for missing hardware: what a card would have measured."""

from __future__ import annotations

import random
from typing import Any

from planner import memory
from planner.calibration import store
from planner.contract.choices import TrainingChoices
from planner.contract.records import Observation
from planner.contract.settings import to_settings
from planner.contract.units import MIB
from planner.devices import profiles
from planner.models import sources

CARD = "a10g"
MODELS = ("smollm2-135m", "qwen2.5-0.5b", "pythia-410m")
CONTEXT, SLACK = 430 * MIB, 6 * MIB


def observation(
    model: str, batch: int, length: int, *, seed: int = 0, context: int = CONTEXT, moving: float = 1.0, **changes: Any
) -> Observation:
    """A run on a card whose context, slack and activations are known; measured with a little scatter."""
    hardware = profiles.load(CARD)
    spec = sources.load_model(model)
    choices = TrainingChoices(
        batch_size=batch, max_length=length, gradient_accumulation_steps=1, stack="peft", **changes
    )
    report = memory.predict(spec, hardware, choices)
    noise = random.Random(f"{model}{batch}{length}{seed}")
    fixed = report.instants["load"]
    instants = {
        name: round(fixed + moving * (size - fixed)) + noise.randint(-200_000, 200_000)
        for name, size in report.instants.items()
        if name in ("forward", "loss", "backward", "optimizer", "eval")
    }
    assert report.tensors_peak_bytes is not None
    allocated = max(instants.values()) + report.allocated_peak_bytes - report.tensors_peak_bytes
    beyond = report.reserved_peak_bytes - report.allocated_peak_bytes
    reserved = allocated + beyond + SLACK + noise.randint(-2 * MIB, 2 * MIB)
    return Observation(
        created=f"2026-11-21T00:{batch:02d}:{seed:02d}+00:00",
        source="calibrate",
        hardware={"profile": CARD, "driver": "12.8"},
        versions={"torch": store._installed("torch") or "2.13.0", "transformers": "5.23.0"},
        model={"id": model, "config": spec.config},
        settings=to_settings(choices),
        predicted=report,
        allocated_peak_bytes=allocated,
        reserved_peak_bytes=reserved,
        device_peak_bytes=reserved + context + noise.randint(-2 * MIB, 2 * MIB),
        instants=instants,
        step_seconds=[0.5, 0.5],
        probe={"label": f"{model} {batch}x{length}"},
    )
