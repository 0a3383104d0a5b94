"""The search: the nearest way to train that fits, and in it tiers that differ in speed and headroom alone.

All tiers take the same method, length and effective batch, so they train the same thing. Candidates are evaluated as
arrays of shape (candidates,); nothing loops over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field

from planner.contract.choices import TrainingChoices
from planner.contract.errors import Infeasible, NotModelled
from planner.contract.record import Record, Seconds
from planner.contract.records import Advice, CheckReport, Said
from planner.contract.sentence import named, sentence
from planner.contract.settings import check_length
from planner.contract.units import counted, format_bytes
from planner.decide import given_up, why
from planner.decide.advice import adopt, advise
from planner.decide.advice_case import advised_batch
from planner.decide.candidates import Candidates, batch_is_fixed, batch_pairs, evaluate, rounded
from planner.decide.check import check
from planner.decide.given_up import Changed
from planner.decide.question import GOALS, Question
from planner.decide.run_time import RunTime, run_time
from planner.decide.tiers import choose, distinct, inside
from planner.decide.ways import Way, ways


class FrontPoint(Record):
    """One point of the front: nothing else at this effective batch and length is both smaller and faster."""

    batch_size: int
    gradient_accumulation_steps: int
    checkpoint_layers: int
    made_again: tuple[str, ...] = ()
    device_peak_bytes: int
    step_seconds: float


class Deadline(Record):
    """The time that was given, and what was cut for it."""

    seconds: Seconds
    cut: list[str]
    """What is less than without a limit, in words; empty where nothing had to be."""
    kept: bool
    """Whether the whole run is expected to end in time."""
    enough: bool
    """Whether at least 100 optimizer steps are left."""


class Recommendation(Record):
    """What `plan --json` prints: one recommended configuration and the tiers it was taken from."""

    schema_: Literal["tuneplan.recommendation/1"] = Field(default="tuneplan.recommendation/1", alias="schema")
    goal: str
    effective_batch_size: int
    recommended: CheckReport
    options: list[CheckReport]
    """Distinct tiers, from high to safe; of equal ones the first, under the recommended one's name if it is among
    them.
    """
    tiers: dict[str, int] = Field(default_factory=dict)
    """Which of the options each tier is; equal tiers are one."""
    notes: list[Said]
    """What was changed to make it fit, defaults that were taken, formats that were replaced, what the data says."""
    changed: list[Changed] = Field(default_factory=list)
    """What is not as it was asked for, or not the usual, because nothing would have fitted otherwise."""
    why: list[Said] = Field(default_factory=list)
    """Why this batch, and what the rest of the device is good for."""
    front: list[FrontPoint] = Field(default_factory=list)
    """From the fastest to the smallest, by the search's own figures."""
    advice: list[Advice] = Field(default_factory=list)
    time: RunTime | None = None
    """Of the whole run, part by part; None where no speed is modelled."""
    deadline: Deadline | None = None
    """Where a time was given."""
    data: dict[str, object] | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class NothingFits(Infeasible):
    """No candidate fits; `report` is the smallest one with what it lacks and what would help."""

    def __init__(self, message: str, report: CheckReport) -> None:
        super().__init__(message)
        self.report = report


def recommend(
    question: Question, *, meanwhile: Callable[[], None] | None = None, with_remedies: bool = True
) -> Recommendation:
    """Tiers for the question: distinct points of the front of peak against speed, in the nearest way that fits.

    `meanwhile`: called between the parts that take time; what it raises ends the search. `with_remedies`: whether a
    `NothingFits` says what would help.
    Choices that its `fixed` names are kept wherever anything fits with them; else the answer says what it changed.
    Adapter scale and dropout that nobody named are the advised ones. Raises `NothingFits` when nothing fits however it
    is changed, `InvalidInput` and `NotModelled` for requests without an answer.
    """
    scope = _scope(question)
    found = _search(replace(question, notes=()), scope, meanwhile or (lambda: None), with_remedies)
    goal = question.goal or question.preset.goal
    wanted = question.tier or GOALS[goal]
    options, places = distinct(found.picked, wanted)
    index, recommended = options[places[wanted]]
    chosen = question.having(found.candidates.choices(index, question.model))
    changed = given_up.changed(question, scope.asked, chosen.choices)
    advice = advise(chosen, step_seconds=None if recommended.speed is None else recommended.speed.step_seconds)
    return Recommendation(
        goal=goal,
        effective_batch_size=scope.effective_batch_size,
        recommended=recommended,
        options=[report for _, report in options],
        tiers=places,
        notes=[
            *given_up.notes(changed),
            *given_up.of_single_tiers(question, scope.asked, [report for _, report in options], changed),
            *(*question.notes, *_format_notes(scope, chosen.choices), *scope.batch_notes, *_length_notes(chosen)),
        ],
        changed=changed,
        why=[
            *why.batch_lines(question, found.candidates, index, recommended),
            *why.kept_lines(found.candidates, index, options),
        ],
        front=_front(found.candidates, question.budget_bytes, chosen.choices.max_length),
        advice=advice,
        time=run_time(chosen, recommended, advice),
        data=None if question.data is None else question.data.profile.summary(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The candidates of the way that fits, and each tier's."""

    candidates: Candidates
    picked: list[tuple[int, CheckReport]]


SPARING_REACH = 1.15
"""How far over the budget the smallest candidate may be for host memory and 8-bit state to be worth a look."""


def _search(plain: Question, scope: _Scope, meanwhile: Callable[[], None], with_remedies: bool) -> _Found:
    """The first way that holds something that fits; a tight one only where no change would avoid it gently."""
    budget = plain.budget_bytes
    least: tuple[int, Way, Candidates] | None = None
    before = 0
    refused: NotModelled | None = None
    for way in ways(replace(plain, choices=scope.asked), scope.effective_batch_size):
        if way.sparing and before > SPARING_REACH * budget:
            continue
        meanwhile()
        try:
            candidates = evaluate(way.question, way.space)
        except NotModelled as error:
            refused = refused or error
            continue
        before = int(candidates.upper.min())
        if least is None or before < least[0]:
            least = (before, way, candidates)
        if not inside(candidates, budget).any():
            continue

        def judge(index: int, way: Way = way, candidates: Candidates = candidates) -> CheckReport:
            meanwhile()
            return check(way.question.having(candidates.choices(index, plain.model)), with_remedies=False)

        picked = choose(candidates, budget, judge)
        if picked is not None:
            return _Found(candidates=candidates, picked=picked)
    if least is None:
        assert refused is not None
        raise refused
    meanwhile()
    raise _refusal(plain, scope, *least[1:], with_remedies=with_remedies)


def _refusal(plain: Question, scope: _Scope, way: Way, candidates: Candidates, *, with_remedies: bool) -> NothingFits:
    """What the smallest of all candidates lacks."""
    smallest = candidates.choices(int(np.argmin(candidates.upper)), plain.model)
    asked = replace(way.question, choices=smallest, notes=tuple(scope.batch_notes))
    report = check(asked, with_remedies=with_remedies)
    return NothingFits(_nothing_fits(report), report)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scope:
    """What the person wants, and what had to be said on the way there."""

    asked: TrainingChoices
    """The choices with the advised scale and dropout, before they were fitted to the device."""
    effective_batch_size: int
    format_notes: list[str]
    batch_notes: list[str]


SHARES = ("batch_size", "gradient_accumulation_steps")


def _scope(question: Question) -> _Scope:
    """What stays the same in every way of answering."""
    fixed, data = question.fixed, question.data
    if "max_length" in fixed:
        check_length(question.model, question.choices)
    adopted = question.having(adopt(question.choices, fixed, None if data is None else data.profile))
    base = adopted.completed()
    wanted = question.effective_batch_size
    if wanted is None and not batch_is_fixed(fixed):
        wanted = advised_batch(None if data is None else data.training_examples, question.preset, base.num_gpus)
        named = next((getattr(base, name) for name in SHARES if name in fixed), 1) * base.num_gpus
        # The advised batch, but whole: one part of it may be named.
        wanted = -(-wanted // named) * named
    _, effective, batch_notes = batch_pairs(base, fixed, wanted)
    return _Scope(
        asked=adopted.choices,
        effective_batch_size=effective,
        format_notes=adopted.fitted()[1],
        batch_notes=batch_notes,
    )


SEARCHED = ("method", "strategy", "precision", "optimizer", "checkpoint_offload", "made_again")
"""Choices beside the shape that a search makes where nobody named them: asked again they start from their defaults."""


def _format_notes(scope: _Scope, taken: TrainingChoices) -> list[str]:
    """Which number format was replaced, unless the answer took still another one."""
    if taken.precision == "fp32" and scope.asked.precision == "bf16" and not scope.format_notes:
        return ["precision fp32: on this device bf16 is not faster, and fp32 fits."]
    return scope.format_notes


MOST_POINTS = 12


def _front(candidates: Candidates, budget_bytes: int, length: int) -> list[FrontPoint]:
    """The front from the fastest that fits to the smallest."""
    here = np.flatnonzero(inside(candidates, budget_bytes) & (candidates.length == length))
    order = here[np.lexsort((candidates.device[here], candidates.seconds[here]))]
    points: list[int] = []
    for index in order:
        if not points or candidates.device[index] < candidates.device[points[-1]]:
            points.append(int(index))
    if len(points) > MOST_POINTS:
        points = [points[round(n * (len(points) - 1) / (MOST_POINTS - 1))] for n in range(MOST_POINTS)]
    return [
        FrontPoint(
            batch_size=int(candidates.batch_size[index]),
            gradient_accumulation_steps=int(candidates.accumulation[index]),
            checkpoint_layers=int(candidates.checkpointed_layers[index]),
            made_again=() if candidates.keeps[index] else candidates.base.made_again,
            device_peak_bytes=int(candidates.device[index]),
            step_seconds=float(candidates.seconds[index]),
        )
        for index in points
    ]


def _length_notes(chosen: Question) -> list[str]:
    """What the data means for the chosen length, or whose length it is without data."""
    if chosen.data is not None:
        return data_notes(chosen)
    if "max_length" not in chosen.fixed:
        return [
            sentence(
                "No data and no ",
                named("max_length"),
                f": length {chosen.choices.max_length}; name the one that your data needs.",
            )
        ]
    return []


def _nothing_fits(report: CheckReport) -> str:
    needed, budget = report.memory.device_peak_bytes, report.memory.budget_bytes
    settings = report.settings
    return (
        f"{report.model.id} does not fit {report.hardware['title']}: even {settings.batch_size} × "
        f"{settings.max_length} tokens with {settings.method} needs {format_bytes(needed)} "
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
        *question.data.faults,
        f"{data.examples} example{_s(data.examples)} ({data.format}), longest {data.longest} tokens, half have at most "
        f"{data.percentile(0.5)}; {data.basis}.",
        f"{steps} optimizer step{_s(steps)} an epoch at an effective batch of {chosen.effective_batch_size}.",
        *data.said,
    ]
    cut = data.share_truncated(length)
    if cut > 0 and data.format == "text":
        said.append(
            sentence(
                f"{cut:.1%} of the texts are longer than ",
                named("max_length"),
                f" {length} and go on in the next sequence.",
            )
        )
    elif cut > 0:
        said.append(
            sentence(
                named("max_length"),
                f" {length} cuts {cut:.1%} of the examples and {data.share_tokens_lost(length):.1%} of the tokens.",
            )
        )
    elif "max_length" in question.fixed and length > 1.25 * data.longest:
        said.append(
            sentence(
                f"No example is longer than {data.longest}: ",
                named("max_length"),
                f" {rounded(data.longest)} would do.",
            )
        )
    if not data.exact and data.longest_upper > length >= data.longest:
        said.append(f"If the text makes short tokens, the longest example has up to {data.longest_upper} tokens.")
    if chosen.padding == "longest":
        grouped = data.padding_waste(length, batch_size=chosen.batch_size)
        mixed = data.padding_waste(length, batch_size=chosen.batch_size, group_by_length=False)
        said.append(
            f"Padding is {grouped:.1%} of the tokens with length grouping, {mixed:.1%} without; packing saves it."
        )
    said.append(_coverage(question))
    return said


def _coverage(question: Question) -> str:
    """The length that holds 99 of 100 examples whole, and the heaviest micro-batch of the chosen one."""
    assert question.data is not None
    data, chosen = question.data.profile, question.choices
    whole = data.upper(data.percentile(0.99))
    batch = question.data.lengths.heaviest(chosen, quick=True)[0]
    return (
        f"Length {rounded(whole):,} holds 99 % of the examples whole; the heaviest micro-batch has "
        f"{counted(sum(map(sum, batch)), 'token')} in {counted(len(batch), 'row')}."
    )
