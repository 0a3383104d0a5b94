"""docs/scratch.md has an entry for every operator that traces of several families run, and every rule of scratch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.accuracy.grid import reduced
from benchmarks.small_types import CONFIGS, small
from planner.contract.choices import TrainingChoices
from planner.models import catalogue
from planner.models.sources import load_model
from tests.support.trace_support import TINY, choices
from trainer.trace import int8, scratch, trace
from trainer.trace.recorder import StepRecorder

TEXT = (Path(__file__).parents[2] / "docs" / "scratch.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`((?:aten|bitsandbytes)\.\w+)`", TEXT))
ENGINE = ("prim.", "profiler.")
"""What is dispatched and is no kernel."""

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "everything trained": ("llama", {"method": "full", "attention": "eager", "optimizer": "adafactor"}),
    "over 4 bits": ("qwen2", {"method": "qlora", "optimizer_implementation": "forloop"}),
    "over 8 bits": ("phi", {"method": "qlora", "quantization": "int8", "stack": "peft"}),
    "lean": ("gemma2", {"stack": "builtin", "loss": "chunked", "lora_variant": "dora"}),
    "encoder": ("bert", {"method": "full", "precision": "bf16-mixed", "optimizer_implementation": "fused"}),
    "encoder and decoder": ("t5", {"method": "full", "optimizer": "adamw-8bit"}),
    "mixture": ("mixtral", {"lora_targets": ("attention",)}),
}


def undescribed(names: set[str]) -> set[str]:
    """Operators without an entry."""
    return {name for name in names if name not in NAMED and not name.startswith(ENGINE)}


RECORDED = ("qwen3_next", "llama4_text")
"""Recorded types whose operators are tried with every change: a recurrence with experts, complex rotations."""
REPEATED = [pytest.param(name, marks=[] if name in RECORDED else [pytest.mark.nightly]) for name in CONFIGS]


def operators(config: dict[str, Any], chosen: TrainingChoices, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What a traced step dispatches."""
    seen: set[str] = set()
    dispatch = StepRecorder.__torch_dispatch__

    def noting(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        seen.add(str(func).rsplit(".", 1)[0])
        return dispatch(self, func, types, args, kwargs)

    monkeypatch.setattr(StepRecorder, "__torch_dispatch__", noting)
    trace(config, chosen)
    assert len(seen) > 40
    return seen


@pytest.mark.parametrize("run", RUNS)
def test_every_operator_has_an_entry(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, changes = RUNS[run]
    assert not undescribed(operators(TINY[model], choices(**changes), monkeypatch))


@pytest.mark.parametrize("model_type", REPEATED)
def test_every_operator_of_a_recorded_type_has_an_entry(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a small network of a type whose program is recorded WHEN a step is traced THEN the page knows it all."""
    assert not undescribed(operators(small(model_type), choices(lora_dropout=0.0), monkeypatch))


SHIPPED: dict[str, dict[str, Any]] = {
    **{
        name: {} for name in ("minicpm3-4b", "jais-2-8b", "gpt-j-6b", "ernie-4.5-21b-a3b", "deepseek-v3.2", "mt5-small")
    },
    **{name: {} for name in ("biogpt", "jamba-v0.1", "persimmon-8b", "xglm-564m", "olmo-hybrid-7b", "youtu-llm-2b")},
    "gpt-neo-1.3b": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "m2m100-418m": {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},  # a layer is left out by chance
    "phi-3.5-moe": {"rope_scaling": None},  # its tables follow the length that a batch happens to have
}
"""Models of further types, and what of their configs has to differ for a trace."""


@pytest.mark.nightly
@pytest.mark.parametrize("name", SHIPPED)
def test_every_operator_of_a_shipped_program_has_an_entry(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN few layers of a shipped model of another type THEN the same."""
    path = Path(catalogue.__file__).parent / "models" / f"{name}.json"
    layers = 4 if name in ("jamba-v0.1", "olmo-hybrid-7b") else 2
    config = reduced(json.loads(path.read_text())["config"], layers) | SHIPPED[name]
    assert not undescribed(operators(config, choices(lora_dropout=0.0), monkeypatch))


@pytest.mark.nightly
def test_every_operator_of_a_tower_has_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN the text of a multimodal mixture, whose config is not the whole's THEN the same."""
    config = reduced(dict(load_model("qwen3.5-122b-a10b").config), 4)
    assert not undescribed(operators(config, choices(lora_dropout=0.0), monkeypatch))


def test_an_operator_without_an_entry_is_found() -> None:
    assert undescribed({"aten.mm", "prim.device", "aten.fft_fft"}) == {"aten.fft_fft"}


def test_every_rule_of_scratch_stands_among_the_modelled_ones() -> None:
    modelled = TEXT.split("## Too small")[0]
    for rules in (scratch.cuda_scratch(), int8.scratch()):
        for operator in rules:
            assert f"`{str(operator).rsplit('.', 1)[0]}`" in modelled, operator
