"""Rules of thumb and public formulas, on the same configurations: bytes from a model and its choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec
from planner.models.lora import trainable_parameters


@dataclass(frozen=True, slots=True)
class Formula:
    """One rule with its source."""

    name: str
    source: str
    compute: Callable[[ModelSpec, TrainingChoices], float]


def _width(choices: TrainingChoices) -> float:
    """Bytes of a stored weight; half a byte and a bit over for 4-bit ones."""
    if choices.method == "qlora":
        return 0.5
    return 4 if choices.precision == "fp32" or choices.precision.endswith("-mixed") else 2


def _weights(spec: ModelSpec, choices: TrainingChoices) -> float:
    return spec.parameters * _width(choices)


def _states(spec: ModelSpec, choices: TrainingChoices) -> float:
    """16 bytes for what is trained (weight, gradient, master copy, two moments), the stored width for the rest."""
    trained = trainable_parameters(spec, choices)
    frozen = 0 if choices.method == "full" else spec.parameters
    return 16 * trained + frozen * _width(choices)


def _layers(spec: ModelSpec) -> int:
    return spec.total_layers


def _activations(spec: ModelSpec, choices: TrainingChoices) -> float:
    """s·b·h·L·(34 + 5·a·s/h) in 16 bit; 34 alone where attention is never written out; s·b·h·L·2 recomputed."""
    tokens = choices.batch_size * choices.max_length
    base = tokens * spec.hidden_size * _layers(spec)
    if choices.checkpointed_layers(spec.total_layers):
        return 2.0 * base
    scores = 5 * spec.num_heads * choices.max_length / spec.hidden_size if choices.attention == "eager" else 0
    return base * (34 + scores)


FORMULAS = (
    Formula("2 × weights", "rule of thumb for adapters", lambda m, c: 2 * _weights(m, c)),
    Formula("4 × weights", "`accelerate estimate-memory`, training with Adam", lambda m, c: 4 * _weights(m, c)),
    Formula("16 bytes per trained parameter", "Rajbhandari et al. 2020 (ZeRO), frozen weights as stored", _states),
    Formula(
        "16 bytes + layer activations",
        "Korthikanti et al. 2022, equations 1, 2 and the full-recomputation limit",
        lambda m, c: _states(m, c) + _activations(m, c),
    ),
    Formula(
        "16 bytes + activations + logits",
        "the same with 4·s·b·v for the logits (section 4.3 there)",
        lambda m, c: _states(m, c) + _activations(m, c) + 4.0 * c.batch_size * c.max_length * m.vocab_size,
    ),
)

GUIDES = (
    # (batch size, length, bytes that the guide gives), phi-2 with LoRA r8 on a 24 GB card
    (8, 2048, 20 * 10**9),
    (4, 1024, 16 * 10**9),
    (2, 768, 12 * 10**9),
)
"""What a widespread training guide prints for phi-2 with LoRA, without saying whether layers are checkpointed."""
