"""The written-down config defaults equal those of the installed transformers; run as a script it writes them anew."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.contract import architectures

FOLDER = Path(str(importlib.resources.files("planner.models.sources"))) / "defaults"
MODEL_TYPES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def installed_defaults(model_type: str) -> dict[str, Any]:
    """Field defaults, key aliases and rotary base of transformers' config class, before it derives anything."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    common = {item.name for item in dataclasses.fields(PreTrainedConfig)}
    fields = {}
    for item in dataclasses.fields(config_class):
        if item.name in common:
            continue
        if item.default_factory is not dataclasses.MISSING:
            fields[item.name] = item.default_factory()
        else:
            fields[item.name] = None if item.default is dataclasses.MISSING else item.default
    fields["tie_word_embeddings"] = getattr(config_class, "tie_word_embeddings", True)
    theta = config_class.default_theta if "rope_parameters" in fields else None
    plain = json.loads(json.dumps(fields | _filled_in(config_class(), fields, model_type)))
    return {"fields": plain, "aliases": dict(config_class.attribute_map), "rope_theta": theta}


def _filled_in(config: Any, fields: dict[str, Any], model_type: str) -> dict[str, Any]:
    """What the class puts in the place of None: another rotary type, and layers' types where no rule has them."""
    found = {}
    rope = config.rope_parameters if fields.get("rope_parameters", "") is None else None
    if rope and rope.get("rope_type", "default") != "default":
        found["rope_parameters"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    types = config.layer_types if fields.get("layer_types", "") is None else None
    if types and not architectures.of(model_type).window_layers and "sliding_attention" in types:
        period = next(n for n in range(1, len(types)) if all(one == types[i % n] for i, one in enumerate(types)))
        found["layer_types"] = types[:period]
    return found


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_defaults_equal_the_installed_transformers(model_type: str) -> None:
    written = json.loads((FOLDER / f"{model_type}.json").read_text())
    assert {key: written[key] for key in ("fields", "aliases", "rope_theta")} == installed_defaults(model_type)


def write(model_types: list[str]) -> None:
    """Writes one JSON file per model type into the source tree."""
    import transformers

    for model_type in model_types:
        data = {"source": f"transformers {transformers.__version__}, config class of {model_type!r}"}
        target = FOLDER / f"{model_type}.json"
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps(data | installed_defaults(model_type), indent=1) + "\n")
        os.replace(temporary, target)


if __name__ == "__main__":
    write(sys.argv[1:] or list(MODEL_TYPES))
