"""Adapters and what regularises them: rank, alpha, dropout, targets, weight decay, clipping."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planner.contract.errors import TuneplanError
from planner.contract.records import Advice
from planner.contract.sentence import named, sentence
from planner.decide import advice_sources as src
from planner.decide.advice_case import LARGE_DATA, SMALL_DATA, AdviceCase
from planner.decide.advice_sources import sources

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

RANKS = (8, 16, 32, 64, 128, 256)
ALPHA = 32
"""At every rank: the rate's rule is fitted with it. Twice the rank would make the scale 2 at each."""
SMALL_DROPOUT, SURE_SMALL = 0.05, 500
"""Dropout for so few examples; it falls to 0 at `SMALL_DATA`."""


def advised_dropout(data: DatasetProfile | None) -> float:
    """Adapter dropout: 0, for fewer than 1,000 examples up to 0.05."""
    if data is None:
        return 0.0
    share = (SMALL_DATA - data.examples) / (SMALL_DATA - SURE_SMALL)
    return round(SMALL_DROPOUT * min(1.0, max(0.0, share)), 2)


def rank(case: AdviceCase) -> Advice:
    """Rank by what the data holds."""
    now = case.choices.lora_r
    guides = "guide 1: 8 to 32 by difficulty"
    if case.data is None:
        rule = f"{now}; with data, the smallest whose adapters have as many parameters as it has completion tokens"
        return Advice(
            name="lora_r", value=now, rule=rule, source=sources(src.REGRET, src.TINKER, src.GUIDE_1), guides=guides
        )
    tokens = case.data.completion_tokens
    wanted = _rank_for(case, tokens)
    source = sources(src.REGRET, src.TINKER, src.GUIDE_1)
    if wanted is None:
        return Advice(name="lora_r", value=now, rule=f"{now}; 8 to 32 by difficulty", source=source, guides=guides)
    if wanted <= now:
        rule = f"{now} holds the data: adapter parameters are at least its {tokens:,} completion tokens"
        return Advice(name="lora_r", value=now, rule=rule, source=source, guides=guides)
    rule = sentence(
        f"adapters learn like full training while their parameters are at least the {tokens:,} completion tokens: ",
        named("lora_r"),
        f" {wanted} (this plan has {now})",
    )
    return Advice(name="lora_r", value=wanted, rule=rule, source=source, guides=guides)


def _rank_for(case: AdviceCase, tokens: int) -> int | None:
    """Smallest usual rank whose parameters reach `tokens`; None where adapters cannot be counted."""
    from planner.models import lora

    try:
        for candidate in RANKS:
            if lora.trainable_parameters(case.model, replace(case.choices, lora_r=candidate)) >= tokens:
                return candidate
    except TuneplanError:
        return None
    return RANKS[-1]


def alpha(case: AdviceCase) -> Advice:
    """The scale of the adapters; what differs from it is in the rate."""
    return Advice(
        name="lora_alpha",
        value=ALPHA,
        rule="32 at every rank: the rate is fitted with it, and with the rank in the denominator hardly drifts",
        source=sources(src.REGRET, src.MUA, src.ALPHA),
        spread="another alpha: rate × 32 / alpha",
        guides="guides 1 and 2: 32, or 2 to 4 times the rank",
    )


def dropout(case: AdviceCase) -> Advice:
    """Share of an adapter's inputs that is dropped."""
    value = advised_dropout(case.data)
    rule = "0: adapters are small against the data; 0.05 up to 500 examples, falling to 0 at 1,000"
    if case.data is not None and value > 0:
        rule = f"{value:g} for {case.data.examples} examples: few are soon learnt by heart"
    return Advice(
        name="lora_dropout",
        value=value,
        rule=rule,
        source=sources(src.UNSLOTH, src.AXOLOTL, src.LESS),
        spread="Unsloth and LLaMA-Factory 0, Axolotl 0.05",
        guides="guide 1: 0.03 to 0.1",
    )


def targets(case: AdviceCase) -> Advice:
    """Which layers get adapters."""
    return Advice(
        name="lora_targets",
        value="all-linear",
        rule="all linear layers: all beat MLP only, MLP only beats attention only (the first paper took q and v only)",
        source=sources(src.LESS, src.REGRET, src.QLORA, src.LORA),
        guides="guide 1: the linear layers of phi-2",
    )


def variant(case: AdviceCase) -> list[Advice]:
    """Said only of a variant: it is no claim to quality."""
    if case.choices.lora_variant == "lora":
        return []
    rule = "nine variants came within 1 to 2 % of plain LoRA once each had its own rate: tune this one's"
    return [
        Advice(
            name="lora_variant", value=case.choices.lora_variant, rule=rule, source=sources(src.VARIANTS, src.RSLORA)
        )
    ]


def weight_decay(case: AdviceCase) -> Advice:
    """Pull towards 0."""
    large = case.data is not None and case.data.examples > LARGE_DATA
    value = 0.001 if case.adapters or large else 0.01
    rule = "0.01 in full training, 0.001 above 100,000 examples"
    if case.adapters:
        rule = "0.001, next to none: adapters start at 0 and regularise by themselves"
    return Advice(
        name="weight_decay",
        value=value,
        rule=rule,
        source=sources(src.UNSLOTH, src.LESS) if case.adapters else sources(src.GUIDE_4, src.GUIDE_5),
        spread="Unsloth 0.001, Axolotl and LLaMA-Factory 0",
        guides="guide 4: 0.01 to 0.1 for small data, 0.001 to 0.01 for large; guide 5: 0.01",
    )


def clipping(case: AdviceCase) -> Advice:
    """Largest norm of the gradient."""
    quantized = case.choices.method == "qlora"
    rule = "1.0 keeps one bad batch from undoing the run" + ("; the QLoRA authors clip at 0.3" if quantized else "")
    return Advice(
        name="max_grad_norm",
        value=case.choices.max_grad_norm,
        rule=rule,
        source=sources(src.GUIDE_3, src.GUIDE_5, *([src.QLORA] if quantized else [])),
    )


def optimizer(case: AdviceCase) -> Advice:
    """What 8-bit state would save, which is little for adapters."""
    rule = "AdamW; its 8-bit form is many recipes' default and saves little here: adapters have little state"
    if not case.adapters:
        rule = "AdamW; its 8-bit form holds a quarter of the state, most of what full training takes"
    return Advice(
        name="optimizer",
        value=case.choices.optimizer,
        rule=rule,
        source=sources(src.UNSLOTH, src.AXOLOTL),
        spread="Unsloth and Axolotl adamw-8bit, LLaMA-Factory and TRL adamw",
        guides="guide 5: AdamW",
    )
