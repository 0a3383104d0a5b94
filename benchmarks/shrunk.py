"""A small network of any model type: its default config with every size that its class knows made small."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "hidden_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "intermediate_size_mlp", "shared_intermediate_size", "mamba_d_ssm"), 96),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "n_routed_experts", "num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "n_head_kv", "num_experts_per_tok", "moe_top_k", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"), 16),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank"), 32),
    **dict.fromkeys(("expert_ffn_hidden_size", "global_head_dim", "embedding_dim"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"), 512),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 1024),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_d_state"), 16),
    **dict.fromkeys(("mamba_n_heads", "index_n_heads"), 8),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
}


def small(model_type: str, cls: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A config.json of the type whose network takes some megabytes; the class itself may refuse it.

    own: what its class has no usable default of.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    given = copy.deepcopy(dict(own or {}))
    made = CONFIG_MAPPING[model_type](**given)
    config: dict[str, Any] = {"model_type": model_type, "architectures": [cls], **copy.deepcopy(dict(own or {}))}
    if getattr(made, "text_config", None) is not None:
        inner = made.text_config
        return {**config, "text_config": {"model_type": inner.model_type, **_sizes(inner)}}
    return config | _sizes(made)


def _sizes(made: Any) -> dict[str, Any]:
    own = vars(made)
    names = getattr(type(made), "attribute_map", {})
    found: dict[str, Any] = {}
    for key, size in SIZES.items():
        value = own.get(names.get(key, key))
        if isinstance(value, int) and not isinstance(value, bool) and (value >= size or key.endswith("_token_id")):
            found[names.get(key, key)] = size
    layers = next((found[name] for name in ("num_hidden_layers", "n_layer", "num_layers") if name in found), 0)
    if "attention_types" in own and layers:
        found["attention_types"] = [[["global", "local"], layers // 2]]
    kinds = own.get("layer_types")
    if isinstance(kinds, list) and layers and len(kinds) > layers:
        found["layer_types"] = kinds[-layers:]
    return found
