"""Type and range of every key of a config.json that is read. What no network could have is refused by the key's name.

Keys that nothing here reads may hold what they like: new releases bring new ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeGuard

from planner.contract.errors import InvalidInput
from planner.contract.shown import shown

MAX_LAYERS = 512
"""Four times the deepest published decoder; a step's program takes time with every layer."""
MAX_HEADS = 4096
"""Also of experts."""
MAX_WIDTH = 2**20
"""Of hidden states, heads and feed-forward parts; the widest published is 2**18."""
MAX_SIZE = 10**8
"""Rows of an embedding table or positions."""
MAX_PARAMETERS = 10**14
"""Of the whole model, fifty times the largest published; beyond, bytes could leave 64 bits."""

Config = dict[str, object]
"""A config.json, or part of one."""
Rule = tuple[Callable[[object], bool], str]
"""Whether a value is right, and what it must be."""


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(low: int, high: int) -> Rule:
    return (
        lambda value: _is_whole(value) and low <= value <= high,
        f"a whole number of at least {low} and at most {high}",
    )


def _all(each: Callable[[object], bool], what: str) -> Rule:
    return lambda value: isinstance(value, list) and all(map(each, value)), f"a list of {what}"


_LAYERS = _whole(1, MAX_LAYERS)
_HEADS = _whole(1, MAX_HEADS)
_WIDTH = _whole(1, MAX_WIDTH)
_SHARE: Rule = (lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)")
_POSITIVE: Rule = (lambda value: _is_number(value) and value > 0, "a number above 0")
_FRACTION: Rule = (lambda value: _is_number(value) and 0 < value <= 1, "a number above 0 and at most 1")
_FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")
_NAME: Rule = (lambda value: isinstance(value, str) and 0 < len(value) <= 200, "a name")
_OBJECT: Rule = (lambda value: isinstance(value, Mapping), "an object")
_INDICES = _all(lambda item: _is_whole(item) and 0 <= item < MAX_LAYERS, "layers' indices")

RULES: dict[str, Rule] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_experts_per_tok"), _HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts"), _whole(0, MAX_HEADS)),
    **dict.fromkeys(("hidden_size", "n_embd", "n_embed", "d_model", "dim", "head_dim", "d_kv"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "hidden_dim", "ffn_hidden_size"), _WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), _WIDTH),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions", "type_vocab_size"), _whole(1, MAX_SIZE)),
    "relative_attention_num_buckets": _whole(1, MAX_SIZE),
    "original_max_position_embeddings": _whole(1, MAX_SIZE),
    **dict.fromkeys(("sliding_window", "max_window_layers"), _whole(0, 10**9)),
    **dict.fromkeys(("sliding_window_pattern", "no_rope_layer_interval", "decoder_sparse_step"), _whole(1, 10**6)),
    "num_ln_in_parallel_attn": _whole(1, 2),
    "num_labels": _whole(1, 10**6),
    **dict.fromkeys(("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "resid_pdrop"), _SHARE),
    **dict.fromkeys(("residual_dropout", "hidden_dropout", "hidden_dropout_prob", "embedding_dropout"), _SHARE),
    **dict.fromkeys(("embd_pdrop", "dropout", "dropout_rate", "classifier_dropout", "seq_classif_dropout"), _SHARE),
    "router_jitter_noise": _SHARE,
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), _FRACTION),
    **dict.fromkeys(("rope_theta", "rotary_emb_base", "rope_local_base_freq", "clip_qkv"), _POSITIVE),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _POSITIVE),
    **dict.fromkeys(("attention_bias", "mlp_bias", "bias", "use_bias", "qkv_bias", "use_qkv_bias"), _FLAG),
    **dict.fromkeys(("tie_word_embeddings", "is_decoder", "add_cross_attention", "alibi", "multi_query"), _FLAG),
    **dict.fromkeys(("new_decoder_architecture", "parallel_attn", "use_parallel_residual"), _FLAG),
    **dict.fromkeys(("qk_layernorm", "use_sliding_window", "sinusoidal_pos_embds", "norm_topk_prob"), _FLAG),
    **dict.fromkeys(("reorder_and_upcast_attn", "output_router_logits"), _FLAG),
    **dict.fromkeys(("hidden_act", "hidden_activation", "activation", "activation_function"), _NAME),
    **dict.fromkeys(("feed_forward_proj", "position_embedding_type"), _NAME),
    **dict.fromkeys(("rope_scaling", "rope_parameters", "quantization_config", "text_config", "id2label"), _OBJECT),
    "layer_types": _all(lambda item: item in ("full_attention", "sliding_attention"), "full or sliding_attention"),
    "no_rope_layers": _all(lambda item: _is_whole(item) and item in (0, 1), "0 and 1"),
    "mlp_only_layers": _INDICES,
    "architectures": _all(lambda item: isinstance(item, str), "names"),
}
"""By key; null is right wherever it is the default, or the key is none of the model type's own."""

ROPE: dict[str, Rule] = {
    **dict.fromkeys(("rope_type", "type"), _NAME),
    "partial_rotary_factor": _FRACTION,
    "rope_theta": _POSITIVE,
    "factor": _POSITIVE,
    "original_max_position_embeddings": _whole(1, MAX_SIZE),
}
"""The same for what stands inside `rope_scaling` and `rope_parameters`."""


def check(config: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """Raises `InvalidInput` for the first key whose value is wrong; `defaults` are the model type's own keys."""
    for key, value in config.items():
        if key in RULES:
            _check(key, value, RULES[key], nullable=defaults.get(key) is None or key == "sliding_window")
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.get(name) or {}
        if not isinstance(rope, Mapping):
            continue
        parts = {name: rope, **{f"{name}.{key}": part for key, part in rope.items() if isinstance(part, Mapping)}}
        for place, part in parts.items():
            for key, value in part.items():
                if key in ROPE:
                    _check(f"{place}.{key}", value, ROPE[key], nullable=True)


def _check(name: str, value: object, rule: Rule, *, nullable: bool) -> None:
    right, wanted = rule
    if value is None and nullable:
        return
    if not right(value):
        raise InvalidInput(f"{name} is {shown(value)}, but must be {wanted}")
