"""What every rule of advice may look at, and the two figures that a plan takes from it by itself: batch and passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.contract.choices import LARGEST_COUNT, TrainingChoices
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.decide.advice_sources import Scenario

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

SMALL_DATA, LARGE_DATA = 1_000, 100_000
"""Examples below and above which training guide 4 changes its advice."""
FEW_STEPS = 100
"""Optimizer steps under which a run is too short (Tinker docs, 2025)."""
BATCHES = (16, 12, 8, 6, 4, 3, 2, 1)
"""Effective batches to choose among: those that several micro-batches divide."""
SMALL_BATCH = 4
"""The least that others train with; below it gradients are noise."""
USUAL_PASSES, MOST_PASSES = 3, 10
"""Epochs; beyond the second figure (guide 4's upper end) a small set is learnt by heart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdviceCase:
    """One configuration with everything that advice follows from."""

    model: ModelSpec
    hardware: HardwareProfile
    choices: TrainingChoices
    data: DatasetProfile | None
    scenario: Scenario
    step_seconds: float | None
    epochs: float
    steps_per_epoch: int | None
    max_steps: int | None = None
    """Where the run ends, whatever the epochs say."""

    @property
    def adapters(self) -> bool:
        """Whether adapters are trained and not the model."""
        return self.choices.method != "full"

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the whole run, where the data is known."""
        if self.steps_per_epoch is None:
            return self.max_steps
        return min(math.ceil(self.steps_per_epoch * self.epochs), self.max_steps or LARGEST_COUNT)

    @property
    def tokens_per_row(self) -> float | None:
        """Mean tokens of a row, padding left out; None where the data is unknown."""
        if self.data is None:
            return None
        if self.choices.padding == "packed":
            return float(self.choices.max_length)
        return float(self.data.lengths.clip(max=self.choices.max_length).mean())

    @property
    def evaluations_per_epoch(self) -> int:
        """The scenario's, once where an epoch is short or unknown."""
        wanted = self.scenario.evaluations_per_epoch
        return 1 if self.steps_per_epoch is None or self.steps_per_epoch < 10 * wanted else wanted


def advised_batch(training_examples: int | None, scenario: Scenario, devices: int = 1) -> int:
    """Sequences per optimizer step: the scenario's, fewer where few examples would leave under 100 steps.

    Down to `SMALL_BATCH` the usual passes decide; a smaller one comes only where not even `MOST_PASSES` would do.
    """
    most = scenario.effective_batch_size
    if training_examples is not None:
        usual = scenario.epochs or USUAL_PASSES
        many = MOST_PASSES if usual > 1 else usual
        room = max(training_examples * usual / FEW_STEPS, min(SMALL_BATCH, training_examples * many / FEW_STEPS))
        most = next((batch for batch in BATCHES if batch <= min(most, room)), 1)
    return -(-most // devices) * devices


def advised_passes(training_examples: int | None, batch: int, scenario: Scenario) -> float:
    """Epochs: the scenario's or 3, and as many more as 100 steps ask for, up to 10; a scenario of one pass stays."""
    usual = float(scenario.epochs or USUAL_PASSES)
    if training_examples is None or usual <= 1:
        return usual
    wanted = math.ceil(FEW_STEPS / max(1, math.ceil(training_examples / batch)))
    return max(usual, float(min(MOST_PASSES, wanted)))
