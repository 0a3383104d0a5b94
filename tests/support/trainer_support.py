"""A tiny model folder, data files, plans, and runs of the real trainer in this process."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.events import Event
from planner.contract.records import Plan

SETTINGS: dict[str, Any] = {
    "method": "lora",
    "precision": "fp32",
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_length": 32,
    "gradient_checkpointing": False,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
}
HYPERPARAMETERS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "epochs": 2.0,
    "report_to": (),
    "sample_max_new_tokens": 4,
}


def make_model(folder: Path, *, layers: int = 2, width: int = 32, weights: bool = True) -> Path:
    """A Llama of a few thousand parameters with the byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer.commands.demo import tokenizer

    made = tokenizer.build()
    made.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(made),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    if weights:
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    return folder


def write_pairs(path: Path, count: int = 40) -> Path:
    """Pairs of uneven length."""
    lines = [
        json.dumps({"prompt": f"say {'ab' * (number % 5 + 1)}", "completion": "ab" * (number % 3 + 1)})
        for number in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_plan(
    path: Path, model: Path, data: Path, *, settings: Any = None, data_settings: Any = None, **hyper: Any
) -> Path:
    """A plan file for the cpu, whatever stands in it."""
    plan = Plan(model=str(model), gpu="cpu", settings=TrainingChoices())
    content = plan.model_dump(mode="json", by_alias=True)
    content["settings"] = {**SETTINGS, **(settings or {})}
    content["hyperparameters"] |= {**HYPERPARAMETERS, **hyper}
    content["data"] |= {"path": str(data), "validation_split": 0.2, **(data_settings or {})}
    path.write_text(json.dumps(content))
    return path


def train(plan: Path, output: Path, **request: Any) -> tuple[list[Event], Exception | None]:
    """Runs a plan in this process; returns its events and the failure, if there was one."""
    from trainer.commands.run import main
    from trainer.wire.events import EventStream
    from trainer.wire.failed import Failed
    from trainer.wire.request import Request

    stream = io.StringIO()
    failure: Exception | None = None
    try:
        main(Request(plan=plan, output=output, **request), EventStream(stream))
    except Failed as error:
        failure = error
    return [Event.model_validate_json(line) for line in stream.getvalue().splitlines()], failure


def of_kind(events: list[Event], kind: str) -> list[dict[str, Any]]:
    """The data of all events of a kind."""
    return [event.data for event in events if event.kind == kind]
