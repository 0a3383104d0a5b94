"""Closed form against the traced step: encoders (masked and classification heads) and T5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec
from planner.memory.engine.peak import envelope
from planner.memory.engine.values import chunk_rows, multipliers
from planner.memory.step.case import Case
from planner.memory.step.program import run
from planner.models.sources import from_config

pytest.importorskip("torch")

CUBLAS = 2 * 8519680
ENCODER = {"vocab_size": 2000, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
DISTIL = {"vocab_size": 2000, "dim": 128, "n_heads": 4, "hidden_dim": 512, "n_layers": 4}
T5 = {"vocab_size": 2000, "d_model": 128, "num_heads": 4, "d_kv": 32, "d_ff": 512, "decoder_start_token_id": 0}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", "num_hidden_layers": 4, **ENCODER},
    "roberta": {"model_type": "roberta", "num_hidden_layers": 4, "max_position_embeddings": 1026, **ENCODER},
    "distilbert": {"model_type": "distilbert", **DISTIL},
    "bert-classifier": {
        "model_type": "bert",
        "num_hidden_layers": 4,
        "architectures": ["BertForSequenceClassification"],
        **ENCODER,
    },
    "roberta-classifier": {
        "model_type": "roberta",
        "num_hidden_layers": 4,
        "max_position_embeddings": 1026,
        "architectures": ["RobertaForSequenceClassification"],
        **ENCODER,
    },
    "t5": {"model_type": "t5", "num_layers": 4, "num_decoder_layers": 5, **T5},
    "t5-v1.1": {
        "model_type": "t5",
        "num_layers": 5,
        "num_decoder_layers": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        **T5,
    },
}
CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"method": "full"},
    "lora-checkpointed": {"gradient_checkpointing": True},
    "full-checkpointed-padded": {"method": "full", "gradient_checkpointing": True, "padded": True},
    "eager-padded": {"attention": "eager", "padded": True},
}


def predicted(spec: ModelSpec, choices: TrainingChoices, padded: bool) -> dict[str, int]:
    """Largest live bytes of each instant by the closed form, library workspaces included."""
    layers = choices.checkpointed_layers(spec.total_layers)
    windowed = bool(spec.sliding_layers) and choices.max_length >= (spec.sliding_window or 0)
    found = envelope(run(Case(spec, choices, layers, padded, windowed)).ledger)
    arrays = (np.array([n]) for n in (choices.batch_size, choices.max_length, layers))
    live = (multipliers(*arrays, chunk_rows(spec.vocab_size)) @ found.coefficients.T.astype(float))[0]
    instants: dict[str, int] = {}
    for name, size in zip(found.instants, live, strict=True):
        instants[name] = max(instants.get(name, 0), round(size) + CUBLAS)
    return instants


def compare(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, tolerance: float = 2e-3, **settings: Any
) -> None:
    """Peak and the instants that a trace has agree; blocks are not rounded, which at these sizes is 0.1 %."""
    from trainer.trace import run as tracing

    monkeypatch.setattr(tracing, "CUDA_GRANULARITY", 1)
    padded = settings.pop("padded", False)
    settings = {"gradient_checkpointing": False, "gradient_accumulation_steps": 1, "stack": "peft", **settings}
    choices = TrainingChoices(batch_size=4, max_length=256, **settings)
    spec = from_config(config, "tested")
    expected = tracing.trace(dict(spec.config), choices, tracing.Setup(padded=padded))
    found = predicted(spec, choices, padded)
    assert max(found.values()) == pytest.approx(expected.allocated_peak_bytes, rel=tolerance)
    for name in ("forward", "loss", "backward"):
        if name in expected.instants:
            assert found[name] == pytest.approx(expected.instants[name], rel=tolerance), name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("config", ["bert", "t5-v1.1"])
def test_every_case(config: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods, checkpointing, masks and kernels of one encoder and one encoder-decoder."""
    compare(CONFIGS[config], monkeypatch, **CASES[case])


@pytest.mark.parametrize("config", [name for name in CONFIGS if name not in ("bert", "t5-v1.1")])
def test_every_family(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other families and heads, with adapters on the attention and checkpointing."""
    compare(CONFIGS[config], monkeypatch, gradient_checkpointing=True, lora_targets=("attention",))


@pytest.mark.parametrize("layers", [2, 6])
def test_t5_checkpoints_encoder_first(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first N layers are the encoder's, then the decoder's."""
    compare(CONFIGS["t5"], monkeypatch, gradient_checkpointing=True, checkpoint_layers=layers)


@pytest.mark.parametrize("shape", [(4, 256, 64), pytest.param((2, 128, 250), marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "settings",
    [
        {"stack": "peft"},
        pytest.param(
            {"stack": "builtin", "gradient_checkpointing": False, "lora_dropout": 0.0}, marks=pytest.mark.nightly
        ),
        pytest.param({"stack": "peft", "attention": "eager", "padding": "max"}, marks=pytest.mark.nightly),
        {"stack": "builtin", "method": "full", "checkpoint_layers": 6},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_answers_have_a_length_of_their_own(
    settings: dict[str, Any], shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every instant of a step and an evaluation, answers shorter and longer than what is read."""
    from planner import memory
    from planner.calibration import attach
    from trainer.trace import run as tracing

    monkeypatch.setattr(tracing, "CUDA_GRANULARITY", 1)
    batch, length, answers = shape
    choices = TrainingChoices(
        batch_size=batch, max_length=length, max_target_length=answers, **{"loss": "full", **settings}
    ).with_usual_implementation("cuda")
    card, spec = attach.find("a100-80gb"), from_config(CONFIGS["t5-v1.1"], "tested")
    padded = choices.padding == "max" and choices.stack == "peft"
    expected = tracing.trace(dict(spec.config), choices, tracing.Setup(padded=padded, evaluate=True)).instants
    found = memory.predict(spec, card, choices).instants
    for name in ("forward", "loss", "backward", "optimizer", "eval"):
        assert found[name] == pytest.approx(expected[name], rel=2e-3), name


@pytest.mark.parametrize("config", ["t5-v1.1", "bert"])
def test_offloaded_layers_bring_all_their_positional_arguments_back(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks, T5's relative positions and the encoder's states go to the host with the hidden states."""
    compare(
        CONFIGS[config],
        monkeypatch,
        method="full",
        gradient_checkpointing=True,
        checkpoint_offload=True,
        padded=True,
        padding="max",
    )
