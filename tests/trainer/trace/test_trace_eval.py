"""An evaluation batch after the traced step, beside the closed form's instant `eval`."""

from __future__ import annotations

from typing import Any

import pytest

from planner import memory
from planner.devices.profiles import load
from planner.memory import device
from planner.models.sources import from_config
from tests.support.trace_support import TINY, choices
from trainer.trace import Setup, trace

WIDER = {"vocab_size": 8192, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 1280}
"""Wide enough that 512 bytes of rounding for every small tensor don't count."""


@pytest.mark.parametrize("stack", ["peft", "builtin"])
@pytest.mark.parametrize(
    ("family", "precision"),
    [("llama", "bf16"), ("phi", "bf16-mixed"), ("gemma2", "bf16"), ("qwen2", "bf16-mixed"), ("bert", "bf16")],
)
def test_an_evaluation_batch_takes_what_the_closed_form_says(family: str, precision: str, stack: str) -> None:
    config: dict[str, Any] = {**TINY[family], **WIDER, "max_position_embeddings": 512}
    if "head_dim" in config:
        config["head_dim"] = 64
    chosen = choices(
        stack=stack,
        precision=precision,
        batch_size=4,
        eval_batch_size=6,
        max_length=256,
        loss="chunked" if stack == "builtin" and family != "bert" else "full",
    )
    hardware = load("a10g")
    workspaces = device.workspace_bytes(hardware)
    traced = trace(config, chosen, Setup(evaluate=True, cublas_workspace_bytes=workspaces)).instants
    predicted = memory.predict(from_config(config, family), hardware, chosen).instants
    assert predicted["eval"] == pytest.approx(traced["eval"], rel=0.005)
    # The training instants are those of a trace that stops before.
    assert {
        **trace(config, chosen, Setup(cublas_workspace_bytes=workspaces)).instants,
        "eval": traced["eval"],
    } == traced
