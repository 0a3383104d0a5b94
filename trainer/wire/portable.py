"""What leaves this machine with an adapter or an observation: no path, name or content of the user's."""

from __future__ import annotations

import re

from planner.contract.files import expanded

_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
"""Folder of a model in the hub's cache."""
_WORD = re.compile(r"[\w.+-]{1,80}", re.ASCII)
"""A name such as `llama`, `silu` or `LlamaForCausalLM`; paths, sentences and templates are none."""
_LABELS = ("id2label", "label2id")


def model_name(model: str) -> str:
    """The model as others may know it: a hub id stays one, a folder gives its name alone, as `./name`.

    With the dot nothing takes it for a model of the hub.
    """
    path = expanded(model)
    here = path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    if not here:
        return model
    path = path.parent if path.name == "config.json" else path
    for part in path.parts:
        if cached := _CACHED.fullmatch(part):
            return f"{cached[1]}/{cached[2]}"
    return f"./{path.resolve().name}"


def config(content: dict[str, object]) -> dict[str, object]:
    """The numbers and plain words of a config.json. Labels, which are of the data, keep their count alone."""
    kept = {key: value for key, value in content.items() if key not in _LABELS and _WORD.fullmatch(str(key))}
    found: dict[str, object] = {key: clean for key, value in kept.items() if (clean := _clean(value)) is not _NOTHING}
    labels = content.get("id2label")
    if isinstance(labels, dict):
        found["id2label"] = {str(number): f"LABEL_{number}" for number in range(len(labels))}
    return found


def word(text: str) -> str:
    """The text where it is a plain word (the name of a profile), else none of it."""
    return text if _WORD.fullmatch(text) else "unknown"


_NOTHING = object()


def _clean(value: object) -> object:
    """The value without its texts; `_NOTHING` where nothing is left of it."""
    if isinstance(value, dict):
        return config(value)
    if isinstance(value, (list, tuple)):
        return [clean for each in value if (clean := _clean(each)) is not _NOTHING]
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else _NOTHING
    return value
