"""The tiers high, balanced, low and safe: micro-batch, accumulation, checkpointing and length for one device.

All tiers take the same effective batch, so they train the same thing and differ in speed and headroom. Candidates
are evaluated as arrays of shape (candidates,); nothing loops over them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from planner.contract.errors import Infeasible, InvalidInput
from planner.contract.records import Advice, CheckReport, Record
from planner.contract.settings import check_length, fit_to_hardware
from planner.contract.spec import HardwareProfile, ModelSpec, TrainingChoices
from planner.contract.units import format_bytes
from planner.data.lengths import lengths_of
from planner.decide.advice_case import advised_batch
from planner.decide.candidates import (
    batch_is_fixed,
    batch_pairs,
    candidate_lengths,
    evaluate_first,
    layer_counts,
    losses,
    rounded,
)
from planner.decide.check import check
from planner.decide.tiers import TIERS, choose

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

GOALS: dict[str, str] = {"fastest": "high", "balanced": "balanced", "safest": "safe"}
"""Which tier a goal recommends."""


class Recommendation(Record):
    """What `plan --json` prints: one recommended configuration and the tiers it was taken from."""

    schema_: Literal["tuneplan.recommendation/1"] = Field(default="tuneplan.recommendation/1", alias="schema")
    goal: str
    effective_batch_size: int
    recommended: CheckReport
    options: list[CheckReport]
    """One per tier, from high to safe."""
    notes: list[str]
    """Defaults that were taken, formats that were replaced, what the data says."""
    advice: list[Advice] = Field(default_factory=list)
    data: dict[str, Any] | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class NothingFits(Infeasible):
    """No candidate fits; `report` is the smallest one with what it lacks and what would help."""

    def __init__(self, message: str, report: CheckReport) -> None:
        super().__init__(message)
        self.report = report


def recommend(
    model: ModelSpec,
    hardware: HardwareProfile,
    *,
    choices: TrainingChoices | None = None,
    fixed: Collection[str] = (),
    effective_batch_size: int | None = None,
    goal: str | None = None,
    scenario: str = "standard",
    budget_bytes: int | None = None,
    data: DatasetProfile | None = None,
    validation_split: float | None = None,
    notes: Iterable[str] = (),
) -> Recommendation:
    """Finds the tiers.

    `choices` holds every setting; those named in `fixed` stay as they are, of the others batch_size,
    gradient_accumulation_steps, gradient_checkpointing, checkpoint_layers, max_length, loss, precision, lora_alpha and
    lora_dropout may change.
    `effective_batch_size`: sequences per optimizer step over all devices; None is the advised one, 16 or fewer.
    `validation_split`: share of the examples kept out of training; None is the advised one.
    `goal`: fastest, balanced or safest; None is the scenario's, usually balanced.
    Raises `NothingFits` when no candidate fits, `InvalidInput` and `NotModelled` for requests without an answer.
    """
    from planner.decide.advice import SCENARIOS, adopt, advise, validation_share

    if scenario not in SCENARIOS:
        raise InvalidInput(f"--scenario {scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}")
    goal = SCENARIOS[scenario].goal if goal is None else goal
    if goal not in GOALS:
        raise InvalidInput(f"--goal {goal!r} is unknown; choose one of {', '.join(GOALS)}")
    base = choices or TrainingChoices()
    fixed = set(fixed)
    if "max_length" in fixed:
        check_length(model, base)
    asked = adopt(base, fixed, data)
    base, format_notes = fit_to_hardware(asked, hardware, fixed=fixed)
    if "optimizer_implementation" not in fixed:
        base = base.with_usual_implementation(hardware.kind)
    split = validation_share(data) if validation_split is None else validation_split
    budget = hardware.budget_bytes if budget_bytes is None else budget_bytes
    wanted = effective_batch_size
    if wanted is None and not batch_is_fixed(fixed):
        training = None if data is None else data.training_examples(split)
        wanted = advised_batch(training, SCENARIOS[scenario], base.num_gpus)
    pairs, effective, batch_notes = batch_pairs(base, fixed, wanted)
    lengths = candidate_lengths(model, base, fixed, data)
    layers = layer_counts(model, base, fixed)
    ragged = None if data is None else lengths_of(data, validation_split=split)
    candidates = evaluate_first(
        model, hardware, losses(base, fixed), pairs=pairs, lengths=lengths, layers=layers, data=ragged
    )
    all_notes = [*notes, *format_notes, *batch_notes]

    def judge(index: int) -> CheckReport:
        chosen = candidates.choices(index, model)
        tokens = None
        if data is not None:
            tokens = data.tokens_per_epoch(
                chosen.max_length,
                batch_size=chosen.batch_size,
                padding=chosen.padding,
                examples=data.training_examples(split),
            )
        return check(
            model,
            hardware,
            chosen,
            budget_bytes=budget,
            tokens_per_epoch=tokens,
            lengths=ragged,
            with_remedies=False,
        )

    picked = choose(candidates, budget, judge, open_length="max_length" not in fixed and data is None)
    if picked is None:
        smallest = replace(candidates.choices(int(np.argmin(candidates.upper)), model), precision=asked.precision)
        report = check(
            model,
            hardware,
            smallest,
            budget_bytes=budget,
            lengths=ragged,
            fixed=fixed,
            notes=[*notes, *batch_notes],
        )
        raise NothingFits(_nothing_fits(report), report)
    options = [report.model_copy(update={"tier": tier.name}) for tier, (_, report) in zip(TIERS, picked, strict=True)]
    number = [tier.name for tier in TIERS].index(GOALS[goal])
    recommended, final = options[number], candidates.choices(picked[number][0], model)
    if data is not None:
        all_notes += data_notes(data, final, split, "max_length" in fixed)
    elif "max_length" not in fixed:
        all_notes.append("No data and no --max-length: each tier takes the length that the guides give it.")
    return Recommendation(
        goal=goal,
        effective_batch_size=effective,
        recommended=recommended,
        options=options,
        notes=all_notes,
        advice=advise(
            model,
            hardware,
            final,
            data=data,
            scenario=scenario,
            validation_split=split,
            step_seconds=None if recommended.speed is None else recommended.speed.step_seconds,
        ),
        data=None if data is None else data.summary(),
    )


def _nothing_fits(report: CheckReport) -> str:
    needed, budget = report.memory.device_peak_bytes, report.memory.budget_bytes
    settings = report.settings
    return (
        f"{report.model.id} does not fit {report.hardware['title']}: even {settings['batch_size']} × "
        f"{settings['max_length']} tokens with {settings['method']} needs {format_bytes(needed)} "
        f"of {format_bytes(budget)}"
    )


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def data_notes(data: DatasetProfile, chosen: TrainingChoices, validation_split: float, length_fixed: bool) -> list[str]:
    """What the data set's lengths mean for the chosen configuration."""
    length = chosen.max_length
    steps = data.steps_per_epoch(chosen.effective_batch_size, validation_split=validation_split)
    said = [
        f"{data.examples} example{_s(data.examples)} ({data.format}), longest {data.longest} tokens, half have at most "
        f"{data.percentile(0.5)}; {data.basis}.",
        f"{steps} optimizer step{_s(steps)} an epoch at an effective batch of {chosen.effective_batch_size}.",
        *data.said,
    ]
    cut = data.share_truncated(length)
    if cut > 0 and data.format == "text":
        said.append(f"{cut:.1%} of the texts are longer than --max-length {length} and go on in the next sequence.")
    elif cut > 0:
        said.append(
            f"--max-length {length} cuts {cut:.1%} of the examples and "
            f"{data.share_tokens_lost(length):.1%} of the tokens."
        )
    elif length_fixed and length > 1.25 * data.longest:
        said.append(f"No example is longer than {data.longest}: --max-length {rounded(data.longest)} would do.")
    if not data.exact and data.longest_upper > length >= data.longest:
        said.append(f"If the text makes short tokens, the longest example has up to {data.longest_upper} tokens.")
    if chosen.padding == "longest":
        grouped = data.padding_waste(length, batch_size=chosen.batch_size)
        mixed = data.padding_waste(length, batch_size=chosen.batch_size, group_by_length=False)
        said.append(f"Padding is {grouped:.1%} of the tokens with length grouping, {mixed:.1%} without.")
    return said
