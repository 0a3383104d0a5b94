"""The question: what is asked of the planner, packed once and handed on whole.

The command line and the wizard make it; check, search, remedies, advice and the plan file take it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.contract.choices import DEFAULTS, TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.sentence import named
from planner.contract.settings import fit_to_hardware
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.decide.advice_sources import SCENARIOS, Scenario

if TYPE_CHECKING:
    from planner.data.lengths import Lengths
    from planner.data.use import DataUse

GOALS: dict[str, str] = {"fastest": "high", "balanced": "balanced", "safest": "safe"}
"""Which tier a goal recommends."""
TIER_NAMES = ("high", "balanced", "low", "safe")
"""From the one that may fill the budget to the one that leaves most of it (training guide 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Model, hardware and choices, and all that bounds the answer.

    Raises `InvalidInput` for an unknown goal or scenario.
    """

    model: ModelSpec
    hardware: HardwareProfile
    choices: TrainingChoices = DEFAULTS
    fixed: frozenset[str] = frozenset()
    """Names of the choices that the person gave; nothing but these is kept by a search."""
    model_name: str = ""
    """As the trainer loads the model: hub id or path."""
    budget: int | None = None
    """Device bytes that the run may use; None is the profile's total minus its reserve."""
    data: DataUse | None = None
    """None: every row is taken as full, and no time of an epoch is known."""
    effective_batch_size: int | None = None
    """Sequences per optimizer step over all devices; None is the advised one, or what the fixed choices make."""
    goal: str | None = None
    """One of `GOALS`; None is the scenario's."""
    tier: str | None = None
    """One of `TIER_NAMES`, recommended whatever the goal says."""
    scenario: str = "standard"
    notes: tuple[str, ...] = ()
    """Sentences that open the answer: which default was taken, what the machine is doing."""

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise InvalidInput(
                named("scenario"), f" {self.scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}"
            )
        if self.goal is not None and self.goal not in GOALS:
            raise InvalidInput(named("goal"), f" {self.goal!r} is unknown; choose one of {', '.join(GOALS)}")
        if self.tier is not None and self.tier not in TIER_NAMES:
            raise InvalidInput(named("tier"), f" {self.tier!r} is unknown; choose one of {', '.join(TIER_NAMES)}")
        if self.tier is not None and self.goal is not None and GOALS[self.goal] != self.tier:
            raise InvalidInput(
                named("tier"), f" {self.tier} contradicts ", named("goal"), f" {self.goal}; leave one of them out"
            )

    @property
    def budget_bytes(self) -> int:
        """Device bytes that the run may use."""
        return self.hardware.budget_bytes if self.budget is None else self.budget

    @property
    def lengths(self) -> Lengths | None:
        """Those of the data."""
        return None if self.data is None else self.data.lengths

    @property
    def tokens_per_epoch(self) -> int | None:
        """Tokens that pass through the model in one epoch; None without data."""
        return None if self.data is None else self.data.tokens_per_epoch(self.choices)

    @property
    def preset(self) -> Scenario:
        """What the scenario sets."""
        return SCENARIOS[self.scenario]

    def fitted(self) -> tuple[TrainingChoices, list[str]]:
        """The choices in a number format that the device has, with a sentence for each change."""
        return fit_to_hardware(self.choices, self.hardware, fixed=self.fixed)

    def completed(self) -> TrainingChoices:
        """The fitted choices, with the optimizer's usual implementation where none was named."""
        fitted, _ = self.fitted()
        if "optimizer_implementation" in self.fixed:
            return fitted
        return fitted.with_usual_implementation(self.hardware.kind)

    def having(self, choices: TrainingChoices) -> Question:
        """The same question with other choices."""
        return replace(self, choices=choices)
