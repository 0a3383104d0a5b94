"""Small configs of every architecture and of its variants, and the transformers model of each on the meta device."""

from __future__ import annotations

import copy
from typing import Any

from planner.contract.architectures import ARCHITECTURES

LABELS = 3

_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_KV = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_GPT: dict[str, Any] = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 24, "vocab_size": 96}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_FALCON: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 96} | _IDS
_BERT = {key: value for key, value in _NO_KV.items() if key not in ("bos_token_id", "eos_token_id")}
_T5: dict[str, Any] = {"d_model": 32, "d_kv": 10, "d_ff": 48, "num_heads": 4, "num_layers": 2, "vocab_size": 96}
_MOE: dict[str, Any] = {"moe_intermediate_size": 12, "num_experts": 6, "num_experts_per_tok": 2}
_LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_SLIDING = {"use_sliding_window": True, "sliding_window": 8}


def _case(name: str, model_type: str, *parts: dict[str, Any], **keys: Any) -> tuple[str, dict[str, Any]]:
    config: dict[str, Any] = {"model_type": model_type, "num_labels": LABELS}
    for part in parts:
        config |= part
    return name, config | keys


_VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    _case("llama", "llama", _LLAMA),
    _case("llama-tied-biased", "llama", _LLAMA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    _case("llama-head-dim", "llama", _LLAMA, head_dim=12, rope_theta=5e5, rope_scaling=_LLAMA3_ROPE),
    _case("llama-no-kv-heads", "llama", _NO_KV, rope_parameters={"rope_theta": 7.0, "rope_type": "default"}),
    _case("mistral", "mistral", _LLAMA, sliding_window=None),
    _case("mistral-window", "mistral", _LLAMA, head_dim=20, rope_theta=1e6),
    _case("qwen2", "qwen2", _LLAMA, tie_word_embeddings=True),
    _case("qwen2-window", "qwen2", _LLAMA, _SLIDING, max_window_layers=2),
    _case("qwen3", "qwen3", _LLAMA, tie_word_embeddings=True, head_dim=16),
    _case("qwen3-biased", "qwen3", _LLAMA, attention_bias=True),
    _case("granite", "granite", _LLAMA, tie_word_embeddings=True, embedding_multiplier=12.0),
    _case("smollm3", "smollm3", _LLAMA, _SLIDING),
    _case("olmo", "olmo", _LLAMA),
    _case("olmo2", "olmo2", _LLAMA),
    _case("phi3", "phi3", _LLAMA, partial_rotary_factor=0.75, resid_pdrop=0.1),
    _case(
        "phi3-longrope",
        "phi3",
        _LLAMA,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    ),
    _case("stablelm", "stablelm", _LLAMA, use_qkv_bias=True),
    _case("stablelm-parallel", "stablelm", _LLAMA, use_parallel_residual=True, qk_layernorm=True),
    _case("starcoder2", "starcoder2", _LLAMA),
    _case("starcoder2-no-bias", "starcoder2", _LLAMA, use_bias=False, tie_word_embeddings=False, sliding_window=8),
    _case("gemma", "gemma", _LLAMA, head_dim=16),
    _case("gemma2", "gemma2", _LLAMA, head_dim=16),
    _case("gemma3", "gemma3_text", _LLAMA, head_dim=16, sliding_window_pattern=3, rope_local_base_freq=9.0),
    _case("mixtral", "mixtral", _LLAMA, num_local_experts=4),
    _case("qwen2-moe", "qwen2_moe", _LLAMA, _MOE, shared_expert_intermediate_size=20, mlp_only_layers=[1]),
    _case("qwen2-moe-window", "qwen2_moe", _LLAMA, _MOE, _SLIDING, shared_expert_intermediate_size=20, qkv_bias=False),
    _case("qwen3-moe", "qwen3_moe", _LLAMA, _MOE, head_dim=16),
    _case("qwen3-moe-sparse-step", "qwen3_moe", _LLAMA, _MOE, _SLIDING, decoder_sparse_step=2, attention_bias=True),
    _case("phi", "phi", _NO_KV, partial_rotary_factor=0.4, resid_pdrop=0.1),
    _case("phi-qk-norm", "phi", _LLAMA, qk_layernorm=True),
    _case("gpt2", "gpt2", _GPT, _IDS),
    _case("gpt2-inner-untied", "gpt2", _GPT, _IDS, n_inner=40, tie_word_embeddings=False),
    _case("gpt2-alias", "gpt2", _IDS, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=96),
    _case("gpt-bigcode", "gpt_bigcode", _GPT, _IDS),
    _case("gpt-bigcode-multi-head", "gpt_bigcode", _GPT, _IDS, multi_query=False),
    _case("gpt-neox", "gpt_neox", _NO_KV, rotary_pct=0.25, rotary_emb_base=10000),
    _case(
        "gpt-neox-serial",
        "gpt_neox",
        _NO_KV,
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=True,
    ),
    _case("falcon-7b-like", "falcon", _FALCON),
    _case("falcon-40b-like", "falcon", _FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=True),
    _case(
        "falcon-one-norm", "falcon", _FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1
    ),
    _case("falcon-serial", "falcon", _FALCON, parallel_attn=False, multi_query=False, bias=True, ffn_hidden_size=40),
    _case("bert", "bert", _BERT),
    _case("bert-untied", "bert", _BERT, tie_word_embeddings=False, type_vocab_size=3),
    _case("roberta", "roberta", _BERT, pad_token_id=1, max_position_embeddings=26, type_vocab_size=1),
    _case("xlm-roberta", "xlm-roberta", _BERT, pad_token_id=1, max_position_embeddings=26, type_vocab_size=1),
    _case("distilbert", "distilbert", dim=32, n_heads=4, n_layers=2, hidden_dim=40, vocab_size=96),
    _case("t5", "t5", _T5),
    _case("t5-gated", "t5", _T5, num_decoder_layers=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
)

_COVERED = {config["model_type"] for _, config in _VARIANTS}
CASES = (*_VARIANTS, *(_case(name, name, _LLAMA, head_dim=8) for name in ARCHITECTURES if name not in _COVERED))
"""Every architecture: in variants, or as its defaults make it at Llama's sizes."""


def case_task(config: dict[str, Any]) -> str:
    """The task that a config of this family has by default."""
    return ARCHITECTURES[config["model_type"]].task


def build_on_meta(config: dict[str, Any], task: str) -> Any:
    """The transformers model of a config without weights."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
    )
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    keys = copy.deepcopy(config)
    for unused in ("architectures", "torch_dtype", "dtype"):
        keys.pop(unused, None)
    built = CONFIG_MAPPING[keys.pop("model_type")](**keys)
    kind = {
        "causal": AutoModelForCausalLM,
        "masked": AutoModelForMaskedLM,
        "seq2seq": AutoModelForSeq2SeqLM,
        "classification": AutoModelForSequenceClassification,
    }[task]
    with torch.device("meta"):
        return kind.from_config(built)
