"""Liger's kernels (`--liger`): held against its own autograd functions where they are installed, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.contract.choices import LIGER_KERNELS, TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.devices.profiles import load
from planner.memory import predict, predict_grid
from planner.memory.network.liger import chunk_rows
from planner.models.sources import from_config, load_model
from tests.planner.memory.test_memory_decoders import CONFIGS
from tests.planner.memory.test_memory_experts import CONFIGS as EXPERT_CONFIGS

LLAMA: dict[str, Any] = {
    "batch_size": 4,
    "max_length": 4096,
    "gradient_accumulation_steps": 1,
    "stack": "peft",
    "loss": "full",
    "padding": "packed",
    "attention": "flash",
    "checkpoint_reentrant": True,
    "precision": "bf16-amp",
    "lora_r": 16,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "liger": True,
}
"""fms-acceleration's `standard-peft` (scripts/benchmarks/scenarios-liger.yaml, defaults.yaml; transformers 4.45.2)."""
PATCHED = ("rope", "rms_norm", "fused_linear_cross_entropy")
"""Its `foak-fast-kernels-liger`: the fused LoRA and MLP of that plugin are for quantised weights alone."""


@pytest.mark.parametrize(("batch", "measured"), [(4, 24905936896), (8, 33567698944), (16, 50891223040)])
def test_published_runs_with_these_kernels_are_met(batch: int, measured: int) -> None:
    """GIVEN Llama-3-8B on an A100 with norms, rotation and loss fused (scripts/benchmarks/refs/a100_80gb_liger.csv,
    commit 733992a, 2024-12-02) THEN the allocated peak is met to 0.1 %, and with the MLP fused too it is lower."""
    spec, device = load_model("llama-3-8b"), load("a100-80gb")
    choices = TrainingChoices(**{**LLAMA, "batch_size": batch}, liger_kernels=PATCHED)
    assert predict(spec, device, choices).allocated_peak_bytes == pytest.approx(measured, rel=1e-3)
    everything = TrainingChoices(**{**LLAMA, "batch_size": batch})
    assert predict(spec, device, everything).allocated_peak_bytes < measured * 0.96


def test_each_kernel_takes_what_it_replaces() -> None:
    """GIVEN kernels one by one THEN each of them lowers the peak without checkpoints, or leaves it."""
    spec, device = from_config({**CONFIGS["qwen3"], "num_hidden_layers": 8}, "small"), load("a100-80gb")
    plain: dict[str, Any] = {"stack": "peft", "gradient_checkpointing": False, "batch_size": 4, "max_length": 512}
    stock = predict(spec, device, TrainingChoices(**plain)).tensors_peak_bytes
    found = {
        name: predict(spec, device, TrainingChoices(**plain, liger=True, liger_kernels=(name,))).tensors_peak_bytes
        for name in LIGER_KERNELS
    }
    assert found.pop("rope") <= stock
    assert all(peak < stock for peak in found.values())
    assert predict(spec, device, TrainingChoices(**plain, liger=True)).tensors_peak_bytes < min(found.values())


@pytest.mark.parametrize("model", ["gemma2", "gemma3", "olmo2", "phi3"])
def test_norms_and_projections_of_other_shapes_are_counted(model: str) -> None:
    """GIVEN full fine-tuning without checkpoints WHEN one kernel runs THEN what backward keeps is what it saves.

    Norms: x and a number per row in place of fp32 copies. Phi3's MLP and rotation read slices, which are copied first.
    """
    spec, device = from_config(CONFIGS[model], "small"), load("a100-80gb")
    plain: dict[str, Any] = {"stack": "peft", "gradient_checkpointing": False, "method": "full", "batch_size": 4}

    def forward(*kernels: str) -> int:
        chosen: dict[str, Any] = {"liger": True, "liger_kernels": kernels} if kernels else {}
        return predict(spec, device, TrainingChoices(**plain, **chosen, max_length=256)).instants["forward"]

    stock, tokens, width = forward(), 4 * 256, spec.hidden_size
    assert stock - forward("rms_norm") > 2 * spec.num_layers * tokens * width * 4
    gate = tokens * spec.intermediate_size * 2
    # Kept of gate, up, activation and product: all but the activation. Of Phi3 the copied slices in place of the whole.
    assert stock - forward("swiglu") == pytest.approx(spec.num_layers * gate, rel=0.1)


def test_an_evaluation_takes_no_logits_either() -> None:
    """GIVEN the fused loss THEN the Trainer's evaluation, which asks for nothing but it, has no whole logits."""
    spec, device = load_model("llama-3-8b"), load("a100-80gb")
    fused = predict(spec, device, TrainingChoices(**LLAMA)).instants["eval"]
    stock = predict(spec, device, TrainingChoices(**LLAMA, liger_kernels=("rope",))).instants["eval"]
    assert stock - fused > 4 * 4096 * spec.vocab_size * 4


def test_a_chunk_has_as_many_tokens_as_liger_gives_it() -> None:
    """By its own example: 4 rows of 4096 tokens, 32000 words, width 4096: eight parts of 2048."""
    tokens = np.array([16384, 16380, 1, 8192])
    assert chunk_rows(tokens, 32000, 4096).tolist() == [2048, 2048, 1, 1024]
    assert chunk_rows(np.array([100]), 32, 64).tolist() == [128]  # one part; no more rows than there are are held


def test_the_grid_and_one_prediction_agree() -> None:
    """GIVEN several shapes at once THEN each has the chunk of its own tokens."""
    spec, device = load_model("llama-3-8b"), load("a100-80gb")
    choices = TrainingChoices(**{**LLAMA, "liger_kernels": ("fused_linear_cross_entropy",)})
    grid = predict_grid(spec, device, choices, [1, 3, 8], [512, 1000, 2048], 32)
    for index, (batch, length) in enumerate([(1, 512), (3, 1000), (8, 2048)]):
        alone = TrainingChoices(**{**LLAMA, "batch_size": batch, "max_length": length}, liger_kernels=PATCHED[2:])
        trained = {k: v for k, v in predict(spec, device, alone).instants.items() if k not in ("eval", "save")}
        assert grid.allocated[index] == pytest.approx(max(trained.values()), rel=2e-3)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"stack": "builtin"}, "--stack peft"),
        ({"loss": "chunked"}, "--loss full"),
        ({"precision": "bf16-mixed"}, "bf16-mixed"),
        (
            {"num_gpus": 2, "strategy": "fsdp", "checkpoint_reentrant": False, "precision": "bf16", "method": "full"},
            "fsdp",
        ),
        ({"lora_targets": ("q_proj", "lm_head")}, "head"),
    ],
)
def test_what_liger_does_not_do_is_refused(settings: dict[str, Any], named: str) -> None:
    """GIVEN what Liger has no switch or no model for THEN no number is given, and the option is named."""
    with pytest.raises(NotModelled, match=named):
        predict(load_model("llama-3-8b"), load("a100-80gb"), TrainingChoices(**{**LLAMA, **settings}))


@pytest.mark.parametrize("model", ["phi-2", "granite-3.1-2b", "qwen1.5-moe-a2.7b", "falcon-7b"])
def test_a_model_that_is_patched_otherwise_is_refused(model: str) -> None:
    """GIVEN no patch, or logits that it can't do without THEN the refusal says which models have a figure."""
    choices = TrainingChoices(stack="peft", liger=True, lora_targets=("attention",))
    with pytest.raises(NotModelled, match="qwen3"):
        predict(load_model(model), load("a100-80gb"), choices)


@pytest.mark.parametrize(("model", "said"), [("phi-2", "no kernels for phi"), ("granite-3.1-2b", "not modelled")])
def test_a_model_without_kernels_is_told_from_one_without_a_figure(model: str, said: str) -> None:
    with pytest.raises(NotModelled, match=said):
        predict(load_model(model), load("a100-80gb"), TrainingChoices(**ATTENTION))


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(InvalidInput, match="fused_linear_cross_entropy"):
        TrainingChoices(liger=True, liger_kernels=("softmax",))


EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {**EXPERT_CONFIGS["mixtral"], "intermediate_size": 704},
    "qwen3_moe": {**EXPERT_CONFIGS["qwen3_moe"], "moe_intermediate_size": 352, "mlp_only_layers": []},
}
ATTENTION: dict[str, Any] = {"lora_targets": ("attention",), "liger": True, "stack": "peft"}


@pytest.mark.parametrize("model", EXPERTS)
def test_experts_are_one_function_whose_backward_makes_both_weights_gradients(model: str) -> None:
    """GIVEN frozen experts WHEN their kernel runs THEN no sorted rows are kept, and backward still makes gradients."""
    spec, device = from_config(EXPERTS[model], "small"), load("a100-80gb")

    def instants(kernels: tuple[str, ...], tokens: int) -> dict[str, int]:
        chosen = {**ATTENTION, "liger_kernels": kernels, "gradient_checkpointing": False}
        return dict(predict(spec, device, TrainingChoices(**chosen, batch_size=1, max_length=tokens)).instants)

    kept = spec.num_layers * spec.experts_per_token * 2048 * 2 * spec.expert_intermediate_size
    assert instants(("rope",), 2048)["forward"] - instants(("rope", "swiglu"), 2048)["forward"] > kept
    experts = 3 * spec.num_experts * spec.hidden_size * spec.expert_intermediate_size * 2
    more = instants(("rope", "swiglu"), 16)["backward"] - instants(("rope",), 16)["backward"]
    assert 0.8 * experts < more <= experts


@pytest.mark.parametrize(
    ("settings", "config", "said"),
    [
        ({"lora_targets": ("all-linear",), "lora_dropout": 0.0}, {}, "adapters on experts"),
        ({"transformers_version": "4.48", "lora_dropout": 0.0}, {}, "modules of their own"),
        ({}, {"mlp_only_layers": [1]}, "dense layers"),
    ],
)
def test_experts_that_liger_fails_on_are_refused(settings: dict[str, Any], config: dict[str, Any], said: str) -> None:
    name = "qwen3_moe" if config else "mixtral"
    with pytest.raises(NotModelled, match=said):
        predict(
            from_config({**EXPERTS[name], **config}, "small"),
            load("a100-80gb"),
            TrainingChoices(**{**ATTENTION, **settings}),
        )


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointed": {"gradient_checkpointing": True},
    "re-entrant under autocast": {
        "gradient_checkpointing": True,
        "checkpoint_reentrant": True,
        "precision": "bf16-amp",
        "lora_dropout": 0.1,
    },
    "eager": {"attention": "eager"},
    "quantised": {"method": "qlora"},
    "full but for the loss": {"method": "full", "liger_kernels": LIGER_KERNELS[:3]},
    "on attention": {"lora_targets": ("attention",)},
    "checkpointed on attention": {"lora_targets": ("attention",), "gradient_checkpointing": True},
    "swiglu alone on attention": {"lora_targets": ("attention",), "liger_kernels": ("swiglu",)},
    **{f"{name} alone": {"liger_kernels": (name,)} for name in LIGER_KERNELS},
}
CASES = [("qwen3", name) for name in SETTINGS if "on attention" not in name] + [
    (model, "checkpointed") for model in ("llama-biased-tied", "mistral-window", "qwen2-window", "smollm3", "gemma")
]
CASES += [
    (model, name)
    for model in ("gemma2", "gemma3", "olmo2", "phi3")
    for name in ("plain", "checkpointed", "rope alone", "rms_norm alone", "swiglu alone", "full but for the loss")
]
CASES += [
    (model, name)
    for model in EXPERTS
    for name in ("on attention", "checkpointed on attention", "swiglu alone on attention", "full but for the loss")
]


@pytest.mark.nightly
@pytest.mark.parametrize(("model", "case"), CASES)
def test_liger_agrees_with_its_own_functions(model: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN Liger's own autograd functions in a traced step THEN every instant agrees to 0.1 %."""
    pytest.importorskip("liger_kernel")
    from benchmarks.accuracy.evaluate import closed_form, traced
    from trainer.trace import run as tracing

    monkeypatch.setattr(tracing, "CUDA_GRANULARITY", 1)
    wide = {"hidden_size": 512, "intermediate_size": 1408, "vocab_size": 8000, "max_position_embeddings": 2048}
    spec = from_config(EXPERTS[model] if model in EXPERTS else {**CONFIGS[model], **wide}, "small")
    shared: dict[str, Any] = {"batch_size": 4, "max_length": 512, "gradient_accumulation_steps": 1, "stack": "peft"}
    choices = TrainingChoices(**{**shared, "gradient_checkpointing": False, "liger": True, **SETTINGS[case]})
    traced(spec, choices)  # the first one in a process looks for Liger's backends, and holds on to what it had then
    expected = traced(spec, choices, evaluate=True)["instants"]
    found = closed_form(spec, choices)
    for name, size in expected.items():
        assert found[name] == pytest.approx(size, rel=1e-3), name
