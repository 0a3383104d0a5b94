"""The trace against real steps on this machine: the same code, the same bytes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.trace_support import TINY, choices, measure
from trainer.trace import Setup, trace

EIGHT = ("llama", "qwen2", "phi", "gpt2", "bert", "t5", "gemma2", "mixtral")
INSTANTS = ("forward", "loss", "backward", "optimizer")
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-no-checkpointing": {"gradient_checkpointing": False},
    "full": {"method": "full", "checkpoint_layers": 1, "gradient_accumulation_steps": 4},
}
MORE: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"stack": "builtin", "loss": "chunked", "checkpoint_layers": 2}),
    ("gemma2", {"stack": "builtin", "loss": "chunked"}),
    ("qwen2", {"stack": "builtin", "loss": "chunked", "method": "full"}),
    ("qwen2", {"stack": "builtin", "loss": "chunked", "method": "full", "optimizer": "adafactor"}),
    ("llama", {"stack": "builtin", "method": "full", "optimizer_implementation": "forloop"}),
    ("phi", {"precision": "bf16-mixed"}),
    ("gpt2", {"precision": "bf16-mixed", "method": "full"}),
    ("llama", {"precision": "fp32", "attention": "eager", "gradient_checkpointing": False}),
    ("mixtral", {"precision": "fp32"}),
    ("llama", {"lora_variant": "dora"}),
    ("qwen2", {"lora_variant": "rslora", "adapter_dtype": "bf16"}),
    ("llama", {"modules_to_save": ("lm_head",)}),
    ("phi", {"checkpoint_reentrant": True}),
    ("llama", {"optimizer_implementation": "forloop", "method": "full"}),
    ("llama", {"optimizer_implementation": "fused", "method": "full"}),
    ("llama", {"optimizer": "sgd", "method": "full"}),
    ("llama", {"optimizer": "adafactor", "method": "full"}),
    ("llama", {"keep_logits": True, "transformers_version": "4.48"}),
    ("llama", {"transformers_version": "4.45"}),
    ("llama", {"transformers_version": "no-upcast"}),
    ("llama", {"max_grad_norm": 0.0}),
    ("llama", {"padding": "packed"}),
]


def compare(name: str, changes: dict[str, Any], padded: bool = False) -> None:
    if name == "mixtral":  # its fused experts take no dropout
        changes = {"lora_targets": ("attention",), **changes}
    chosen = choices(**changes)
    measured = measure(TINY[name], chosen, padded=padded)
    traced = trace(TINY[name], chosen, Setup(target="cpu", padded=padded))
    peak = max(measured[instant] for instant in INSTANTS)
    assert traced.allocated_peak_bytes == pytest.approx(peak, rel=0.002)
    for instant in INSTANTS:
        assert traced.instants[instant] == pytest.approx(measured[instant], rel=0.002), instant
    assert sum(traced.components.values()) == traced.allocated_peak_bytes


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", EIGHT)
def test_the_trace_equals_a_real_step(name: str, setting: str) -> None:
    compare(name, SETTINGS[setting])


@pytest.mark.parametrize(("name", "changes"), MORE, ids=lambda value: str(value) if isinstance(value, str) else None)
def test_the_trace_equals_a_real_step_under_other_settings(name: str, changes: dict[str, Any]) -> None:
    compare(name, changes)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_builds_the_same_masks(attention: str) -> None:
    compare("llama", {"attention": attention}, padded=True)


def test_4_bit_weights_take_what_bitsandbytes_stores() -> None:
    pytest.importorskip("bitsandbytes")
    compare("llama", {"method": "qlora"})
    compare("llama", {"method": "qlora", "stack": "builtin", "quantization": "nf4"})
    compare("gpt2", {"method": "qlora", "quantization": "nf4"})
    compare("llama", {"method": "qlora", "lora_variant": "dora"})


@pytest.mark.parametrize("stack", ["peft", "builtin"])
def test_int8_weights_take_what_bitsandbytes_keeps(stack: str) -> None:
    pytest.importorskip("bitsandbytes")
    for changes in ({"checkpoint_layers": 2}, {"precision": "bf16-mixed"}, {"lora_variant": "dora"}):
        compare("phi", {"method": "qlora", "quantization": "int8", "stack": stack, **changes})
