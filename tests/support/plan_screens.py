"""The plan's screens as text, at three sizes; `python -m tests.support.plan_screens` writes what the test compares.

The figures are made up and fixed: nothing hangs on the machine, on the model of memory, or on the search.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.contract.choices import TrainingChoices
from planner.contract.records import Advice, CheckReport, MemoryReport, ModelSummary, Remedy, SpeedReport
from planner.memory.course import Course
from planner.tui.app import TuneplanApp
from planner.tui.around import Around, Spot, Surroundings
from planner.tui.work import Evaluation, WizardAnswer
from tests.support.run_screens import FOLDER, SIZES
from tests.support.tui_support import drawn, screen_text, write_pairs

GIB, MIB = 2**30, 2**20
BUDGET = 20 * GIB
NOW = TrainingChoices(batch_size=4, gradient_accumulation_steps=4, max_length=512)


def report(scale: float, *, tier: str | None = None, settings: TrainingChoices = NOW) -> CheckReport:
    """A plan whose activations are `scale` times 4 GiB."""
    held = {"weights": 5 * GIB, "adapters": 90 * MIB, "gradients": 90 * MIB, "optimizer_state": 180 * MIB}
    live = {"layer_activations": int(3 * GIB * scale), "lora_activations": int(GIB * scale)}
    allocated = sum(held.values()) + sum(live.values())
    components = {**held, **live, "context": 400 * MIB, "fragmentation": 100 * MIB}
    peak = sum(components.values())
    fits = peak <= BUDGET
    return CheckReport(
        tier=tier,
        hardware={"name": "a10g"},
        model=ModelSummary(id="phi-2", parameters=2_779_683_840, trainable_parameters=7_864_320),
        settings=settings,
        memory=MemoryReport(
            allocated_peak_bytes=allocated,
            reserved_peak_bytes=allocated + 100 * MIB,
            device_peak_bytes=peak,
            interval_bytes=(int(0.95 * peak), int(1.04 * peak)),
            budget_bytes=BUDGET,
            binding_instant="backward",
            instants={"forward": int(0.9 * allocated), "backward": allocated, "optimizer": sum(held.values())},
            components=components,
        ),
        speed=SpeedReport(tokens_per_second=2400, step_seconds=3.4, epoch_seconds=120, model_flops_utilization=0.4,
                          interval_tokens_per_second=(1900, 2800)),
        verdict="fits" if fits else "does_not_fit",
        reasons=[
            "Memory peaks in the backward pass: most of it are activations that wait for it, layer by layer, from "
            "the first to the last.",
            "The budget is 20 GiB.",
        ],
        remedies=[]
        if fits
        else [
            Remedy(change={"batch_size": 1, "gradient_accumulation_steps": 16}, saves_bytes=12 * GIB,
                   costs_seconds_per_step=0.4, verdict="fits"),
            Remedy(change={"gradient_checkpointing": True, "checkpoint_layers": None}, saves_bytes=14 * GIB,
                   costs_seconds_per_step=1.1, verdict="fits"),
        ],
    )  # fmt: skip


def surroundings(scale: float) -> Surroundings:
    """A step of 60 moments, and five batches by three lengths."""
    up = np.concatenate([np.zeros(4), np.linspace(0, 1, 24), np.linspace(1, 0, 24), np.zeros(8)])
    rows = [np.full(60, 5 * GIB), up * 3 * GIB * scale, up * GIB * scale]
    course = Course(
        ("weights", "layer_activations", "lora_activations"),
        np.array(rows).astype(np.int64),
        (("load", 0), ("forward", 4), ("backward", 28), ("optimizer", 52)),
    )
    batches, lengths = (1, 2, 4, 8, 16), (256, 512, 1024)
    spots = tuple(
        tuple(Spot(device_bytes=size, upper_bytes=int(1.04 * size), tokens_per_second=2000 + 50 * batch)
              for batch in batches for size in [int((5 + scale * batch * length / 512) * GIB)])
        for length in lengths
    )  # fmt: skip
    around = Around(batches=batches, lengths=lengths, spots=spots, batch=4, length=512, budget_bytes=BUDGET)
    return Surroundings(course=course, around=around)


def answer(*, fits: bool) -> WizardAnswer:
    """Two tiers and an advice, or why there are none."""
    advice = (
        Advice(name="learning_rate", value=2e-4, rule="2e-4 for LoRA of rank 16, whatever the model is; half of it "
               "where the data is small and repeated often.", source="Example 2026, a study"),
    )  # fmt: skip
    if not fits:
        return WizardAnswer(error="nothing fits: the smallest configuration takes 21 GiB of 20 GiB", advice=advice)
    low = replace(NOW, batch_size=1, gradient_accumulation_steps=16)
    tiers = (report(1.0, tier="balanced"), report(0.25, tier="low", settings=low))
    return WizardAnswer(tiers=tiers, recommended="balanced", advice=advice, notes=("40 examples of one file.",))


STATES: dict[str, tuple[Evaluation, WizardAnswer, Surroundings]] = {
    "fits": (Evaluation(report=report(1.0), whole_run="6 min"), answer(fits=True), surroundings(1.0)),
    "too-much": (Evaluation(report=report(6.0), whole_run="6 min"), answer(fits=False), surroundings(6.0)),
    "error": (
        Evaluation(error="lora_targets no_such_layer: phi-2 has no such layer; there are q_proj, k_proj, v_proj"),
        WizardAnswer(error="lora_targets no_such_layer: phi-2 has no such layer"),
        Surroundings(),
    ),
}


class Fixed(TuneplanApp):
    """The wizard whose every answer is made up already."""

    def __init__(self, state: str, **given: Any) -> None:
        super().__init__(**given)
        self._made_up = STATES[state]

    def _ask(self) -> None:
        self.evaluation, self.recommendation, self.surroundings = self._made_up
        self._evaluated_for = self._recommended_for = self._surrounded_for = self.wizard


async def screens(state: str) -> dict[tuple[int, int], str]:
    """What one of the states looks like, by size."""
    found = {}
    with tempfile.TemporaryDirectory() as place, chdir(place):
        data = write_pairs(Path(place) / "pairs.jsonl", 40)
        app = Fixed(state, gpu="a10g", model="phi-2", data=data, settings={"batch_size": 4, "max_length": 512})
        async with app.run_test(size=SIZES[0]) as pilot:
            for size in SIZES:
                await pilot.resize_terminal(*size)
                await pilot.pause(0.3)
                await drawn(app, pilot)
                found[size] = "\n".join(line.rstrip() for line in screen_text(app).splitlines()) + "\n"
    return found


def path_of(name: str, size: tuple[int, int]) -> Path:
    return FOLDER / f"plan-{name}-{size[0]}x{size[1]}.txt"


async def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in STATES:
        for size, text in (await screens(name)).items():
            path_of(name, size).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ["TUNEPLAN_HOME"] = tempfile.mkdtemp()
    asyncio.run(write())
