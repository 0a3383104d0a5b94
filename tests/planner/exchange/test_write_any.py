"""Any plan as any tool's file: it reads back as the plan, or the file says what is another there."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st

from planner.contract import settings
from planner.contract.errors import TuneplanError
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.exchange import recognise, write

CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("lora", "qlora", "full"),
    "batch_size": (1, 3),
    "gradient_accumulation_steps": (1, 5),
    "max_length": (128, 1000),
    "lora_r": (7, 64),
    "lora_alpha": (1.0, 16.5),
    "lora_dropout": (0.0, 0.1),
    "lora_variant": ("lora", "dora", "rslora"),
    "lora_targets": (("all-linear",), ("attention",), ("q_proj", "v_proj"), ("down_proj",), ("q_proj", "lm_head")),
    "modules_to_save": ((), ("lm_head",)),
    "quantization": ("nf4", "int8", "nf4-double"),
    "precision": ("bf16", "fp32", "bf16-mixed", "fp16", "bf16-amp", "fp16-mixed"),
    "adapter_dtype": ("bf16", "fp32"),
    "optimizer": ("adamw", "adamw-8bit", "paged-adamw-8bit", "adafactor", "sgd"),
    "optimizer_implementation": ("foreach", "fused", "forloop"),
    "padding": ("longest", "max", "packed"),
    "attention": ("sdpa", "eager", "flash"),
    "max_grad_norm": (0.0, 0.3),
    "gradient_checkpointing": (True, False),
    "checkpoint_offload": (True, False),
    "made_again": (("mlp",), ("norms",), ()),
    "keep_logits": (True, False),
    "loss": ("full", "chunked"),
    "stack": ("builtin", "peft"),
    "liger": (True, False),
    "num_gpus": (1, 1, 2),
    "strategy": ("ddp", "fsdp", "zero2", "zero3"),
}
HYPERPARAMETERS: dict[str, tuple[Any, ...]] = {
    "max_steps": (50,),
    "scheduler": ("cosine", "linear", "constant", "cosine-restarts", "polynomial", "step"),
    "learning_rate": (1e-5, 3e-4),
    "warmup_steps": (7,),
    "weight_decay": (0.0, 0.05),
    "beta1": (0.8,),
    "beta2": (0.95,),
    "epsilon": (1e-6,),
    "seed": (3,),
    "min_learning_rate_ratio": (0.0, 0.2),
    "train_on_prompt": (True, False),
    "group_by_length": (True, False),
}
MODELS = (
    "meta-llama/Llama-3.2-1B",
    "mistral-7b-v0.1",
    "qwen3-4b",
    "mixtral-8x7b",
    "phi-3-mini",
    "gemma-2-2b",
    "falcon-7b",
)
KEPT = ("batch_size", "gradient_accumulation_steps", "max_length", "method", "num_gpus")
"""What no tool's file may change, said or not."""
SAID = tuple(name for name in write._COMPARED if name != "min_learning_rate_ratio")


def some(table: dict[str, tuple[Any, ...]]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the table's keys, each with one of its values."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in table.items()})


@pytest.mark.parametrize("tool", recognise.TOOLS)
@runs(max_examples=12, deadline=None, derandomize=True)
@given(model=st.sampled_from(MODELS), choices=some(CHOICES), h=some(HYPERPARAMETERS))
def test_what_is_another_there_is_said(tool: str, model: str, choices: dict[str, Any], h: dict[str, Any]) -> None:
    """GIVEN any plan WHEN it is written for a tool THEN it is refused in one line, or it reads back as the plan but for
    what the file's header names."""
    try:
        whole = Plan(
            model=model,
            gpu="a100-80gb",
            settings=settings.choices_from(choices),
            hyperparameters=Hyperparameters(**h),
            data=DataSettings(path="train.jsonl", format="messages"),
        )
        made = write.export(whole, tool)
    except TuneplanError as error:
        refused = str(error)
    else:
        refused = ""
    assert "\n" not in refused
    if refused:
        return
    assert not made.there.of("unknown")
    there = write.plan_there(whole, made.there)
    said = " ".join(made.not_said)
    for name in (*KEPT, *SAID):
        own, other = (
            getattr(item.settings if hasattr(item.settings, name) else item.hyperparameters, name)
            for item in (whole, there)
        )
        same = math.isclose(own, other, rel_tol=1e-6) if isinstance(own, float) else own == other
        full = whole.settings.method == "full" and name in write._OF_ADAPTERS
        plain = whole.settings.method != "qlora" and name == "quantization"
        assert same or full or plain or (name not in KEPT and name in said), (name, own, other)
    assert there.hyperparameters.learning_rate == whole.hyperparameters.learning_rate
