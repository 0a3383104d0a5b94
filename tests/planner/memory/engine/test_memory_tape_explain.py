"""Every byte of a peak is in a term: explanations sum to the predicted instants."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.devices.hardware import find
from planner.memory import predict
from planner.memory.engine.monomials import BASIS
from planner.memory.explain import MEANING, explain, lines
from planner.models.sources import load_model

CASES: dict[str, dict[str, Any]] = {
    "checkpointed": {},
    "not checkpointed, accumulated": {"gradient_checkpointing": False, "gradient_accumulation_steps": 4},
    "half of the layers": {"checkpoint_layers": 12},
    "full": {"method": "full", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("stack", ["peft", "builtin"])
@pytest.mark.parametrize("name", CASES)
def test_terms_sum_to_every_instant(name: str, stack: str) -> None:
    model, hardware = load_model("phi-2"), find("a100-80gb")
    chosen = TrainingChoices(stack=stack, batch_size=4, max_length=1000, **CASES[name])
    report = predict(model, hardware, chosen)
    found = explain(model, hardware, chosen, every_instant=True)
    for item in found:
        assert sum(term.bytes for term in item.terms) == item.bytes
        assert all(term.bytes == term.coefficient * term.value for term in item.terms)
        assert abs(item.bytes - report.instants[item.instant]) <= 1
    assert {item.instant for item in found} | {"save"} == set(report.instants)
    (binding,) = (item for item in found if item.binding)
    assert binding.instant == report.binding_instant
    assert explain(model, hardware, chosen) == (binding,)


PHI = {
    "batch_size": 8,
    "max_length": 2048,
    "lora_r": 8,
    "lora_dropout": 0.05,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": True,
}


def test_the_worked_example_of_the_documentation() -> None:
    """docs/model.md: phi-2, 8 x 2048, stack peft binds in backward at the loss, 17.3 GiB."""
    (found,) = explain(load_model("phi-2"), find("a100-80gb"), TrainingChoices(stack="peft", **PHI))
    terms = {(term.component, term.monomial): term.coefficient for term in found.terms}
    # log-probabilities, zeros of nll_loss and the gradient, in fp32 over 51,200 words.
    assert found.instant == "backward"
    assert round(found.bytes / 2**30, 1) == 17.3
    assert terms["checkpoints", "T"] == 32 * 2560 * 2
    assert sum(term.coefficient for term in found.terms if term.component == "logits_and_loss") >= 3 * 4 * 51200


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    from planner.cli import main

    arguments = ["check", "--gpu", "a10g", "--model", "phi-2", "--batch-size", "1", "--max-length", "512"]
    assert main([*arguments, "--explain"]) == 0
    assert "(binding)" in capsys.readouterr().out
    assert main([*arguments, "--explain-all", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {item["instant"] for item in content["explanation"]} >= {"forward", "loss", "backward", "optimizer"}


def test_the_table_names_its_monomials() -> None:
    found = explain(load_model("phi-2"), find("a10g"), TrainingChoices(stack="peft", batch_size=2, max_length=512))
    text = lines(found)
    assert text[0].startswith(f"{found[0].instant} (binding): {found[0].bytes:,} bytes")
    assert "T = tokens of a micro-batch, B·S" in text[-1]


def test_every_monomial_has_a_meaning() -> None:
    """A name without one would end `--explain` of whatever model holds it."""
    assert set(MEANING) == set(BASIS)
