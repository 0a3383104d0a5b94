"""What to set besides what moves memory, each value with the rule it follows and the rule's source.

`advise` is a list for people, `hyperparameters` the same as the trainer's record. Rules that need the data set take
their general form without one, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.records import Advice, Hyperparameters
from planner.contract.settings import near
from planner.contract.spec import HardwareProfile, ModelSpec, TrainingChoices
from planner.contract.units import format_duration
from planner.decide import advice_sources as src
from planner.decide.advice_sources import SCENARIOS, Scenario, sources

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

__all__ = ["SCENARIOS", "VALIDATION_SPLIT", "adopt", "advise", "hyperparameters", "validation_share"]

RATE_BASE = 5e-5
"""Full fine-tuning's learning rate at a hidden size of 2000 (Tinker docs, 2025)."""
RATE_LORA = 10.0
"""LoRA's optimum against full fine-tuning's (LoRA Without Regret, 2025)."""
RATE_EXPONENT = {"llama": 0.781, "qwen2": 0.0775, "qwen3": 0.0775, "qwen2_moe": 0.0775, "qwen3_moe": 0.0775}
"""How the optimum falls with the hidden size; fitted for these families only (Tinker docs, 2025)."""
RATE_CEILING = 1e-3
"""Upper end of what training guide 4 gives for small models; the fitted rule is not carried beyond it."""

SMALL_DATA, LARGE_DATA = 1_000, 100_000
"""Examples below and above which training guide 4 changes its advice."""
VALIDATION_SPLIT = 0.1
"""Share of the examples that validates (training guides 1 and 3)."""
FEW_STEPS = 100
"""Optimizer steps under which a run is too short for a schedule (and a batch too large; Tinker docs, 2025)."""
VALIDATION_EXAMPLES = 2_000
"""More than so many only cost time: the loss's standard error falls with their square root."""
RANKS = (8, 16, 32, 64, 128, 256)
PACKING_WASTE = 0.15
"""Share of padding from which packing is worth its block-diagonal attention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """Everything a rule may look at."""

    model: ModelSpec
    hardware: HardwareProfile
    choices: TrainingChoices
    data: DatasetProfile | None
    scenario: Scenario
    step_seconds: float | None
    epochs: float
    steps_per_epoch: int | None

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the whole run, where the data is known."""
        return None if self.steps_per_epoch is None else math.ceil(self.steps_per_epoch * self.epochs)


def advise(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    *,
    data: DatasetProfile | None = None,
    scenario: str = "standard",
    validation_split: float | None = None,
    step_seconds: float | None = None,
) -> list[Advice]:
    """Advice for one configuration, in the order in which a person decides.

    `validation_split`: the share that validates; None is the advised one.
    `step_seconds`: of one optimizer step, where known; it spaces the log lines.
    """
    if scenario not in SCENARIOS:
        raise InvalidInput(f"--scenario {scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}")
    preset = SCENARIOS[scenario]
    split = validation_share(data) if validation_split is None else validation_split
    epochs_advice = _epochs(data, preset)
    per_epoch = None
    if data is not None:
        per_epoch = data.steps_per_epoch(choices.effective_batch_size, validation_split=split)
    case = _Case(
        model=model,
        hardware=hardware,
        choices=choices,
        data=data,
        scenario=preset,
        step_seconds=step_seconds,
        epochs=float(epochs_advice.value),
        steps_per_epoch=per_epoch,
    )
    advice = [_learning_rate(case), epochs_advice, _effective_batch(case), _scheduler(case), _warmup(case)]
    advice += [_weight_decay(case), _clipping(case)]
    if choices.method != "full":
        advice += [_rank(case), _alpha(case), _dropout(case), _targets(case)]
    advice += [_precision(case), _padding(case), _validation(case), *_intervals(case), _early_stopping(case)]
    return advice


def hyperparameters(advice: list[Advice], **overrides: Any) -> Hyperparameters:
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
    if data is None or data.examples * VALIDATION_SPLIT <= VALIDATION_EXAMPLES:
        return VALIDATION_SPLIT
    return float(f"{VALIDATION_EXAMPLES / data.examples:.2g}")


def adopt(choices: TrainingChoices, fixed: Collection[str], data: DatasetProfile | None) -> TrainingChoices:
    """The choices with the advised adapter scale and dropout where the user left them open; rank stays as it is."""
    if choices.method == "full":
        return choices
    changes: dict[str, float] = {}
    if "lora_alpha" not in fixed:
        changes["lora_alpha"] = advised_alpha(choices.lora_r)
    if "lora_dropout" not in fixed:
        changes["lora_dropout"] = advised_dropout(data)
    return replace(choices, **changes)  # type: ignore[arg-type]


def advised_alpha(rank: int) -> int:
    """Adapter scale for a rank: 32 up to rank 16, twice the rank beyond."""
    return 32 if rank <= 16 else 2 * rank


def advised_dropout(data: DatasetProfile | None) -> float:
    """Adapter dropout by the number of examples; 0.05 while it is unknown."""
    if data is None:
        return 0.05
    return 0.1 if data.examples < SMALL_DATA else 0.0 if data.examples > LARGE_DATA else 0.05


# --------------------------------------------------------------------------------------------------------------------
# Learning


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def _learning_rate(case: _Case) -> Advice:
    model, adapters = case.model, case.choices.method != "full"
    billions = model.parameters / 1e9
    exponent = RATE_EXPONENT.get(model.architecture)
    if exponent is not None:
        rate = RATE_BASE * (RATE_LORA if adapters else 1.0) * (2000 / model.hidden_size) ** exponent
        rule = (
            f"5e-5{' × 10 for adapters' if adapters else ''} × (2000 / hidden size {model.hidden_size})^{exponent:g}, "
            f"fitted for {model.architecture}; does not depend on the rank"
        )
        source = sources(src.REGRET, src.TINKER)
    elif model.task in ("masked", "classification"):
        rate = 5e-4 if adapters else 5e-5
        rule = "small encoders: 5e-4 to 1e-3 with adapters, 2e-5 to 5e-5 in full"
        source = sources(src.GUIDE_4, src.GUIDE_5, src.BERT)
    elif adapters:
        rate = 2e-4 if billions <= 13 else 1e-4
        rule = "2e-4 up to 13 B parameters, 1e-4 beyond; guide 4's 5e-4 is the upper end of what is stable"
        source = sources(src.QLORA, src.GUIDE_1, src.GUIDE_4)
    else:
        rate = 5e-5 if billions < 1 else 2e-5
        rule = "5e-5 below a billion parameters, 2e-5 above: about a tenth of what adapters take"
        source = sources(src.GUIDE_5, src.LLAMA2, src.LESS)
    factor = case.scenario.rate_factor
    if factor == 1.0 and adapters and case.steps is not None and case.steps <= FEW_STEPS:
        factor, why = 1.5, f"a run of {case.steps} steps wants about 15 instead of 10 times the full rate"
    else:
        why = f"{case.scenario.title}: × {factor:g}"
    if factor != 1.0:
        rate, rule = rate * factor, f"{rule}; {why}"
        source = sources(source, case.scenario.source)
    if rate > RATE_CEILING:
        rate, rule = RATE_CEILING, f"{rule}; held at {RATE_CEILING:g}, the most that guide 4 gives"
    return Advice(name="learning_rate", value=_two_digits(rate), rule=rule, source=source)


def _epochs(data: DatasetProfile | None, scenario: Scenario) -> Advice:
    if scenario.epochs is not None and (data is None or scenario.epochs == 1):
        return Advice(
            name="epochs", value=scenario.epochs, rule=f"{scenario.title}: {scenario.epochs:g}", source=scenario.source
        )
    if data is None:
        rule = "3 while the data set is unknown; fewer than 1,000 examples want 5 to 10, more than 100,000 want 1 to 3"
        return Advice(name="epochs", value=3.0, rule=rule, source=src.GUIDE_4)
    low, high = (5, 10) if data.examples < SMALL_DATA else (3, 5) if data.examples <= LARGE_DATA else (1, 3)
    value = high if scenario.epochs is not None else low
    rule = (
        f"{low} to {high} for {data.examples} examples, more data needs fewer; the validation loss decides "
        "(guide 1's 20 overfits unless stopped early)"
    )
    return Advice(name="epochs", value=float(value), rule=rule, source=sources(src.GUIDE_4, src.LESS))


def _effective_batch(case: _Case) -> Advice:
    now = case.choices.effective_batch_size
    rule = "32 is the start; adapters tolerate large batches worse than full training, and memory must not decide it"
    if case.steps is not None and case.steps < FEW_STEPS:
        rule += f"; this run has only {case.steps} steps, so a smaller batch would learn more from it"
    return Advice(
        name="effective_batch_size",
        value=now,
        rule=rule,
        source=sources(src.GUIDE_3, src.GUIDE_4, src.REGRET),
    )


def _scheduler(case: _Case) -> Advice:
    if case.steps is not None and case.steps < FEW_STEPS:
        return Advice(
            name="scheduler",
            value="constant",
            rule=f"constant: {case.steps} steps are too few to decay over",
            source=sources(src.GUIDE_4, src.QLORA),
        )
    return Advice(
        name="scheduler",
        value="cosine",
        rule="cosine down to a tenth of the first rate; linear does about as well, step decay is the least stable",
        source=sources(src.GUIDE_3, src.GUIDE_5),
    )


def _warmup(case: _Case) -> Advice:
    steps = case.steps
    if steps is None:
        return Advice(
            name="warmup_ratio", value=0.05, rule="0.05 while the number of steps is unknown", source=src.GUIDE_1
        )
    value = 0.1 if steps < 1_000 else 0.06 if steps <= 10_000 else 0.03
    rule = f"0.1 below 1,000 steps, 0.06 up to 10,000, 0.03 beyond; this run has {steps}"
    return Advice(name="warmup_ratio", value=value, rule=rule, source=src.GUIDE_4)


def _weight_decay(case: _Case) -> Advice:
    large = case.data is not None and case.data.examples > LARGE_DATA
    return Advice(
        name="weight_decay",
        value=0.001 if large else 0.01,
        rule="0.01; 0.001 above 100,000 examples; adapters regularise more by themselves than decay does",
        source=sources(src.GUIDE_4, src.GUIDE_5, src.LESS),
    )


def _clipping(case: _Case) -> Advice:
    quantized = case.choices.method == "qlora"
    rule = "1.0 keeps one bad batch from undoing the run"
    if quantized:
        rule += "; the QLoRA authors clip at 0.3"
    return Advice(
        name="max_grad_norm",
        value=case.choices.max_grad_norm,
        rule=rule,
        source=sources(src.GUIDE_3, src.GUIDE_5, *([src.QLORA] if quantized else [])),
    )


# --------------------------------------------------------------------------------------------------------------------
# Adapters


def _rank(case: _Case) -> Advice:
    now = case.choices.lora_r
    if case.data is None:
        rule = f"{now}; 8 to 32 by difficulty. Early in training ranks learn alike, capacity shows with more data"
        return Advice(name="lora_r", value=now, rule=rule, source=sources(src.GUIDE_1, src.REGRET))
    tokens = case.data.completion_tokens
    wanted = _rank_for(case, tokens)
    if wanted is None or wanted <= now:
        rule = f"{now} holds the data: adapter parameters are at least its {tokens} completion tokens"
        if wanted is None:
            rule = f"{now}; 8 to 32 by difficulty"
        return Advice(name="lora_r", value=now, rule=rule, source=sources(src.TINKER, src.GUIDE_1))
    rule = (
        f"adapters learn like full training while their parameters are at least the {tokens} completion tokens: "
        f"--lora-r {wanted} (this plan has {now})"
    )
    return Advice(name="lora_r", value=wanted, rule=rule, source=sources(src.REGRET, src.TINKER))


def _rank_for(case: _Case, tokens: int) -> int | None:
    """Smallest usual rank whose parameters reach `tokens`; None where adapters cannot be counted."""
    from planner.models import lora

    try:
        for rank in RANKS:
            if lora.trainable_parameters(case.model, replace(case.choices, lora_r=rank)) >= tokens:
                return rank
    except TuneplanError:
        return None
    return RANKS[-1]


def _alpha(case: _Case) -> Advice:
    rank = case.choices.lora_r
    value = advised_alpha(rank)
    rule = "32 up to rank 16, twice the rank beyond"
    if rank >= 64:
        rule += "; at such ranks alpha / sqrt(r) (--lora-variant rslora) keeps learning from slowing down"
    return Advice(
        name="lora_alpha", value=value, rule=rule, source=sources(src.GUIDE_1, src.GUIDE_2, src.LESS, src.RSLORA)
    )


def _dropout(case: _Case) -> Advice:
    value = advised_dropout(case.data)
    rule = "0.05; 0.1 below 1,000 examples, 0 above 100,000, where nothing is seen often enough to be learnt by heart"
    return Advice(name="lora_dropout", value=value, rule=rule, source=sources(src.GUIDE_1, src.QLORA, src.LESS))


def _targets(case: _Case) -> Advice:
    return Advice(
        name="lora_targets",
        value="all-linear",
        rule="all linear layers: all beat MLP only, MLP only beats attention only (the first paper took q and v only)",
        source=sources(src.LESS, src.REGRET, src.QLORA, src.LORA),
    )


# --------------------------------------------------------------------------------------------------------------------
# Format, data, rhythm


def _precision(case: _Case) -> Advice:
    choices = case.choices
    has = ", ".join(case.hardware.dtypes)
    rule = f"bf16 where the device has it, else fp16 with loss scaling, else fp32; {case.hardware.title} has {has}"
    source = sources(src.GUIDE_4, src.MIXED)
    if choices.method == "full" and choices.precision in ("bf16", "fp16"):
        rule += (
            f"; with {choices.precision} weights updates below 1/256 of a weight are lost in full training: "
            f"--precision {choices.precision}-mixed keeps them where it fits"
        )
        source = sources(source, src.STOCHASTIC)
    return Advice(name="precision", value=choices.precision, rule=rule, source=source)


def _padding(case: _Case) -> Advice:
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


def _validation(case: _Case) -> Advice:
    value = validation_share(case.data)
    rule = "a tenth, drawn before training and never trained on"
    source = sources(src.GUIDE_1, src.GUIDE_3)
    if value < VALIDATION_SPLIT:
        rule = f"{VALIDATION_EXAMPLES} examples are enough: the error of the mean falls with their square root"
        source = sources(source, src.OWN)
    return Advice(name="validation_split", value=value, rule=rule, source=source)


def _intervals(case: _Case) -> list[Advice]:
    evaluations = case.scenario.evaluations_per_epoch
    every: int | None = None
    if case.steps_per_epoch is None:
        eval_rule = f"once an epoch while the data set is unknown; else {evaluations} times"
    elif case.steps_per_epoch < 10 * evaluations:
        eval_rule = f"once an epoch: {case.steps_per_epoch} steps are few"
    else:
        every = case.steps_per_epoch // evaluations
        eval_rule = f"{evaluations} times an epoch (guide: 5 to 10)"
    logging, log_rule = 10, "every 10 steps while the step time is unknown"
    if case.step_seconds is not None and case.step_seconds > 0:
        logging = min(200, max(1, round(60 / case.scenario.logs_per_minute / case.step_seconds)))
        every_seconds = 60 / case.scenario.logs_per_minute
        log_rule = f"a line every {every_seconds:g} s at {format_duration(case.step_seconds)} a step"
        if case.steps is not None and case.steps < 20 * logging:
            logging = max(1, case.steps // 20)
            log_rule = f"20 lines over {case.steps} steps"
    return [
        Advice(name="eval_steps", value=every, rule=eval_rule, source=src.GUIDE_4),
        Advice(
            name="save_steps",
            value=every,
            rule="at each evaluation, so that the best state is never lost; the last two and the best are kept",
            source=sources(src.GUIDE_3, src.GUIDE_5),
        ),
        Advice(name="logging_steps", value=logging, rule=log_rule, source=src.GUIDE_4),
    ]


def _early_stopping(case: _Case) -> Advice:
    patience = case.scenario.patience
    rule = f"{case.scenario.title}: stop after {patience} evaluations without improvement"
    if patience == 0:
        rule = f"{case.scenario.title}: off, the run is short"
    elif case.steps_per_epoch is not None:
        evaluations = case.epochs * (
            1
            if case.steps_per_epoch < 10 * case.scenario.evaluations_per_epoch
            else case.scenario.evaluations_per_epoch
        )
        if evaluations <= 2 * patience:
            patience = 0
            rule = f"off: {evaluations:g} evaluations are too few to tell noise from a trend"
    return Advice(name="early_stopping_patience", value=patience, rule=rule, source=sources(src.GUIDE_4, src.GUIDE_3))
