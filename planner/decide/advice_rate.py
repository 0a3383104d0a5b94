"""The learning rate: a family's best one of a public sweep, brought to this rank, adapter scale, batch and run.

    rate = A · (r / 16)^D · (32 / r) / scale · √(sequences / 128) · √(tokens of a row / 775) · short run · scenario

A and D are fitted to the sweep of `advice_sources.SWEEP` (548 runs; regret: how much more negative log-likelihood than
the best rate of the same model and rank, curves between the measured rates taken as parabolas in log rate). It was run
with alpha 32, so with a scale of 32 / r, on 128 sequences of tulu3 a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.contract.choices import TrainingChoices
from planner.contract.records import Advice
from planner.decide import advice_sources as src
from planner.decide.advice_case import FEW_STEPS, AdviceCase
from planner.decide.advice_sources import sources


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What the sweep says of models of one make."""

    title: str
    rate: float
    """Best rate at rank 16, alpha 32, 128 sequences."""
    drift: float
    """Exponent of the rank."""
    mean_regret: float
    """Percent, over the sweep's pairs of model and rank."""
    worst_regret: float
    pairs: int
    rivals: str
    """What other rules lose on the same pairs."""


LLAMA = Family(
    title="Llama 3",
    rate=6e-4,
    drift=0.2,
    mean_regret=0.16,
    worst_regret=0.37,
    pairs=22,
    rivals="2e-4 loses 1.25 %, 1e-4 loses 2.58 %",
)
QWEN = Family(
    title="Qwen 3",
    rate=3.5e-4,
    drift=0.2,
    mean_regret=0.24,
    worst_regret=1.51,
    pairs=73,
    rivals="2e-4 loses 0.53 %, 1e-4 loses 1.17 %",
)
OTHERS = Family(
    title="the sweep's six other families",
    rate=4e-4,
    drift=0.25,
    mean_regret=0.14,
    worst_regret=0.51,
    pairs=25,
    rivals="2e-4 loses 0.39 %",
)
FAMILIES = {
    "llama": LLAMA,
    **dict.fromkeys(("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"), QWEN),
}
SWEEP_ALPHA, SWEEP_RANK, SWEEP_BATCH, SWEEP_TOKENS = 32, 16, 128, 775
"""Tokens: the data set's card gives 2,914,250,826 bytes in 939,343 examples; 4 bytes a token."""
TOKENS_RANGE = (0.5, 2.0)
"""How far the tokens of a row may move the square under the root: nothing was swept beyond."""
CEILING = 1e-3
"""72 of the sweep's 80 diverged runs had 3e-3; 1e-3 is the highest rate that was ever best."""
FULL_EXPONENT = {"llama": 0.781, "qwen2": 0.0775, "qwen3": 0.0775, "qwen2_moe": 0.0775, "qwen3_moe": 0.0775}
"""Full training: how the optimum falls with the hidden size; fitted for these families only (Tinker docs, 2025)."""
FULL_BASE, FULL_BATCH = 5e-5, 128
ENCODER_BATCH = 32
"""BERT's authors tuned with batches of 16 and 32."""
SHORT_FACTOR, LONG_RUN = 1.5, 1_000
"""A run of 100 steps takes 15 instead of 10 times full training's rate (LoRA Without Regret, 2025)."""
FACTORY_RATE, FACTORY_TOKENS = 3e-4, 4_000_000
"""LLaMA-Factory's script: this rate at so many tokens a batch, scaled by the root of their share; full training."""
LORA_OVER_FULL = 10.0
"""LoRA's optimum against full fine-tuning's (LoRA Without Regret, 2025)."""


def two_digits(value: float) -> float:
    """Rates are given in two digits: no one tunes finer."""
    return float(f"{value:.1e}")


def learning_rate(case: AdviceCase) -> Advice:
    """The rate with every factor that made it, what it rests on, and the guides' range."""
    if case.model.task in ("masked", "classification"):
        return _encoder(case)
    return _adapters(case) if case.adapters else _full(case)


def adapter_scale(choices: TrainingChoices) -> float:
    """What an adapter's product is multiplied by: alpha / r, with rsLoRA alpha / √r."""
    return choices.lora_alpha / (math.sqrt(choices.lora_r) if choices.lora_variant == "rslora" else choices.lora_r)


def short_run(steps: int | None) -> float:
    """1.5 up to 100 steps, falling as a power of the steps to 1 at 1,000."""
    if steps is None or steps >= LONG_RUN:
        return 1.0
    exponent = math.log(SHORT_FACTOR) / math.log(LONG_RUN / FEW_STEPS)
    return float(SHORT_FACTOR * (FEW_STEPS / max(steps, FEW_STEPS)) ** exponent)


def batch_factor(case: AdviceCase) -> float:
    """√ of the sequences and of the tokens in one against the sweep's."""
    rows = math.sqrt(case.choices.effective_batch_size / SWEEP_BATCH)
    tokens = case.tokens_per_row
    if tokens is None:
        return rows
    low, high = TOKENS_RANGE
    return rows * math.sqrt(min(high, max(low, tokens / SWEEP_TOKENS)))


def _adapters(case: AdviceCase) -> Advice:
    choices = case.choices
    family = FAMILIES.get(case.model.architecture, OTHERS)
    at_rank = family.rate * (choices.lora_r / SWEEP_RANK) ** family.drift
    rate = min(CEILING, at_rank * batch_factor(case) * _run_factor(case))
    scale = adapter_scale(choices)
    usual = SWEEP_ALPHA / choices.lora_r
    rate = min(CEILING, rate * usual / scale)
    parts = [
        f"{family.title}: {family.rate:g} × (rank {choices.lora_r} / 16)^{family.drift:g}",
        f"× √({choices.effective_batch_size} of 128 sequences{_tokens_text(case)}) = {batch_factor(case):.2f}",
    ]
    if not math.isclose(usual, scale):
        parts.append(f"× {usual / scale:.2g} for an adapter scale of {scale:.3g} instead of 32 / r")
    parts += _run_texts(case)
    rule = " ".join([*parts, _beside(case)]).strip()
    return Advice(
        name="learning_rate",
        value=two_digits(rate),
        rule=rule,
        source=sources(src.SWEEP, src.TINKER, src.MUA, src.FACTORY),
        spread=(
            f"loses {family.mean_regret:g} % against the best rate, at most {family.worst_regret:g} % "
            f"({family.pairs} pairs of model and rank); {family.rivals}"
        ),
        guides="guide 1: 5e-5 to 2e-4; guide 4: 1e-4 to 1e-3; guide 5: 5e-5 (full training's)",
    )


def _tokens_text(case: AdviceCase) -> str:
    tokens = case.tokens_per_row
    return "" if tokens is None else f", rows of {tokens:,.0f} against {SWEEP_TOKENS} tokens"


def _beside(case: AdviceCase) -> str:
    """LLaMA-Factory's figure for the same batch, where the tokens are known."""
    tokens = case.tokens_per_row
    if tokens is None:
        return ""
    share = tokens * case.choices.effective_batch_size / FACTORY_TOKENS
    theirs = FACTORY_RATE * math.sqrt(share) * (LORA_OVER_FULL if case.adapters else 1.0)
    return f"(by LLaMA-Factory's tokens a batch: {two_digits(theirs):g})"


def _run_factor(case: AdviceCase) -> float:
    """The scenario's factor, or that of a short run: not both, they say the same."""
    return case.scenario.rate_factor if case.scenario.rate_factor != 1.0 else short_run(case.steps)


def _run_texts(case: AdviceCase) -> list[str]:
    factor = _run_factor(case)
    if case.scenario.rate_factor != 1.0:
        return [f"× {factor:g} ({case.scenario.title})"]
    return [] if factor < 1.005 else [f"× {factor:.2f} for a run of {case.steps} steps"]


def _full(case: AdviceCase) -> Advice:
    model = case.model
    exponent = FULL_EXPONENT.get(model.architecture)
    if exponent is not None:
        rate = FULL_BASE * (2000 / model.hidden_size) ** exponent
        rule = f"5e-5 × (2000 / hidden size {model.hidden_size})^{exponent:g} at 128 sequences"
        source = sources(src.TINKER, src.REGRET)
    else:
        rate = 5e-5 if model.parameters < 1e9 else 2e-5
        rule = f"{rate:g} at 128 sequences: 5e-5 below a billion parameters, 2e-5 above, a tenth of what adapters take"
        source = sources(src.GUIDE_5, src.LLAMA2, src.LESS)
    factor = math.sqrt(case.choices.effective_batch_size / FULL_BATCH)
    rate = min(CEILING, rate * factor * case.scenario.rate_factor)
    rule += f" × √({case.choices.effective_batch_size} / 128) = {factor:.2f}"
    if case.scenario.rate_factor != 1.0:
        rule += f" × {case.scenario.rate_factor:g} ({case.scenario.title})"
    return Advice(
        name="learning_rate",
        value=two_digits(rate),
        rule=" ".join([rule, _beside(case)]).strip(),
        source=sources(source, src.FACTORY),
        spread="not swept here: within a factor of two",
        guides="guide 5: 5e-5; guide 3: ten times lower than pre-training's 3e-4",
    )


def _encoder(case: AdviceCase) -> Advice:
    base = 5e-4 if case.adapters else 5e-5
    factor = math.sqrt(case.choices.effective_batch_size / ENCODER_BATCH) * case.scenario.rate_factor
    scale = 1.0
    if case.adapters:
        scale = SWEEP_ALPHA / case.choices.lora_r / adapter_scale(case.choices)
    return Advice(
        name="learning_rate",
        value=two_digits(min(CEILING, base * factor * scale)),
        rule=(
            f"small encoders: {base:g} at 32 sequences × √({case.choices.effective_batch_size} / 32)"
            + (f" × {case.scenario.rate_factor:g} ({case.scenario.title})" if case.scenario.rate_factor != 1.0 else "")
        ),
        source=sources(src.GUIDE_4, src.GUIDE_5, src.BERT),
        spread="BERT's authors tried 2e-5 to 5e-5 in full",
        guides="guide 4: 5e-4 to 1e-3 with adapters; guide 5: 5e-5 in full",
    )
