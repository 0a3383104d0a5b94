"""The text tower of a multimodal model: its config as that of a language model, and its names in the whole model.

What is trained on text alone is the tower: images' parts are neither loaded nor planned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from planner.contract import architectures, quantised

Config = dict[str, Any]
SAID_ABOVE = ("tie_word_embeddings", "torch_dtype", "dtype", *quantised.KEYS)
"""Keys that a multimodal config may hold beside its `text_config` in place of within it."""
_SAME = {tower.name: (record.name, tower) for record in architectures.ARCHITECTURES.values() for tower in record.towers}
_FLAT = {tower.flat_in: tower.name for _, tower in _SAME.values() if tower.flat_in}
_OF_IMAGES = ("vision_config", "audio_config", "architectures")


def text_part(raw: Mapping[str, object]) -> Config:
    """The language model's part of a multimodal config; any other config as it is."""
    inner = raw.get("text_config")
    if not isinstance(inner, Mapping):
        flat = _FLAT.get(str(raw.get("model_type")))
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
    if part["model_type"] not in _SAME:
        return part
    plain, tower = _SAME[part["model_type"]]
    rotary = [key for key in ("rope_parameters", "rope_scaling") if isinstance(part.get(key), Mapping)]
    made = {key: value for key, value in part.items() if key not in _OF_IMAGES}
    made.update({key: _plain_rotation(part[key]) for key in rotary})
    inside = {name for key in rotary for name in part[key]}
    return {**{key: value for key, value in tower.defaults if key not in inside}, **made, "model_type": plain}


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
