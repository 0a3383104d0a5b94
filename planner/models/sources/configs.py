"""A raw config.json to a complete one: aliases resolved, defaults filled in, derived keys worked out.

The defaults are data (`defaults/<model_type>.json`), taken from the config classes of the transformers release named
there and compared with the installed release by a test. Derivations follow the same classes: what they compute from
other keys (key-value heads, layer types, rotary parameters) is computed here, so that one completed config serves old
and new files alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planner.contract import architectures
from planner.contract.architecture import Architecture
from planner.contract.shown import shown
from planner.models.sources import schema
from planner.models.sources.families import registry
from planner.models.sources.schema import Config

DEFAULTS_FOLDER = Path(__file__).parent / "defaults"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a model type's config class has of itself."""

    fields: Config
    """Key to default; of layers' types those that repeat."""
    aliases: dict[str, str]
    """Other spelling to key."""
    rope_theta: float | Mapping[str, float] | None
    """The rotary base; by kind of layer where those differ."""


@cache
def defaults(model_type: str) -> Defaults:
    """The defaults of one model type that can be planned."""
    data = json.loads((DEFAULTS_FOLDER / f"{model_type}.json").read_text(encoding="utf-8"))
    return Defaults(data["fields"], data["aliases"], data["rope_theta"])


def complete(raw: Mapping[str, object]) -> Config:
    """The config with aliases under their main key, defaults filled in and derived keys worked out."""
    facts = architectures.of(str(raw["model_type"]))
    data = defaults(facts.name)
    config: Config = dict(raw)
    for alias, key in data.aliases.items():
        if alias in config:
            value = config.pop(alias)
            config.setdefault(key, value)
    schema.check(config, data.fields)
    for key, value in data.fields.items():
        config.setdefault(key, value)
    _derive_shapes(facts, config)
    derive = registry.deriver(facts.name)
    if derive is not None:
        derive(config, raw)
    _derive_layer_types(facts, config, raw)
    if "rope_parameters" in data.fields:
        config["rope_parameters"] = _rope_parameters(facts, config, raw, data.rope_theta)
    return config


def _derive_shapes(facts: Architecture, config: Config) -> None:
    """Key-value heads and head width where a config leaves them to be worked out."""
    if config.get("num_key_value_heads", 0) is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    if facts.derives_head_dim and config["head_dim"] is None:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        # Where it doesn't split evenly, the builder refuses it by name.
        if isinstance(heads, int) and isinstance(hidden, int) and heads > 0 and hidden % heads == 0:
            config["head_dim"] = hidden // heads
    if facts.experts is not None and facts.experts.stepped and config["mlp_only_layers"] is None:
        config["mlp_only_layers"] = []


def _derive_layer_types(facts: Architecture, config: Config, raw: Mapping[str, object]) -> None:
    """Which layers rotate and which use the attention window, as `layer_types` of newer configs says it."""
    count = config.get("num_hidden_layers")
    if facts.window_switch and not config["use_sliding_window"]:
        config["sliding_window"] = None if facts.window_switch == "none" else 0
    if not isinstance(count, int) or count < 0:
        return
    if facts.unrotated_interval and config["no_rope_layers"] is None:
        interval = _whole(config["no_rope_layer_interval"])
        config["no_rope_layers"] = [int((layer + 1) % interval != 0) for layer in range(count)]
    period = facts.window_period
    if facts.window_period_key:
        config[f"_{facts.window_period_key}"] = period = _whole(raw.get(facts.window_period_key) or period)
    cycle = config.get("layer_types")
    if raw.get("layer_types") is None and isinstance(cycle, list):  # the config class's own, as many as repeat
        config["layer_types"] = [cycle[layer % len(cycle)] for layer in range(count)]
    if "layer_types" not in config or cycle is not None:
        return
    sliding = [_slides(facts, config, layer, period) for layer in range(count)]
    config["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in sliding]


def _slides(facts: Architecture, config: Config, layer: int, period: int) -> bool:
    """Whether a layer uses the window where the config doesn't say."""
    window, rule = config.get("sliding_window"), facts.window_layers
    if rule == "all":
        return window is not None
    if rule == "late":
        return window is not None and layer >= _whole(config["max_window_layers"])
    if rule == "early_odd":
        early = layer < _whole(config["max_window_layers"])
        return (layer + 1) % 2 != 0 and early and bool(config["use_sliding_window"])
    if rule == "period":
        return (layer + 1) % period != 0
    if rule == "unrotated":
        rotates = config["no_rope_layers"]
        assert isinstance(rotates, list)
        return bool(config["use_sliding_window"]) and window is not None and not rotates[layer]
    return False


def _whole(value: object) -> int:
    """A number that `schema` has checked."""
    assert isinstance(value, int)
    return value


def _part(value: object) -> Config:
    """An object, or an empty one where there is none; null in it is as good as nothing."""
    if value and not isinstance(value, Mapping):
        raise TypeError(f"{shown(value)} is no object")
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, Mapping) else {}


def _rope_parameters(
    facts: Architecture, config: Config, raw: Mapping[str, object], theta: float | Mapping[str, float] | None
) -> Config:
    """Rotary parameters in the newer form, from either form (`rope_theta` + `rope_scaling`, `rotary_pct`)."""
    if isinstance(theta, Mapping):
        return _rope_by_layer_type(raw, theta)
    rope = _part(raw.get("rope_scaling") or raw.get("rope_parameters") or config.get("rope_parameters"))
    base_key, share_key = facts.rotary_keys
    rope.setdefault("rope_theta", raw.get(base_key) or theta)
    share = facts.rotary_share if raw.get(share_key) is None else raw[share_key]
    if share is not None:
        rope.setdefault("partial_rotary_factor", share)
    rope.setdefault("rope_type", rope.get("type", "default"))
    if rope["rope_type"] in facts.longrope_names:
        rope["rope_type"] = "longrope"
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        if config.get("original_max_position_embeddings") is not None:
            rope["original_max_position_embeddings"] = config["original_max_position_embeddings"]
        else:
            rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    return rope


def _rope_by_layer_type(raw: Mapping[str, object], theta: Mapping[str, float]) -> Config:
    """One rotary base for sliding layers, another for the others."""
    given = _part(raw.get("rope_parameters"))
    full = {**(_part(given.get("full_attention")) or {"rope_type": "default"}), **_part(raw.get("rope_scaling"))}
    full.setdefault("rope_theta", raw.get("rope_theta", theta["global"]))
    full.setdefault("rope_type", full.get("type", "default"))
    sliding = dict(_part(given.get("sliding_attention")) or {"rope_type": "default"})
    sliding.setdefault("rope_theta", raw.get("rope_local_base_freq", theta["local"]))
    return {"sliding_attention": sliding, "full_attention": full}
