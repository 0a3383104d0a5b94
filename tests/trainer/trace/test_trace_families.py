"""Every other family that the planner knows: the trace equals a real step there too."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.trace_support import SIZES, TINY, choices, measure
from trainer.trace import Setup, trace

MOE: dict[str, Any] = {
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("MistralForCausalLM", {"num_key_value_heads": 2, "sliding_window": 32}),
    "qwen3": ("Qwen3ForCausalLM", {"num_key_value_heads": 2, "head_dim": 16}),
    "phi3": ("Phi3ForCausalLM", {"num_key_value_heads": 2, "pad_token_id": 0}),
    "gemma": ("GemmaForCausalLM", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma3_text": ("Gemma3ForCausalLM", {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 32}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
    "falcon": ("FalconForCausalLM", {}),
    "stablelm": ("StableLmForCausalLM", {"num_key_value_heads": 2}),
    "olmo2": ("Olmo2ForCausalLM", {"num_key_value_heads": 2}),
    "smollm3": ("SmolLM3ForCausalLM", {"num_key_value_heads": 2, "pad_token_id": 0}),
    "distilbert": ("DistilBertForMaskedLM", {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 160}),
    "roberta": ("RobertaForMaskedLM", {}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**MOE, "shared_expert_intermediate_size": 96}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**MOE, "head_dim": 16}),
}


def config_of(family: str) -> dict[str, Any]:
    if family in TINY:
        return TINY[family]
    architecture, extra = FAMILIES[family]
    return {"model_type": family, "architectures": [architecture], **SIZES, **extra}


@pytest.mark.parametrize("family", [*FAMILIES, "granite", "cohere"])
def test_the_trace_equals_a_real_step(family: str) -> None:
    config, padded = config_of(family), family in ("mistral", "gemma3_text", "roberta")
    for changes in ({}, {"method": "full", "gradient_checkpointing": False}):
        # Fused experts take no dropout.
        chosen = choices(**({"lora_targets": ("attention",)} if family == "qwen3_moe" else {}) | changes)
        measured = measure(config, chosen, padded=padded)
        traced = trace(config, chosen, Setup(target="cpu", padded=padded))
        for instant in ("forward", "loss", "backward", "optimizer"):
            assert traced.instants[instant] == pytest.approx(measured[instant], rel=0.002), instant
