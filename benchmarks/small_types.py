"""Small networks of today's model types: few layers, a thousand words, every kind of layer that the type has.

`CONFIGS` maps a model type to (class, keys of its config.json that differ from `SMALL`).
"""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
DELTA = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 16,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("ArceeForCausalLM", {}),
    "olmo3": ("Olmo3ForCausalLM", {}),
    "gpt_oss": ("GptOssForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma4_text": (
        "Gemma4ForCausalLM",
        {"global_head_dim": 32, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    ),
    "qwen3_5_text": ("Qwen3_5ForCausalLM", DELTA),
    "qwen3_next": ("Qwen3NextForCausalLM", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "llama4_text": ("Llama4ForCausalLM", {"num_local_experts": 2, "intermediate_size_mlp": 96}),
    "cohere": ("CohereForCausalLM", {}),
    "cohere2": ("Cohere2ForCausalLM", {}),
    "ministral3": ("Ministral3ForCausalLM", {}),
    "glm": ("GlmForCausalLM", {}),
    "glm4": ("Glm4ForCausalLM", {}),
    "glm4_moe": ("Glm4MoeForCausalLM", {**ROUTED, "first_k_dense_replace": 1}),
    "exaone4": ("Exaone4ForCausalLM", {}),
    "apertus": ("ApertusForCausalLM", {}),
    "lfm2": ("Lfm2ForCausalLM", {"layer_types": ["conv", "full_attention"]}),
    "nemotron": ("NemotronForCausalLM", {}),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        {**MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 4, "num_experts_per_tok": 2}
        | {"shared_intermediate_size": 64},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {**ROUTED, **LATENT, "first_k_dense_replace": 1, "n_group": 1} | {"topk_group": 1, "num_key_value_heads": 4},
    ),
    "minimax_m2": ("MiniMaxM2ForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": ("OlmoeForCausalLM", {"num_experts": 4, "num_experts_per_tok": 2}),
    "ernie4_5": ("Ernie4_5ForCausalLM", {}),
    "hunyuan_v1_dense": ("HunYuanDenseV1ForCausalLM", {}),
    "helium": ("HeliumForCausalLM", {}),
    "falcon_h1": ("FalconH1ForCausalLM", {**MAMBA, "mamba_d_ssm": 128}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "modernbert": ("ModernBertForMaskedLM", {"num_key_value_heads": 4, "global_attn_every_n_layers": 2}),
}


def small(model_type: str, **more: Any) -> dict[str, Any]:
    """A config.json of the type."""
    cls, own = CONFIGS[model_type]
    return {"model_type": model_type, "architectures": [cls], **SMALL, **own, **more}
