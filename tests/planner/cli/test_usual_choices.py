"""What a plan takes where nobody names it, and that every way to a plan takes the same."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.devices.hardware import find
from planner.tui.state import change, preset, with_hardware


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--gpu", "a10g"), "fused"),
        (("--gpu", "a10g", "--stack", "peft"), "fused"),
        (("--gpu", "a10g", "--stack", "peft", "--transformers-version", "4.54.0"), "fused"),
        (("--gpu", "a10g", "--stack", "peft", "--transformers-version", "4.53.3"), "foreach"),
        (("--gpu", "a10g", "--stack", "peft", "--optimizer", "sgd"), "foreach"),
        (("--gpu", "t4", "--stack", "peft"), "fused"),  # transformers asks nobody about fp16
        (("--gpu", "a10g", "--optimizer", "adamw-8bit"), "foreach"),
        (("--gpu", "a10g", "--optimizer-implementation", "forloop"), "forloop"),
        (("--gpu", "t4"), "foreach"),  # fp16 there
        (("--gpu", "m3-max-36gb"), "foreach"),
        (("--gpu", "cpu"), "fused"),
    ],
)
def test_one_kernel_where_torch_has_it(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], expected: str
) -> None:
    given = ("--model", "qwen2.5-0.5b", "--max-length", "256", "--json", *options)
    assert main(["check", *given]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert main([*given]) == 0
    searched = json.loads(capsys.readouterr().out)["recommended"]
    assert checked["settings"]["optimizer_implementation"] == expected
    assert searched["settings"]["optimizer_implementation"] == expected


def test_stack_peft_takes_what_transformers_takes() -> None:
    """GIVEN the installed transformers and torch THEN the usual optimizer of stack `peft` is `TrainingArguments`'."""
    from transformers import TrainingArguments

    from planner.exchange.tools.hf import OPTIMIZERS

    usual = TrainingChoices(stack="peft").with_usual_implementation("cuda")
    default = next(field.default for field in fields(TrainingArguments) if field.name == "optim")
    assert OPTIMIZERS[default] == (usual.optimizer, usual.optimizer_implementation)


def test_the_wizard_follows() -> None:
    state = with_hardware(preset({}, {}, None), find("a10g"))
    assert state.choices.optimizer_implementation == "fused"
    assert change(state, "precision", "fp16").choices.optimizer_implementation == "foreach"
    assert with_hardware(state, find("m3-max-36gb")).choices.optimizer_implementation == "foreach"
    named = with_hardware(preset({"optimizer_implementation": "forloop"}, {}, None), find("a10g"))
    assert named.choices.optimizer_implementation == "forloop"


def test_a_tensor_at_a_time_is_never_chosen_for_anyone() -> None:
    for kind in ("cuda", "rocm", "mps", "cpu"):
        assert TrainingChoices().with_usual_implementation(kind).optimizer_implementation in ("fused", "foreach")
