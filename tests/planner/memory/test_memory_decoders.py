"""Closed form against the trace of the real step: decoders, at small dimensions and in their variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.contract.architectures import ARCHITECTURES
from planner.contract.choices import TrainingChoices
from planner.memory.engine.peak import envelope
from planner.memory.engine.values import multipliers
from planner.memory.step.case import Case
from planner.memory.step.program import run
from planner.models.sources import from_config

pytest.importorskip("torch")

WORKSPACES = 2 * 8519680
TOLERANCE = 0.002
INSTANTS = ("forward", "loss", "backward")

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BASE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "vocab_size": 1024,
} | _IDS
_GROUPED = _BASE | {"num_key_value_heads": 2}
_GPT = {"n_embd": 256, "n_head": 4, "n_layer": 5, "n_positions": 512, "vocab_size": 1024} | _IDS
_FALCON = {key: value for key, value in _BASE.items() if key != "intermediate_size"}
_WINDOW = {"use_sliding_window": True, "sliding_window": 128}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-biased-tied": _GROUPED
    | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 128},
    "mistral-window": _GROUPED | {"model_type": "mistral", "sliding_window": 128},
    "qwen2-window": _GROUPED | _WINDOW | {"model_type": "qwen2", "max_window_layers": 2},
    "qwen3": _GROUPED | {"model_type": "qwen3", "head_dim": 128},
    "smollm3": _GROUPED | {"model_type": "smollm3"},
    "granite": _GROUPED | {"model_type": "granite", "embedding_multiplier": 12.0},
    "phi": _BASE | {"model_type": "phi", "resid_pdrop": 0.1},
    "phi3": _GROUPED | {"model_type": "phi3", "partial_rotary_factor": 0.75, "resid_pdrop": 0.1},
    "gemma": _GROUPED | {"model_type": "gemma", "head_dim": 128},
    "gemma2": _GROUPED | {"model_type": "gemma2", "head_dim": 64, "sliding_window": 128},
    "gemma3": _GROUPED
    | {"model_type": "gemma3_text", "head_dim": 64, "sliding_window": 128, "sliding_window_pattern": 2},
    "gpt2": _GPT | {"model_type": "gpt2"},
    "gpt-bigcode": _GPT | {"model_type": "gpt_bigcode"},
    "gpt-bigcode-heads": _GPT | {"model_type": "gpt_bigcode", "multi_query": False},
    "gpt-neox": _BASE | {"model_type": "gpt_neox", "rotary_pct": 0.25},
    "gpt-neox-serial": _BASE | {"model_type": "gpt_neox", "use_parallel_residual": False, "hidden_dropout": 0.1},
    "falcon-40b": _FALCON | {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-7b": _FALCON | {"model_type": "falcon"},
    "falcon-serial": _FALCON
    | {"model_type": "falcon", "parallel_attn": False, "multi_query": False, "bias": True, "attention_dropout": 0.1},
    "stablelm": _GROUPED | {"model_type": "stablelm", "use_qkv_bias": True},
    "stablelm-parallel": _GROUPED | {"model_type": "stablelm", "use_parallel_residual": True, "hidden_dropout": 0.1},
    "olmo": _BASE | {"model_type": "olmo", "clip_qkv": 8.0},
    "olmo2": _BASE | {"model_type": "olmo2"},
    "starcoder2": _GROUPED | {"model_type": "starcoder2", "residual_dropout": 0.1, "sliding_window": 128},
}
_COVERED = {config["model_type"] for config in CONFIGS.values()}
DEFAULTS = {  # what has no variant of its own: every other decoder of Llama's kind, as its defaults make it
    name: _GROUPED | {"model_type": name, "head_dim": 64}
    for name, record in ARCHITECTURES.items()
    if name not in _COVERED and record.decoder is not None and record.experts is None
}
CONFIGS |= DEFAULTS

RUNS: dict[str, tuple[dict[str, Any], bool]] = {
    "lora": ({"lora_dropout": 0.05, "gradient_checkpointing": False}, False),
    "full-eager-checkpointed": ({"method": "full", "attention": "eager"}, False),
    "padded-checkpointed": ({"adapter_dtype": "bf16", "lora_targets": ("attention",)}, True),
}


def closed_form(config: dict[str, Any], choices: TrainingChoices, *, padded: bool) -> dict[str, int]:
    """Peaks by instant in bytes."""
    spec = from_config(dict(config), "small")
    window = spec.sliding_window
    windowed = bool(spec.sliding_layers) and window is not None and choices.max_length >= window
    layers = choices.checkpointed_layers(spec.num_layers)
    unaligned = choices.max_length % 16 != 0
    found = envelope(run(Case(spec, choices, layers, padded=padded, windowed=windowed, unaligned=unaligned)).ledger)
    values = multipliers(np.array([choices.batch_size]), np.array([choices.max_length]), np.array([layers]), 0)
    peaks: dict[str, int] = {}
    for name, size in zip(found.instants, (values @ found.coefficients.T.astype(np.float64))[0], strict=True):
        peaks[name] = max(peaks.get(name, 0), round(float(size)) + WORKSPACES)
    return peaks


PADDED = ("qwen2-window", "phi3", "gemma2", "gpt-bigcode", "gpt-neox", "falcon-serial", "starcoder2")
CASES = [(name, run_name) for name in CONFIGS for run_name in RUNS if not RUNS[run_name][1] or name in PADDED]
BY_DAY = {name: ("lora", "full-eager-checkpointed")[number % 2] for number, name in enumerate(DEFAULTS)}
"""Of what differs little, each is traced by day in one of the two ways."""


@pytest.mark.parametrize(
    ("name", "run_name"),
    [pytest.param(name, way, marks=() if BY_DAY.get(name, way) == way else pytest.mark.nightly) for name, way in CASES],
)
def test_every_instant_agrees_with_the_trace(name: str, run_name: str) -> None:
    from trainer.trace import Setup, trace

    keys, padded = RUNS[run_name]
    options = {"gradient_accumulation_steps": 1, "lora_dropout": 0.0, "stack": "peft"} | keys
    choices = TrainingChoices(batch_size=4, max_length=256, **options)
    spec = from_config(dict(CONFIGS[name]), "small")
    traced = trace(dict(spec.config), choices, Setup(padded=padded)).instants
    closed = closed_form(CONFIGS[name], choices, padded=padded)
    for instant in INSTANTS:
        assert closed[instant] == pytest.approx(traced[instant], rel=TOLERANCE), instant


VARIED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "single sequence, eager": ("gpt-neox", {"attention": "eager", "batch_size": 1, "max_length": 512}, False),
    "mask rows padded": ("gpt-bigcode", {"max_length": 250}, True),
    "mixed, fp32 softmax": ("gpt2", {"attention": "eager", "precision": "bf16-mixed"}, False),
    "mixed, seven-operator activation": ("phi", {"precision": "fp16-mixed", "gradient_checkpointing": True}, False),
    "mixed, transposed weights": ("falcon-40b", {"precision": "bf16-mixed", "method": "full"}, False),
    "fp16 beside bf16 adapters": ("granite", {"precision": "fp16", "adapter_dtype": "bf16"}, False),
    "reentrant": ("olmo2", {"gradient_checkpointing": True, "checkpoint_reentrant": True}, False),
    "packed rows share a mask": ("gemma3", {"padding": "packed", "batch_size": 16, "max_length": 512}, False),
    "an offloaded leaf is one again": (
        "olmo2",
        {"precision": "bf16-mixed", "gradient_checkpointing": True, "checkpoint_offload": True},
        False,
    ),
    "an offloaded input is not kept": (
        "olmo2",
        {"gradient_checkpointing": True, "checkpoint_offload": True, "lora_targets": ("k_proj",)},
        False,
    ),
    "a transposed weight is a leaf": (
        "gpt2",
        {"lora_variant": "dora", "lora_dropout": 0.1, "precision": "bf16-mixed", "lora_targets": ("c_fc", "c_proj")},
        False,
    ),
    "autocast keeps the cast of a leaf": ("olmo2", {"precision": "bf16-mixed", "gradient_checkpointing": True}, False),
    "the composite kernel leaves autocast": ("falcon-7b", {"precision": "bf16-mixed"}, False),
    "autocast to fp16 over bf16 adapters": (
        "llama-biased-tied",
        {"precision": "fp16-mixed", "adapter_dtype": "bf16"},
        False,
    ),
    "an unused output of a re-entrant layer": (
        "falcon-40b",
        {"attention": "eager", "gradient_checkpointing": True, "checkpoint_reentrant": True},
        False,
    ),
    "a mask by position goes to the host": (
        "gpt2",
        {"method": "full", "attention": "eager", "gradient_checkpointing": True, "checkpoint_offload": True},
        False,
    ),
    "the second piece of a lean function": (
        "gpt2",
        {"stack": "builtin", "batch_size": 6, "max_length": 512, "lora_targets": ("attention",)},
        False,
    ),
    "casts are gone before the kernel's output is copied": (
        "gpt-neox",
        {"stack": "builtin", "precision": "bf16-mixed", "gradient_checkpointing": True},
        False,
    ),
    "nothing made again": ("gemma2", {"stack": "builtin", "made_again": ()}, False),
    "an MLP made again between norms that are kept": (
        "llama-biased-tied",
        {"stack": "builtin", "made_again": ("mlp",), "precision": "bf16-mixed"},
        False,
    ),
    "nothing made again but what checkpoints do": (
        "phi",
        {"stack": "builtin", "made_again": (), "gradient_checkpointing": True, "lora_dropout": 0.05},
        False,
    ),
    "functional dropout": ("starcoder2", {"method": "full", "stack": "builtin"}, False),
}


@pytest.mark.parametrize("name", VARIED)
def test_combinations_that_hid_misses_agree_with_the_trace(name: str) -> None:
    from trainer.trace import Setup, trace

    family, keys, padded = VARIED[name]
    options = {"gradient_accumulation_steps": 1, "lora_dropout": 0.0, "stack": "peft", "gradient_checkpointing": False}
    choices = TrainingChoices(**{"batch_size": 4, "max_length": 256, **options, **keys})
    spec = from_config(dict(CONFIGS[family]), "small")
    traced = trace(dict(spec.config), choices, Setup(padded=padded)).instants
    closed = closed_form(CONFIGS[family], choices, padded=padded)
    for instant in INSTANTS:
        assert closed[instant] == pytest.approx(traced[instant], rel=TOLERANCE), instant


def test_what_the_copies_of_a_layer_share_goes_once() -> None:
    # Without gradients for queries and keys in the first layer, the other layers alone keep the rotary tables.
    from trainer.trace import trace

    choices = TrainingChoices(
        batch_size=1, max_length=2048, gradient_checkpointing=False, stack="peft", lora_targets=("v_proj",)
    )
    spec = from_config(dict(CONFIGS["qwen3"]), "small")
    traced = trace(dict(spec.config), choices).instants["optimizer"]
    waiting = 24 * 2048 * (choices.gradient_accumulation_steps - 1)
    closed = closed_form(CONFIGS["qwen3"], choices, padded=False)["optimizer"] + waiting
    tables = 2 * 2048 * 128 * 2
    assert abs(closed - traced) < tables / 10


def test_one_key_value_head_without_grouping_takes_the_composite_kernel() -> None:
    # Falcon 7B hands one key-value head to a function that spreads it only in its composite form: scores in fp32,
    # three copies of them beside the flags while the softmax is cleaned.
    config = _FALCON | {"model_type": "falcon"}
    choices = TrainingChoices(batch_size=4, max_length=256, gradient_checkpointing=False, stack="peft")
    scores = 4 * 4 * 256 * 256
    grouped = closed_form(config | {"new_decoder_architecture": True, "num_kv_heads": 2}, choices, padded=False)
    single = closed_form(config, choices, padded=False)
    assert single["forward"] - grouped["forward"] > 5 * 4 * scores


def test_what_has_no_program_is_refused_by_name() -> None:
    from planner.contract.errors import NotModelled

    choices = TrainingChoices(batch_size=1, max_length=64, stack="peft", attention="eager")
    with pytest.raises(NotModelled, match="reorder_and_upcast_attn"):
        closed_form(_GPT | {"model_type": "gpt2", "reorder_and_upcast_attn": True}, choices, padded=False)


@pytest.mark.parametrize("changes", [{"gradient_accumulation_steps": 4}, {"precision": "bf16-mixed"}])
def test_an_evaluation_holds_no_gradients_but_autocast_s_casts_of_trained_weights(changes: dict[str, Any]) -> None:
    from planner import memory
    from planner.devices.hardware import find
    from trainer.trace import Setup, trace

    options = {"method": "full", "stack": "peft", "gradient_accumulation_steps": 1, **changes}
    choices = TrainingChoices(batch_size=2, max_length=64, **options)
    spec = from_config(dict(CONFIGS["llama-biased-tied"]), "small")
    traced = trace(dict(spec.config), choices, Setup(evaluate=True)).instants["eval"]
    predicted = memory.predict(spec, find("a100-80gb"), choices).instants["eval"]
    assert predicted == pytest.approx(traced, rel=TOLERANCE)
