"""docs/scratch.md has an entry for every operator that traces of several families run, and every rule of scratch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

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


@pytest.mark.parametrize("run", RUNS)
def test_every_operator_has_an_entry(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    dispatch = StepRecorder.__torch_dispatch__

    def noting(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        seen.add(str(func).rsplit(".", 1)[0])
        return dispatch(self, func, types, args, kwargs)

    monkeypatch.setattr(StepRecorder, "__torch_dispatch__", noting)
    model, changes = RUNS[run]
    trace(TINY[model], choices(**changes))
    assert len(seen) > 40
    assert not undescribed(seen)


def test_an_operator_without_an_entry_is_found() -> None:
    assert undescribed({"aten.mm", "prim.device", "aten.fft_fft"}) == {"aten.fft_fft"}


def test_every_rule_of_scratch_stands_among_the_modelled_ones() -> None:
    modelled = TEXT.split("## Too small")[0]
    for rules in (scratch.cuda_scratch(), int8.scratch()):
        for operator in rules:
            assert f"`{str(operator).rsplit('.', 1)[0]}`" in modelled, operator
