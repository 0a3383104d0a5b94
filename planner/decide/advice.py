"""What to set besides what moves memory, each value with the rule it follows, its source and how far off it may be.

`advise` is a list for people, `hyperparameters` the same as the trainer's record, `adopt` what a plan takes of it by
itself. Rules that need the data set take their general form without one, and say so. The rules stand in
`advice_rate`, `advice_length` and `advice_adapters`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.records import Advice
from planner.contract.run_settings import Hyperparameters
from planner.contract.sentence import named, sentence
from planner.contract.settings import near
from planner.decide import advice_adapters as adapters
from planner.decide import advice_length as length
from planner.decide import advice_sources as src
from planner.decide.advice_case import AdviceCase, advised_passes
from planner.decide.advice_rate import learning_rate
from planner.decide.advice_sources import sources
from planner.decide.question import Question

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

PACKING_WASTE = 0.15
"""Share of padding from which packing is worth its block-diagonal attention."""


def advise(question: Question, *, step_seconds: float | None = None, max_steps: int | None = None) -> list[Advice]:
    """Advice for the question's choices, in the order in which a person decides.

    `step_seconds`: of one optimizer step, where known; it spaces the log lines. `max_steps`: where the run is to end,
    whatever the epochs say.
    """
    data = question.data
    effective = question.choices.effective_batch_size
    case = AdviceCase(
        model=question.model,
        hardware=question.hardware,
        choices=question.choices,
        data=None if data is None else data.profile,
        scenario=question.preset,
        step_seconds=step_seconds,
        epochs=advised_passes(None if data is None else data.training_examples, effective, question.preset),
        steps_per_epoch=None if data is None else data.steps_per_epoch(question.choices),
        max_steps=max_steps,
    )
    advice = [learning_rate(case), length.epochs(case), length.effective_batch(case), length.scheduler(case)]
    advice += [length.warmup(case), adapters.weight_decay(case), adapters.clipping(case), adapters.optimizer(case)]
    if case.adapters:
        advice += [adapters.rank(case), adapters.alpha(case), adapters.dropout(case), adapters.targets(case)]
        advice += adapters.variant(case)
    advice += [_precision(case), _padding(case), length.validation(case), *length.intervals(case)]
    advice.append(length.early_stopping(case))
    return advice if max_steps is None else [*advice, length.last_step(max_steps)]


def hyperparameters(advice: list[Advice], **overrides: object) -> Hyperparameters:
    """The advice as the trainer's record; `overrides` (None means not given) win."""
    known = Hyperparameters.model_fields
    values = {entry.name: entry.value for entry in advice if entry.name in known}
    for name, value in overrides.items():
        if name not in known:
            raise InvalidInput(f"unknown hyperparameter {name!r}{near(name, known)}")
        if value is not None:
            values[name] = value
    return Hyperparameters(**values)


def validation_share(data: DatasetProfile | None) -> float:
    """Share of the examples that validates where the user names none: a tenth, less for a large data set."""
    return length.validation_share(None if data is None else data.examples)


def adopt(choices: TrainingChoices, fixed: Collection[str], data: DatasetProfile | None) -> TrainingChoices:
    """The choices with the advised adapter scale and dropout where the user left them open; rank stays as it is."""
    if choices.method == "full":
        return choices
    changes: dict[str, float] = {}
    if "lora_alpha" not in fixed:
        changes["lora_alpha"] = adapters.ALPHA
    if "lora_dropout" not in fixed:
        changes["lora_dropout"] = adapters.advised_dropout(data)
    return replace(choices, **changes)  # type: ignore[arg-type]


def _precision(case: AdviceCase) -> Advice:
    choices = case.choices
    has = ", ".join(case.hardware.dtypes)
    rule = f"bf16 where the device has it, else fp16 with loss scaling, else fp32; {case.hardware.title} has {has}"
    source = sources(src.GUIDE_4, src.MIXED)
    if choices.method == "full" and choices.precision in ("bf16", "fp16"):
        rule += sentence(
            f"; with {choices.precision} weights updates below 1/256 of a weight are lost in full training: ",
            named("precision"),
            f" {choices.precision}-mixed keeps them where it fits",
        )
        source = sources(source, src.STOCHASTIC)
    return Advice(name="precision", value=choices.precision, rule=rule, source=source)


def _padding(case: AdviceCase) -> Advice:
    choices = case.choices
    if case.data is None:
        rule = "pad to the longest of the batch, sequences of like length together"
        return Advice(name="padding", value=choices.padding, rule=rule, source=src.GUIDE_5)
    waste = case.data.padding_waste(choices.max_length, batch_size=choices.batch_size)
    mixed = case.data.padding_waste(choices.max_length, batch_size=choices.batch_size, group_by_length=False)
    rule = f"longest of the batch with length grouping: {waste:.0%} padding here ({mixed:.0%} without grouping)"
    value = choices.padding
    if waste > PACKING_WASTE and choices.padding != "packed":
        rule, value = f"{rule}; packing avoids it", "packed"
    return Advice(name="padding", value=value, rule=rule, source=sources(src.GUIDE_5, src.KRELL))
