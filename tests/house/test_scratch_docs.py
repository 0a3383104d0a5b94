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


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name", ["minicpm3-4b", "jais-2-8b", "gpt-j-6b", "ernie-4.5-21b-a3b", "deepseek-v3.2", "mt5-small"]
)
def test_every_operator_of_a_shipped_program_has_an_entry(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN two layers of a shipped model of another type THEN the same."""
    path = Path(catalogue.__file__).parent / "models" / f"{name}.json"
    config = reduced(json.loads(path.read_text())["config"], 2)
    assert not undescribed(operators(config, choices(lora_dropout=0.0), monkeypatch))


def test_an_operator_without_an_entry_is_found() -> None:
    assert undescribed({"aten.mm", "prim.device", "aten.fft_fft"}) == {"aten.fft_fft"}


def test_every_rule_of_scratch_stands_among_the_modelled_ones() -> None:
    modelled = TEXT.split("## Too small")[0]
    for rules in (scratch.cuda_scratch(), int8.scratch()):
        for operator in rules:
            assert f"`{str(operator).rsplit('.', 1)[0]}`" in modelled, operator
