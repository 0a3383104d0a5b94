"""Closed form against the traced step: mixtures of experts."""

from __future__ import annotations

from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.memory.step.case import Case
from planner.memory.step.program import run
from planner.models.sources import from_config
from tests.planner.memory.test_memory_encoders import compare

SHARED: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 2048,
}
SMALL: dict[str, Any] = {**SHARED, "intermediate_size": 512, "moe_intermediate_size": 64, "num_experts": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": {**SHARED, "model_type": "mixtral", "intermediate_size": 256, "num_local_experts": 8},
    "qwen2_moe": {**SMALL, "model_type": "qwen2_moe", "shared_expert_intermediate_size": 192},
    "qwen3_moe": {**SMALL, "model_type": "qwen3_moe", "head_dim": 32, "norm_topk_prob": True, "mlp_only_layers": [1]},
}
CASES: dict[str, dict[str, Any]] = {
    "lora": {"lora_targets": ("attention",)},
    "full": {"method": "full"},
    "full-checkpointed": {"method": "full", "gradient_checkpointing": True},
    "eager-padded": {"lora_targets": ("attention",), "attention": "eager", "padded": True},
    "on-experts": {"lora_targets": ("all-linear",), "lora_dropout": 0.0},
    "on-experts-mixed": {"lora_targets": ("all-linear",), "lora_dropout": 0.0, "precision": "bf16-mixed"},
    "on-experts-checkpointed": {
        "lora_targets": ("all-linear",),
        "lora_dropout": 0.0,
        "gradient_checkpointing": True,
        "stack": "builtin",
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("config", CONFIGS)
def test_agrees_with_the_trace(config: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers, grouped experts, the shared expert and dense layers between."""
    compare(CONFIGS[config], monkeypatch, **CASES[case])


def test_a_mixture_without_a_sparse_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer dense by the config: there is no router that could be made out of its turn."""
    compare({**CONFIGS["qwen3_moe"], "mlp_only_layers": [0, 1, 2, 3]}, monkeypatch, method="full")


def test_an_adapter_on_experts_keeps_the_whole_tensor_in_every_layer() -> None:
    """PEFT folds it into the weight, and the product keeps the sum: experts · out · in · w, twice a layer."""
    spec = from_config(CONFIGS["mixtral"], "tested")

    def kept(*targets: str) -> int:
        choices = TrainingChoices(lora_targets=targets, lora_dropout=0.0, lora_r=1, stack="peft")
        tape = run(Case(spec, choices, 0))
        return next(s for s in tape.ledger.segments if s.name == "loss").events[0][0]

    tensors = 8 * (2 * 256 * 128 + 256 * 128) * 2
    more = kept("all-linear") - kept("attention")
    assert 4 * tensors < more < 5 * tensors  # beside adapters and their state
