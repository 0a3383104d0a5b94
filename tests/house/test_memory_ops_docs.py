"""docs/model.md names functions and tests that exist, and its tables sum."""

from __future__ import annotations

import importlib
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.devices.hardware import find
from planner.memory.explain import explain
from planner.models.sources import from_config, load_model

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+)(?:\[[^`]*\])?`", TEXT)):
        assert f"def {name}(" in sources, name
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for name in set(re.findall(r"(test_\w+\.py)`", TEXT)):
        assert name in files, name


def test_every_function_that_is_named_exists() -> None:
    modules = {path.stem: path for path in (ROOT / "planner" / "memory").rglob("*.py")}
    found = {
        (module, name)
        for module, name in re.findall(r"`(\w+)\.([a-zA-Z_]\w*)`", TEXT)
        if module in modules and name != "py"
    }
    assert len(found) > 25
    for module, name in found:
        dotted = ".".join(modules[module].relative_to(ROOT).with_suffix("").parts)
        assert hasattr(importlib.import_module(dotted), name), (module, name)


@pytest.mark.parametrize(
    ("stack", "loss", "total"),
    [("peft", "full", 18553321476), ("builtin", "full", 18553321476), ("builtin", "chunked", 10084907012)],
)
def test_the_worked_example_is_what_the_model_says(stack: str, loss: str, total: int) -> None:
    chosen = TrainingChoices(
        stack=stack,
        loss=loss,
        batch_size=8,
        max_length=2048,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
        lora_r=8,
        lora_dropout=0.05,
    )
    (binding,) = explain(load_model("phi-2"), find("a100-80gb"), chosen)
    assert binding.bytes == total
    assert f"**{total:,}**" in TEXT
    for term in binding.terms:
        alike = term.component in ("optimizer_state", "adapters", "workspaces")
        assert alike or f"{term.coefficient:,}" in TEXT


def test_the_tables_sum() -> None:
    tables = TEXT.split("## Worked example")[1].split("## Not modelled")[0].split("| **sum**")
    for table, after in itertools.pairwise(tables):
        rows = [line.split("|") for line in table.splitlines() if line.startswith("| ") and "×" not in line]
        total = re.search(r"\*\*([\d,]+)\*\*", after)
        assert total is not None
        assert sum(int(row[4].replace(",", "")) for row in rows) == int(total[1].replace(",", ""))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown architecture": ({"model_type": "llama"}, {}, "architecture 'other'"),
    "chunked loss of an encoder": (
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"loss": "chunked"},
        "--loss chunked",
    ),
    "router losses": (
        {
            "model_type": "mixtral",
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 2,
            "output_router_logits": True,
        },
        {"lora_targets": ("attention",)},
        "output_router_logits",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_modelled_is_refused_by_name(name: str) -> None:
    config, changes, words = REFUSED[name]
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    spec = from_config({**sizes, "vocab_size": 512, **config}, "small")
    if name == "unknown architecture":
        spec = replace(spec, architecture="other")
    chosen = TrainingChoices(**{"stack": "peft", "max_length": 128, **changes})
    with pytest.raises(NotModelled, match=words):
        explain(spec, find("a100-80gb"), chosen)
