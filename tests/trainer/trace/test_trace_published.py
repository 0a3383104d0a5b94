"""The trace at full size against figures that others measured on real GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from planner.contract.choices import TrainingChoices
from planner.contract.units import GIB
from trainer.trace import Setup, trace

FMS = "github.com/foundation-model-stack/fms-acceleration/blob/876e2ed6fc/scripts/benchmarks/refs/"
"""A100-80GB, transformers Trainer, packed 4096, bf16; `max_memory_allocated` (read 2026-11)."""
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}
POWERLM = {
    "architectures": ["GraniteForCausalLM"],
    "model_type": "granite",
    "attention_dropout": 0.1,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "logits_scaling": 9.0,
    "max_position_embeddings": 4096,
    "num_attention_heads": 36,
    "num_hidden_layers": 40,
    "num_key_value_heads": 36,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LORA = {"lora_r": 16, "lora_alpha": 16, "lora_dropout": 0.1, "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj")}
AMP = {"autocast": torch.bfloat16, "kbit_preparation": False}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], int]] = [
    # By day the last alone, which has most in it: 4-bit weights, adapters, autocast.
    ("a100_80gb.csv 10", MISTRAL, {"method": "full", "batch_size": 4, "transformers_version": "4.48"}, {}, 72434837504),
    ("a100_80gb.csv 36", MISTRAL, {"batch_size": 8, "transformers_version": "4.48", **LORA}, {}, 38742912512),
    (
        "a100_80gb_granite.csv 4",
        POWERLM,
        {"method": "full", "batch_size": 8, "transformers_version": "4.45"},
        {},
        47059390976,
    ),
    (
        "a100_80gb_granite.csv 24",
        POWERLM,
        {"method": "qlora", "batch_size": 8, "transformers_version": "4.45", **LORA},
        AMP,
        28134687232,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "config", "settings", "variant", "measured"),
    [*(pytest.param(*case, marks=pytest.mark.nightly) for case in CASES[:-1]), CASES[-1]],
    ids=lambda v: str(v)[:28],
)
def test_published_runs_are_met_within_a_thousandth(
    row: str, config: dict[str, Any], settings: dict[str, Any], variant: dict[str, Any], measured: int
) -> None:
    if settings.get("method") == "qlora":
        pytest.importorskip("bitsandbytes")
    common = {"stack": "peft", "attention": "flash", "max_length": 4096, "gradient_accumulation_steps": 1}
    result = trace(config, TrainingChoices(**{**common, **settings}), Setup(**variant))
    assert result.allocated_peak_bytes == pytest.approx(measured, rel=0.001), row


PHI2 = {
    "architectures": ["PhiForCausalLM"],
    "model_type": "phi",
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.4,
    "resid_pdrop": 0.1,
    "vocab_size": 51200,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpointing", "keep_logits", "expected"),
    [(False, False, 126.0), pytest.param(True, True, 18.8, marks=pytest.mark.nightly)],
)
def test_phi_2_at_full_size(checkpointing: bool, keep_logits: bool, expected: float) -> None:
    """Batch 8 x 2048, LoRA r8 on all linear layers of the blocks."""
    chosen = TrainingChoices(
        stack="peft",
        batch_size=8,
        max_length=2048,
        gradient_accumulation_steps=1,
        lora_targets=("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
        gradient_checkpointing=checkpointing,
        keep_logits=keep_logits,
    )
    result = trace(PHI2, chosen)
    assert result.allocated_peak_bytes / GIB == pytest.approx(expected, abs=0.06)
    assert result.binding_instant == "backward"
