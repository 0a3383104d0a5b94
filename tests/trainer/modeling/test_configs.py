"""Keys of a config.json that reach transformers' config classes, and those that never do."""

from __future__ import annotations

import inspect
import re
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trainer.modeling.configs import CHOOSES_CODE, described

BESIDE = re.compile(r'kwargs\.(?:pop|get)\("(\w+)"|"(\w+)" in kwargs')


def test_layers_that_a_published_key_gives_are_those_of_the_network() -> None:
    """GIVEN Nemotron-H's own spelling of its layers WHEN the config is made THEN it has them, each of its kind."""
    said = {"hybrid_override_pattern": "MEM*-M", "num_hidden_layers": 6, "model_type": "nemotron_h"}
    made = CONFIG_MAPPING["nemotron_h"](**described(said, CONFIG_MAPPING["nemotron_h"]))
    assert made.layers_block_type == [
        *("linear_attention", "moe", "linear_attention", "full_attention", "mlp", "linear_attention"),
    ]


def test_what_a_class_reads_beside_its_fields_reaches_it() -> None:
    """GIVEN every causal type's config class WHEN it reads a key from its keyword arguments THEN the key is kept."""
    seen = 0
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        cls: Any = CONFIG_MAPPING[model_type]
        read = {one or other for one, other in BESIDE.findall(inspect.getsource(cls))} - {*CHOOSES_CODE, "model_type"}
        assert set(described(dict.fromkeys(read, "said"), cls)) == read, model_type
        seen += len(read)
    assert seen > 50


def test_what_no_field_checks_brings_no_code() -> None:
    """GIVEN a part that a class reads as it is WHEN keys in it choose code THEN they are left out at any depth."""
    part = {
        "kda_layers": [1, 2],
        "attn_implementation": "x/y",
        "deeper": [{"auto_map": {"A": "b"}, "_private": 1, "n": 2}],
    }
    kept = described({"linear_attn_config": part}, CONFIG_MAPPING["kimi_linear"])
    assert kept == {"linear_attn_config": {"kda_layers": [1, 2], "deeper": [{"n": 2}]}}
