"""Cards before Ampere: no flash kernel, so that attention runs by another one, and `--attention flash` not at all."""

from __future__ import annotations

from typing import Any

import pytest

from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.devices.profiles import load
from planner.memory import predict
from planner.models.sources import from_config
from trainer.trace import Setup, trace

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "vocab_size": 2000,
    "tie_word_embeddings": False,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
WORKSPACES = 2 * 8519680


@pytest.mark.parametrize("stack", ["peft", "builtin"])
@pytest.mark.parametrize("config", [SMALL, GROUPED], ids=["every head", "grouped heads"])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_plan_takes_the_kernel_that_the_card_has(config: dict[str, Any], stack: str, batch: int) -> None:
    """GIVEN a T4 and no mask THEN it is the efficient kernel, and the composite one where heads are grouped."""
    choices = TrainingChoices(
        batch_size=batch,
        max_length=1024,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        precision="fp16",
        lora_dropout=0.0,
        stack=stack,
        loss="full",
        lora_targets=("q_proj", "v_proj"),
    )
    traced = trace(config, choices, Setup(kernel="pre-ampere", cublas_workspace_bytes=WORKSPACES)).instants
    spec = from_config(config, "small")
    found = predict(spec, load("t4"), choices).instants
    for instant in ("forward", "loss", "backward"):
        assert found[instant] == pytest.approx(traced[instant], rel=2e-3), instant
    modern = predict(spec, load("a10g"), choices).instants
    grouped = config is GROUPED
    assert (found["backward"] > 1.2 * modern["backward"]) == grouped


@pytest.mark.parametrize(("card", "capability"), [("t4", "7.5"), ("v100-16gb", "7.0"), ("p40", "6.1")])
def test_flash_attention_is_refused_where_it_cannot_run(
    capsys: pytest.CaptureFixture[str], card: str, capability: str
) -> None:
    options = ["check", "--gpu", card, "--model", "smollm2-135m", "--max-length", "256"]
    assert main([*options, "--attention", "flash"]) == 2
    said = capsys.readouterr().err
    assert f"this card has {capability}; use --attention sdpa" in said
    assert said.count("\n") == 1
    assert main(options) == 0


def test_radeons_and_newer_cards_keep_it() -> None:
    assert load("mi300x").has_flash_attention
    assert load("a10g").has_flash_attention
    assert not load("m3-max-36gb").has_flash_attention
