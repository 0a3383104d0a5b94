"""A raw config.json to a complete one: aliases resolved, defaults filled in, derived keys worked out.

The defaults are data (`defaults/<model_type>.json`), taken from the config classes of the transformers release named
there and compared with the installed release by a test. Derivations follow the same classes: what they compute from
other keys (key-value heads, layer types, rotary parameters) is computed here, so that one completed config serves old
and new files alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput
from planner.models.sources import schema

Config = dict[str, Any]

DEFAULTS_FOLDER = Path(__file__).parent / "defaults"

NESTED_TEXT = {"gemma3": "gemma3_text"}
"""Multimodal model types whose `text_config` is planned, and the model type of that part."""


@cache
def defaults(model_type: str) -> Config:
    """`fields` (key to default), `aliases` (other spelling to key) and `rope_theta` of one model type."""
    data: Config = json.loads((DEFAULTS_FOLDER / f"{model_type}.json").read_text(encoding="utf-8"))
    return data


def text_part(raw: Mapping[str, Any]) -> Config:
    """The language model's part of a multimodal config; any other config as it is."""
    inner = raw.get("text_config")
    if not isinstance(inner, Mapping):
        return dict(raw)
    if raw.get("model_type") not in NESTED_TEXT:
        return _nested(raw, inner)
    part = {"model_type": NESTED_TEXT[raw["model_type"]], **inner}
    part["architectures"] = ["Gemma3ForCausalLM"]
    for key in ("tie_word_embeddings", "torch_dtype", "dtype"):
        if key in raw:
            part.setdefault(key, raw[key])
    return part


def _nested(raw: Mapping[str, Any], inner: Mapping[str, Any]) -> Config:
    """The text tower of any other multimodal model, where it says of what type it is."""
    if not isinstance(inner.get("model_type"), str) or inner["model_type"] in ("", "t5", "bart"):
        return dict(raw)
    part = {key: value for key, value in inner.items() if key != "architectures"}
    for key in ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config"):
        if key in raw:
            part.setdefault(key, raw[key])
    return part


def complete(raw: Mapping[str, Any]) -> Config:
    """The config with aliases under their main key, defaults filled in and derived keys worked out."""
    model_type = raw["model_type"]
    data = defaults(model_type)
    config: Config = dict(raw)
    for alias, key in data["aliases"].items():
        if alias in config:
            value = config.pop(alias)
            config.setdefault(key, value)
    schema.check(config, data["fields"])
    for key, value in data["fields"].items():
        config.setdefault(key, value)
    _derive_shapes(model_type, config, raw)
    _derive_layer_types(model_type, config, raw)
    if "rope_parameters" in data["fields"]:
        config["rope_parameters"] = _rope_parameters(model_type, config, raw, data["rope_theta"])
    return config


def _derive_shapes(model_type: str, config: Config, raw: Mapping[str, Any]) -> None:
    """Key-value heads, head width and feed-forward kind where a config leaves them to be worked out."""
    if config.get("num_key_value_heads", 0) is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    if model_type in ("llama", "mistral") and config["head_dim"] is None and _divisible(config):
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if model_type == "falcon":
        if config.get("n_embed") is not None:
            config["hidden_size"] = config.pop("n_embed")
        if config["num_kv_heads"] is None:
            config["num_kv_heads"] = config["num_attention_heads"]
        if config["ffn_hidden_size"] is None and isinstance(config["hidden_size"], int):
            config["ffn_hidden_size"] = 4 * config["hidden_size"]
    if model_type == "gpt_bigcode":
        config["num_key_value_heads"] = 1 if config["multi_query"] else config["n_head"]
    if model_type == "t5":
        if config["num_decoder_layers"] is None:
            config["num_decoder_layers"] = config["num_layers"]
        kind = str(config["feed_forward_proj"])
        gate, _, name = kind.rpartition("-")
        if gate not in ("", "gated"):
            raise InvalidInput(f"feed_forward_proj {kind!r} is neither an activation nor gated-<activation>")
        config["is_gated_act"] = gate == "gated"
        config["dense_act_fn"] = "gelu_new" if kind == "gated-gelu" else name
        # T5 1.1 files say that the head isn't tied; transformers 5 ties it all the same and reads the key as a scale.
        config["scale_decoder_outputs"] = raw.get("tie_word_embeddings") is not False
        config["tie_word_embeddings"] = True
    if model_type in ("qwen2_moe", "qwen3_moe") and config["mlp_only_layers"] is None:
        config["mlp_only_layers"] = []


def _divisible(config: Config) -> bool:
    """Whether the hidden size splits evenly over the heads; where it doesn't, the builder refuses it by name."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return isinstance(heads, int) and isinstance(hidden, int) and heads > 0 and hidden % heads == 0


def _derive_layer_types(model_type: str, config: Config, raw: Mapping[str, Any]) -> None:
    """Which layers use the attention window, as `layer_types` of newer configs says it."""
    count = config.get("num_hidden_layers")
    if model_type in ("qwen2", "qwen3", "qwen3_moe") and not config["use_sliding_window"]:
        config["sliding_window"] = None
    if model_type == "qwen2_moe" and not config["use_sliding_window"]:
        config["sliding_window"] = 0
    if not isinstance(count, int) or count < 0:
        return
    if model_type == "smollm3" and config["no_rope_layers"] is None:
        interval = config["no_rope_layer_interval"]
        config["no_rope_layers"] = [int((layer + 1) % interval != 0) for layer in range(count)]
    if model_type == "gemma3_text":
        config["_sliding_window_pattern"] = raw.get("sliding_window_pattern") or 6
    if "layer_types" not in config or config["layer_types"] is not None:
        return
    window = config.get("sliding_window")

    def slides(layer: int) -> bool:
        if model_type in ("qwen2", "qwen3"):
            return window is not None and layer >= config["max_window_layers"]
        if model_type == "qwen2_moe":
            return (layer + 1) % 2 != 0 and layer < config["max_window_layers"] and config["use_sliding_window"]
        if model_type == "gemma2":
            return (layer + 1) % 2 != 0
        if model_type == "gemma3_text":
            return (layer + 1) % int(config["_sliding_window_pattern"]) != 0
        if model_type == "smollm3":
            return config["use_sliding_window"] and window is not None and not config["no_rope_layers"][layer]
        return False

    config["layer_types"] = ["sliding_attention" if slides(layer) else "full_attention" for layer in range(count)]


def _rope_parameters(model_type: str, config: Config, raw: Mapping[str, Any], default_theta: Any) -> Config:
    """Rotary parameters in the newer form, from either form (`rope_theta` + `rope_scaling`, `rotary_pct`)."""
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if model_type == "gemma3_text":
        return _rope_by_layer_type(raw, default_theta)
    rope = dict(given)
    if model_type == "gpt_neox":
        rope.setdefault("rope_theta", raw.get("rotary_emb_base", default_theta))
        rope.setdefault("partial_rotary_factor", raw.get("rotary_pct", 0.25))
    else:
        rope.setdefault("rope_theta", raw.get("rope_theta") or default_theta)
        fraction = raw.get("partial_rotary_factor", {"phi": 0.5, "stablelm": 0.25, "phi3": 1.0}.get(model_type))
        if fraction is not None:
            rope.setdefault("partial_rotary_factor", fraction)
    rope.setdefault("rope_type", rope.get("type", "default"))
    if model_type == "phi3" and rope["rope_type"] in ("su", "yarn"):
        rope["rope_type"] = "longrope"
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        if config.get("original_max_position_embeddings") is not None:
            rope["original_max_position_embeddings"] = config["original_max_position_embeddings"]
        else:
            rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    return rope


def _rope_by_layer_type(raw: Mapping[str, Any], default_theta: Mapping[str, float]) -> Config:
    """Gemma 3: one rotary base for sliding layers, another for the others."""
    given = raw.get("rope_parameters") or {}
    full = {**(given.get("full_attention") or {"rope_type": "default"}), **(raw.get("rope_scaling") or {})}
    full.setdefault("rope_theta", raw.get("rope_theta", default_theta["global"]))
    full.setdefault("rope_type", full.get("type", "default"))
    sliding = dict(given.get("sliding_attention") or {"rope_type": "default"})
    sliding.setdefault("rope_theta", raw.get("rope_local_base_freq", default_theta["local"]))
    return {"sliding_attention": sliding, "full_attention": full}
