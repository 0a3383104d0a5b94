"""From-scratch model sizes of the training guides, as Llama-architecture configs."""

from __future__ import annotations

from typing import Any

from planner.contract.errors import InvalidInput

PRESETS: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 512},
    "medium": {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 6, "intermediate_size": 2048},
    "large": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072},
    "demo": {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 384},
}
"""Width, heads, layers and feed-forward width by name; `demo` is the embedded demonstration model."""


def names() -> tuple[str, ...]:
    """Names that `config` knows."""
    return tuple(PRESETS)


def config(name: str, *, vocab_size: int, max_positions: int = 1024, dropout: float = 0.0) -> dict[str, Any]:
    """config.json content of a preset; `dropout` is the attention dropout (the guides use 0.1)."""
    if name not in PRESETS:
        raise InvalidInput(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **PRESETS[name],
        "num_key_value_heads": PRESETS[name]["num_attention_heads"],
        "head_dim": PRESETS[name]["hidden_size"] // PRESETS[name]["num_attention_heads"],
        "vocab_size": vocab_size,
        "max_position_embeddings": max_positions,
        "attention_dropout": dropout,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "initializer_range": 0.02,
        "dtype": "float32",
    }
