"""The text tower of a multimodal model: its config as that of a language model, and its names in the whole model.

What is trained on text alone is the tower: images' parts are neither loaded nor planned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.contract import architectures, quantised

Config = dict[str, Any]
SAID_ABOVE = ("tie_word_embeddings", "torch_dtype", "dtype", *quantised.KEYS)
"""Keys that a multimodal config may hold beside its `text_config` in place of within it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Same:
    """A tower that transformers has no head of its own for, and that computes what another type does."""

    model_type: str
    defaults: Mapping[str, object] = field(default_factory=dict)
    """What its config class takes where a config is silent, and the other type's class takes otherwise."""


_QWEN2 = Same(model_type="qwen2", defaults={"rms_norm_eps": 1e-5, "rope_theta": 1e6})
SAME: dict[str, Same] = {
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3_vl_text": Same(model_type="qwen3", defaults={"rope_theta": 5e5}),
    "qwen3_vl_moe_text": Same(model_type="qwen3_moe", defaults={"rope_theta": 5e5, "norm_topk_prob": True}),
}
"""By `model_type` of the text part (transformers 5.23, models/qwen*_vl*/modeling_*.py, 2026-11-27). Their rotary
positions have three parts (time, height, width), equal for text: then the rotation is the plain one, to the last bit.
"""
FLAT = {"qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text"}
"""Multimodal types whose published configs hold the text part's keys at their top."""
_OF_IMAGES = ("vision_config", "audio_config", "architectures")


def text_part(raw: Mapping[str, object]) -> Config:
    """The language model's part of a multimodal config; any other config as it is."""
    inner = raw.get("text_config")
    if not isinstance(inner, Mapping):
        flat = FLAT.get(str(raw.get("model_type")))
        return dict(raw) if flat is None else _as_plain({**raw, "model_type": flat})
    for record in architectures.ARCHITECTURES.values():
        multimodal, head = record.text_of
        if multimodal and multimodal == raw.get("model_type"):
            return _with_above(raw, {"model_type": record.name, **inner, "architectures": [head]})
    model_type = inner.get("model_type")
    if not isinstance(model_type, str) or not model_type or architectures.of(model_type).task == "seq2seq":
        return dict(raw)
    return _as_plain(_with_above(raw, {key: value for key, value in inner.items() if key != "architectures"}))


def _with_above(raw: Mapping[str, object], part: Config) -> Config:
    return {**{key: raw[key] for key in SAID_ABOVE if key in raw}, **part}


def _as_plain(part: Config) -> Config:
    """A text part in the words of the type that computes the same; any other as it is."""
    same = SAME.get(part["model_type"])
    if same is None:
        return part
    rotary = [key for key in ("rope_parameters", "rope_scaling") if isinstance(part.get(key), Mapping)]
    made = {key: value for key, value in part.items() if key not in _OF_IMAGES}
    made.update({key: _plain_rotation(part[key]) for key in rotary})
    made["model_type"] = same.model_type
    inside = {name for key in rotary for name in part[key]}
    return {**{key: value for key, value in same.defaults.items() if key not in inside}, **made}


def _plain_rotation(said: Mapping[str, object]) -> dict[str, object]:
    """Rotary settings without what tells time, height and width apart."""
    kept = {key: value for key, value in said.items() if not key.startswith("mrope")}
    return {key: "default" if value == "mrope" else value for key, value in kept.items()}


# ---- names of modules ----------------------------------------------------------------------------------------------

FROM_WHOLE = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.text_model\.": "model.",
}
"""Names of a multimodal checkpoint's tensors, as transformers 5 and 4 wrote them, to the text tower's own."""
_LAYERS = re.compile(r"(?<=base_model\.model\.)model\.(?=layers\.|embed_tokens\.|norm\.)")
_TOWER = re.compile(r"(?<=^base_model\.model\.model\.)(language_model|text_model)\.")
NOT_TEXT = r".*\b(visual|vision_tower|vision_model|audio_tower|multi_modal_projector|embed_vision|embed_audio)\b.*"
"""Modules beside the text tower that carry names like its own; PEFT's `exclude_modules` leaves them alone."""


def is_multimodal(raw: Mapping[str, object]) -> bool:
    """Whether a config.json is of a model with a text tower beside others."""
    return text_part(raw) != dict(raw)


def name_in_whole(tensor: str, checkpoint: Iterable[str]) -> str:
    """An adapter's tensor over the text tower, as PEFT calls it over `AutoModelForImageTextToText`.

    `checkpoint`: names of the whole model's tensors, which tell what it calls its tower.
    """
    tower = "text_model" if any(name.startswith("model.text_model.") for name in checkpoint) else "language_model"
    return _LAYERS.sub(f"model.{tower}.", tensor)


def name_in_tower(tensor: str) -> str:
    """The other way round; any other name as it is."""
    return _TOWER.sub("", tensor, count=1)
