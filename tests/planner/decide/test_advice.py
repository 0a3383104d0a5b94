"""Advice: every value follows a rule that names its source, and the trainer's record takes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.contract.errors import InvalidInput
from planner.contract.records import Advice
from planner.contract.spec import TrainingChoices
from planner.data import dataset
from planner.decide.advice import SCENARIOS, advise, hyperparameters
from planner.devices import hardware
from planner.models import sources
from planner.report.words import short_source

PHI = sources.load_model("phi-2")
LLAMA = sources.load_model("llama-3.2-1b")
QWEN = sources.load_model("qwen2.5-0.5b")
A10G = hardware.find("a10g")

ASKED_FOR = {
    *("learning_rate", "epochs", "effective_batch_size", "scheduler", "warmup_ratio", "weight_decay", "max_grad_norm"),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "precision", "padding", "validation_split"),
    *("eval_steps", "save_steps", "logging_steps", "early_stopping_patience"),
}


def values(advice: list[Advice]) -> dict[str, object]:
    return {entry.name: entry.value for entry in advice}


def make_data(folder: Path, examples: int, completion: int = 40) -> dataset.DatasetProfile:
    path = folder / f"{examples}.jsonl"
    row = json.dumps({"prompt": "x" * 40, "completion": "y" * completion})
    path.write_text(f"{row}\n" * examples, encoding="utf-8")
    return dataset.profile(path, vocab_size=256)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("model", [PHI, LLAMA, QWEN], ids=lambda model: model.id)
def test_every_value_has_rule_and_source(scenario: str, model) -> None:
    """GIVEN any scenario THEN each hyperparameter is advised once, with a rule and a source a reader can find."""
    advice = advise(model, A10G, TrainingChoices(), scenario=scenario)
    assert {entry.name for entry in advice} == ASKED_FOR
    assert len(advice) == len(ASKED_FOR)
    for entry in advice:
        assert entry.rule
        assert "guide" in entry.source or "https://" in entry.source
        assert short_source(entry.source)
    hyperparameters(advice)


@pytest.mark.parametrize(
    ("model", "method", "rate"),
    [
        (PHI, "lora", 2e-4),
        (PHI, "full", 2e-5),
        # 5e-5 · 10 · (2000 / 2048) ** 0.781 and (2000 / 896) ** 0.0775, by hand
        (LLAMA, "lora", 4.9e-4),
        (LLAMA, "full", 4.9e-5),
        (QWEN, "lora", 5.3e-4),
    ],
    ids=lambda value: getattr(value, "id", value),
)
def test_learning_rates(model, method: str, rate: float) -> None:
    """GIVEN model and method THEN the rate is the published rule's, by hand."""
    advice = advise(model, A10G, TrainingChoices(method=method))
    assert values(advice)["learning_rate"] == pytest.approx(rate)


def test_no_adapter_advice_for_full_training() -> None:
    """GIVEN full fine-tuning THEN nothing is said of adapters, and bf16 weights get their warning."""
    advice = advise(PHI, A10G, TrainingChoices(method="full"))
    assert not any(entry.name.startswith("lora_") for entry in advice)
    precision = next(entry for entry in advice if entry.name == "precision")
    assert "bf16-mixed" in precision.rule


def test_data_changes_the_advice(tmp_path: Path) -> None:
    """GIVEN small and larger data THEN epochs, warm-up, schedule, dropout and intervals follow the number of steps."""
    small = values(advise(PHI, A10G, TrainingChoices(), data=make_data(tmp_path, 300)))
    assert (small["epochs"], small["scheduler"], small["lora_dropout"]) == (5, "constant", 0.1)
    assert small["learning_rate"] == pytest.approx(3e-4)
    assert small["eval_steps"] is None
    large = advise(PHI, A10G, TrainingChoices(), data=make_data(tmp_path, 20_000), step_seconds=2.0)
    found = values(large)
    assert (found["epochs"], found["scheduler"], found["warmup_ratio"]) == (3, "cosine", 0.06)
    assert found["eval_steps"] == 563 // 5
    assert found["logging_steps"] == 30
    assert hyperparameters(large).eval_steps == 112


def test_rank_follows_the_tokens(tmp_path: Path) -> None:
    """GIVEN more completion tokens than adapter parameters THEN a larger rank is advised, and not otherwise."""
    tiny = replace(TrainingChoices(), lora_targets=("q_proj",))
    rank = next(
        entry
        for entry in advise(QWEN, A10G, tiny, data=make_data(tmp_path, 2000, completion=500))
        if entry.name == "lora_r"
    )
    # q_proj of 24 layers: 8 · (896 + 896) · 24 = 344,064 parameters against 1,002,000 tokens; rank 32 holds them.
    assert rank.value == 32
    assert "--lora-r 32" in rank.rule
    enough = advise(QWEN, A10G, TrainingChoices(), data=make_data(tmp_path, 300))
    assert values(enough)["lora_r"] == 8


def test_overrides_win_and_unknown_ones_are_refused() -> None:
    """GIVEN values of the user's THEN they win over the advice; a misspelt one is named."""
    advice = advise(PHI, A10G, TrainingChoices())
    assert hyperparameters(advice, learning_rate=1e-3, epochs=None).learning_rate == 1e-3
    with pytest.raises(InvalidInput, match="unknown hyperparameter 'learning_rat'"):
        hyperparameters(advice, learning_rat=1)
    with pytest.raises(InvalidInput, match="--scenario 'fast'"):
        advise(PHI, A10G, TrainingChoices(), scenario="fast")
