"""The tiers high, balanced, low and safe: micro-batch, accumulation, checkpointing and length for one device.

All tiers take the same effective batch, so they train the same thing and differ in speed and headroom. Candidates
are evaluated as arrays of shape (candidates,); nothing loops over them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from planner.contract.choices import TrainingChoices
from planner.contract.errors import Infeasible
from planner.contract.record import Record
from planner.contract.records import Advice, CheckReport
from planner.contract.settings import check_length
from planner.contract.units import format_bytes
from planner.decide.advice import adopt, advise
from planner.decide.advice_case import advised_batch
from planner.decide.candidates import (
    Space,
    batch_is_fixed,
    batch_pairs,
    candidate_lengths,
    evaluate,
    layer_counts,
    losses,
    rounded,
)
from planner.decide.check import check
from planner.decide.question import GOALS, Question
from planner.decide.tiers import TIERS, choose


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


def recommend(question: Question) -> Recommendation:
    """Tiers for the question, those choices kept that its `fixed` names.

    Adapter scale and dropout that nobody named are the advised ones. Raises `NothingFits` when no candidate fits,
    `InvalidInput` and `NotModelled` for requests without an answer.
    """
    plain = replace(question, notes=())
    scope = _scope(question)
    candidates = evaluate(plain, scope.space)

    def judge(index: int) -> CheckReport:
        return check(plain.having(candidates.choices(index, question.model)), with_remedies=False)

    open_length = "max_length" not in question.fixed and question.data is None
    picked = choose(candidates, question.budget_bytes, judge, open_length=open_length)
    if picked is None:
        least = candidates.choices(int(np.argmin(candidates.upper)), question.model)
        smallest = replace(least, precision=scope.asked.precision)
        report = check(replace(question, choices=smallest, notes=(*question.notes, *scope.batch_notes)))
        raise NothingFits(_nothing_fits(report), report)
    options = [report.model_copy(update={"tier": tier.name}) for tier, (_, report) in zip(TIERS, picked, strict=True)]
    goal = question.goal or question.preset.goal
    number = [tier.name for tier in TIERS].index(GOALS[goal])
    recommended, final = options[number], candidates.choices(picked[number][0], question.model)
    chosen = question.having(final)
    return Recommendation(
        goal=goal,
        effective_batch_size=scope.effective_batch_size,
        recommended=recommended,
        options=options,
        notes=[*question.notes, *scope.format_notes, *scope.batch_notes, *_length_notes(chosen)],
        advice=advise(chosen, step_seconds=None if recommended.speed is None else recommended.speed.step_seconds),
        data=None if question.data is None else question.data.profile.summary(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scope:
    """Where the search looks, and what had to be said on the way there."""

    space: Space
    asked: TrainingChoices
    """The choices with the advised scale and dropout, before they were fitted to the device."""
    effective_batch_size: int
    format_notes: list[str]
    batch_notes: list[str]


def _scope(question: Question) -> _Scope:
    """Everything that the question leaves open, in the order in which it is wanted."""
    model, fixed, data = question.model, question.fixed, question.data
    if "max_length" in fixed:
        check_length(model, question.choices)
    profile = None if data is None else data.profile
    adopted = question.having(adopt(question.choices, fixed, profile))
    base = adopted.completed()
    wanted = question.effective_batch_size
    if wanted is None and not batch_is_fixed(fixed):
        wanted = advised_batch(None if data is None else data.training_examples, question.preset, base.num_gpus)
    pairs, effective, batch_notes = batch_pairs(base, fixed, wanted)
    return _Scope(
        space=Space(
            bases=losses(base, fixed),
            pairs=pairs,
            lengths=candidate_lengths(model, base, fixed, profile),
            layers=layer_counts(model, base, fixed),
        ),
        asked=adopted.choices,
        effective_batch_size=effective,
        format_notes=adopted.fitted()[1],
        batch_notes=batch_notes,
    )


def _length_notes(chosen: Question) -> list[str]:
    """What the data means for the chosen length, or whose length it is without data."""
    if chosen.data is not None:
        return data_notes(chosen)
    if "max_length" not in chosen.fixed:
        return ["No data and no --max-length: each tier takes the length that the guides give it."]
    return []


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


def data_notes(question: Question) -> list[str]:
    """What the data set's lengths mean for the question's choices; nothing without data."""
    if question.data is None:
        return []
    data, chosen = question.data.profile, question.choices
    length = chosen.max_length
    steps = question.data.steps_per_epoch(chosen)
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
    elif "max_length" in question.fixed and length > 1.25 * data.longest:
        said.append(f"No example is longer than {data.longest}: --max-length {rounded(data.longest)} would do.")
    if not data.exact and data.longest_upper > length >= data.longest:
        said.append(f"If the text makes short tokens, the longest example has up to {data.longest_upper} tokens.")
    if chosen.padding == "longest":
        grouped = data.padding_waste(length, batch_size=chosen.batch_size)
        mixed = data.padding_waste(length, batch_size=chosen.batch_size, group_by_length=False)
        said.append(f"Padding is {grouped:.1%} of the tokens with length grouping, {mixed:.1%} without.")
    return said
