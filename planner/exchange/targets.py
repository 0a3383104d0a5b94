"""Llama's names for the parts of a layer in the words of another network."""

from __future__ import annotations

from planner.contract.spec import ModelSpec

ALIKE: dict[str, tuple[str, ...]] = {
    "q_proj": ("q_proj", "query", "q", "q_lin", "qkv_proj", "query_key_value", "Wqkv", "c_attn"),
    "k_proj": ("k_proj", "key", "k", "k_lin", "qkv_proj", "query_key_value", "Wqkv", "c_attn"),
    "v_proj": ("v_proj", "value", "v", "v_lin", "qkv_proj", "query_key_value", "Wqkv", "c_attn"),
    "o_proj": ("o_proj", "dense", "out_proj", "o", "out_lin"),
    "gate_proj": ("gate_proj", "gate_up_proj", "w1", "wi_0"),
    "up_proj": ("up_proj", "fc1", "gate_up_proj", "dense_h_to_4h", "c_fc", "w3", "wi_1", "wi"),
    "down_proj": ("down_proj", "fc2", "dense_4h_to_h", "w2", "wo"),
    "lm_head": ("lm_head", "embed_out"),
}
"""Names that transformers' networks have for one part; where three are one matrix (`qkv_proj`), an adapter is on it."""


def in_words_of(model: ModelSpec, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets as this network names them; a part that it doesn't have (a gate) is left out."""
    if not set(targets) <= set(ALIKE):
        return targets
    leaves = {module.path.rpartition(".")[2] for module in model.modules}
    found: list[str] = []
    for target in targets:
        here = next((name for name in ALIKE[target] if name in leaves), None)
        if here is not None and here not in found:
            found.append(here)
    return tuple(found) or targets
