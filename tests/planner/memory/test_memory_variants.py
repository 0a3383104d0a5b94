"""What other releases and frameworks do in a step, as options: returned keys and values, k-bit preparations."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("bitsandbytes")

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.devices.profiles import load
from planner.memory import predict
from planner.models.sources import from_config
from tests.planner.memory.test_memory_decoders import CONFIGS
from tests.planner.memory.test_memory_encoders import compare
from tests.support.trace_support import TINY, choices, measure

BIGCODE: dict[str, Any] = {
    "model_type": "gpt_bigcode",
    "architectures": ["GPTBigCodeForCausalLM"],
    "activation_function": "gelu_pytorch_tanh",
    "n_embd": 128,
    "n_head": 4,
    "n_inner": 512,
    "n_layer": 6,
    "n_positions": 256,
    "vocab_size": 2000,
}
FULL = {"method": "full", "transformers_version": "no-upcast", "keep_cache": True, "attention": "flash"}
CACHED: dict[str, dict[str, Any]] = {
    "reentrant": {**FULL, "gradient_checkpointing": True, "checkpoint_reentrant": True},
    "checkpointed": {**FULL, "gradient_checkpointing": True},
    "some layers": {**FULL, "gradient_checkpointing": True, "checkpoint_layers": 4},
    "logits too": {**FULL, "gradient_checkpointing": True, "keep_logits": True},
    "qlora": {
        **FULL,
        "method": "qlora",
        "precision": "bf16-amp",
        "lora_targets": ("c_attn",),
        "gradient_checkpointing": True,
        "checkpoint_reentrant": True,
    },
}


@pytest.mark.parametrize("case", CACHED)
def test_returned_keys_and_values_agree_with_the_trace(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN GPTBigCode with `use_cache` left on WHEN it is checkpointed THEN every layer's projection stays."""
    compare(BIGCODE, monkeypatch, **CACHED[case])


def test_a_checkpointed_layer_returns_its_whole_projection() -> None:
    """Six layers of tokens · (128 + 2 · 32) · 2 bytes stay until the loss is done, whatever is recomputed."""
    spec = from_config(BIGCODE, "tested")
    shared: dict[str, Any] = {"method": "full", "stack": "peft", "batch_size": 4, "max_length": 256}
    peaks = [
        predict(spec, load("a100-80gb"), TrainingChoices(**shared, keep_cache=kept)).instants["loss"]
        for kept in (False, True)
    ]
    assert peaks[1] - peaks[0] == 6 * 4 * 256 * (128 + 2 * 32) * 2


PREPARED = {"method": "qlora", "precision": "bf16-amp", "kbit_preparation": "norms"}
PREPARATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama-biased-tied", PREPARED),
    "llama, checkpointed": (
        "llama-biased-tied",
        {**PREPARED, "gradient_checkpointing": True, "checkpoint_reentrant": True},
    ),
    "qwen3, flash": ("qwen3", {**PREPARED, "attention": "flash"}),
    "gemma2": ("gemma2", PREPARED),
    "phi, checkpointed": ("phi", {**PREPARED, "gradient_checkpointing": True}),
    "gpt2": ("gpt2", PREPARED),
    "granite, 4.45": ("granite", {**PREPARED, "transformers_version": "4.45", "gradient_checkpointing": True}),
    "llama, nothing": ("llama-biased-tied", {"method": "qlora", "kbit_preparation": "none"}),
    "phi, nothing": ("phi", {"method": "qlora", "kbit_preparation": "none", "gradient_checkpointing": True}),
    "llama, stock under autocast": ("llama-biased-tied", {**PREPARED, "kbit_preparation": "stock"}),
}


@pytest.mark.parametrize("case", PREPARATIONS)
def test_kbit_preparations_agree_with_the_trace(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN 4-bit weights WHEN only the norms (or nothing) become fp32 THEN closed form and trace agree."""
    name, settings = PREPARATIONS[case]
    compare(CONFIGS[name], monkeypatch, **settings)


MIXTRAL: dict[str, Any] = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 2048,
}
SEPARATE: dict[str, dict[str, Any]] = {
    "lora": {},
    "full, checkpointed": {"method": "full", "gradient_checkpointing": True},
    "qlora": {"method": "qlora"},
    "qlora, checkpointed": {"method": "qlora", "gradient_checkpointing": True, "checkpoint_reentrant": True},
    "norms in fp32": {**PREPARED, "gradient_checkpointing": True, "checkpoint_reentrant": True},
}


@pytest.mark.parametrize("case", SEPARATE)
def test_separate_experts_agree_with_the_trace(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN Mixtral before transformers 5 WHEN its experts run one by one THEN closed form and trace agree."""
    settings = {"transformers_version": "4.48", "lora_targets": ("attention",), **SEPARATE[case]}
    compare(MIXTRAL, monkeypatch, **settings)


REAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "returned keys and values": (BIGCODE, {"method": "full", "keep_cache": True, "checkpoint_reentrant": True}),
    "norms in fp32": (TINY["llama"], PREPARED),
    "nothing in fp32": (TINY["llama"], {"method": "qlora", "kbit_preparation": "none"}),
    "separate experts": (MIXTRAL, {"lora_targets": ("attention",), "transformers_version": "4.48"}),
}


@pytest.mark.parametrize("case", REAL)
def test_the_trace_of_a_variant_equals_a_real_step(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a variant WHEN it takes a real step on the CPU THEN the trace has every instant to the byte."""
    from trainer.modeling import experts
    from trainer.trace import Setup, trace
    from trainer.trace.run import _spread_evenly

    monkeypatch.setattr(experts, "rows_sent", _spread_evenly)  # which expert gets how many rows is data
    config, settings = REAL[case]
    chosen = choices(**settings)
    measured, traced = measure(config, chosen), trace(config, chosen, Setup(target="cpu")).instants
    for instant in ("forward", "loss", "backward", "optimizer"):
        assert traced[instant] == pytest.approx(measured[instant], rel=1e-4), instant


def test_separate_experts_are_quantised_fused_ones_are_not() -> None:
    """8 experts of 3 · 256 · 512 values in 4 layers: 2 bytes a value, or half a byte and its share of scales."""
    spec = from_config(MIXTRAL, "tested")
    shared: dict[str, Any] = {"method": "qlora", "stack": "peft", "lora_targets": ("attention",), "quantization": "nf4"}
    fused, separate = (
        predict(spec, load("a10g"), TrainingChoices(**shared, precision="bf16-amp", transformers_version=version))
        for version in ("5.0", "4.48")
    )
    experts, router = 4 * 8 * 3 * 256 * 512, 4 * 8 * 256
    packed = (experts + router) // 2 + (experts + router) // 64 * 4 + 4 * (8 * 3 + 1) * 64
    assert fused.instants["load"] - separate.instants["load"] == (experts + router) * 2 - packed


def test_separate_experts_give_what_fused_ones_give() -> None:
    """GIVEN the same weights in fp32 WHEN the experts run one by one THEN loss and gradients are those of the fused."""
    import torch

    from trainer import modeling

    batch = {name: torch.randint(0, 1000, (2, 16)) for name in ("input_ids",)}
    batch["labels"] = batch["input_ids"]
    found = []
    for version in (None, "4.48"):
        chosen = TrainingChoices(method="full", stack="peft", transformers_version=version, precision="fp32")
        model = modeling.separate_experts(modeling.build(MIXTRAL, dtype=torch.float32, seed=3), chosen)
        loss = model(**batch).loss
        loss.backward()
        found.append((loss.item(), model.model.embed_tokens.weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "settings", "named"),
    [
        ("phi", {"keep_cache": True, "stack": "peft"}, "--keep-cache for phi"),
        ("gpt_bigcode", {"keep_cache": True}, "--stack peft"),
        ("phi", {"method": "qlora", "stack": "peft", "kbit_preparation": "norms"}, "--precision bf16-amp"),
        ("mixtral", {"stack": "peft", "transformers_version": "4.48", "lora_dropout": 0.0}, "adapters on experts"),
    ],
)
def test_what_has_no_model_is_refused_by_name(family: str, settings: dict[str, Any], named: str) -> None:
    """GIVEN a variant where it has no model WHEN it is asked for THEN the option is named."""
    spec = from_config({"gpt_bigcode": BIGCODE, "mixtral": MIXTRAL, **CONFIGS}[family], "tested")
    with pytest.raises(NotModelled, match=named):
        predict(spec, load("a10g"), TrainingChoices(**settings))


def test_an_unknown_preparation_is_refused() -> None:
    """GIVEN a name that is none WHEN choices are made THEN the known ones are listed."""
    with pytest.raises(InvalidInput, match="stock, norms, none"):
        TrainingChoices(kbit_preparation="half")
