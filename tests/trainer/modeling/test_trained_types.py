"""Small models of today's types go the whole way: trained, killed, resumed, merged, generated from, taken by PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.small_types import CONFIGS
from benchmarks.trained_types import tried


@pytest.mark.nightly
@pytest.mark.parametrize("model_type", ["arcee", "lfm2", "qwen3_5_text", "modernbert"])
def test_a_small_model_goes_the_whole_way(model_type: str, tmp_path: Path) -> None:
    assert tried(model_type, tmp_path).startswith("loss ")


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_small_networks_are_known_to_transformers(model_type: str) -> None:
    transformers = pytest.importorskip("transformers")
    assert hasattr(transformers, CONFIGS[model_type][0])
