"""Advice: every value follows a rule that names its source, and the trainer's record takes it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.records import Advice
from planner.contract.run_settings import DataSettings
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.data import dataset
from planner.data.use import DataUse
from planner.decide import advice as rules
from planner.decide.advice import adopt, hyperparameters, validation_share
from planner.decide.advice_case import advised_batch, advised_passes
from planner.decide.advice_length import warmup_share
from planner.decide.advice_sources import SCENARIOS
from planner.decide.question import Question
from planner.devices import hardware
from planner.models import sources
from planner.report.words import short_source

PHI = sources.load_model("phi-2")
LLAMA = sources.load_model("llama-3.2-1b")
QWEN = sources.load_model("qwen2.5-0.5b")
A10G = hardware.find("a10g")

ASKED_FOR = {
    *("learning_rate", "epochs", "effective_batch_size", "scheduler", "warmup_ratio", "weight_decay", "max_grad_norm"),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "precision", "padding", "validation_split", "optimizer"),
    *("eval_steps", "save_steps", "logging_steps", "early_stopping_patience"),
}


def advise(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    *,
    data: dataset.DatasetProfile | None = None,
    scenario: str = "standard",
    step_seconds: float | None = None,
) -> list[Advice]:
    """The advice on these, the data split as is advised."""
    use = None
    if data is not None:
        use = DataUse(profile=data, settings=DataSettings(validation_split=validation_share(data)))
    question = Question(model=model, hardware=hardware, choices=choices, data=use, scenario=scenario)
    return rules.advise(question, step_seconds=step_seconds)


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
        # By hand, at the 32 sequences of the defaults and rank 8: 4e-4 · 0.5 ** 0.25 · sqrt(32 / 128)
        (PHI, "lora", 1.7e-4),
        (PHI, "full", 1e-5),  # 2e-5 · 0.5
        (LLAMA, "lora", 2.6e-4),  # 6e-4 · 0.5 ** 0.2 · 0.5
        (LLAMA, "full", 2.5e-5),  # 5e-5 · (2000 / 2048) ** 0.781 · 0.5
        (QWEN, "lora", 1.5e-4),  # 3.5e-4 · 0.5 ** 0.2 · 0.5
    ],
    ids=lambda value: getattr(value, "id", value),
)
def test_learning_rates(model, method: str, rate: float) -> None:
    """GIVEN model and method THEN the rate is the rule's, by hand."""
    advice = advise(model, A10G, TrainingChoices(method=method))
    assert values(advice)["learning_rate"] == pytest.approx(rate)


def test_no_adapter_advice_for_full_training() -> None:
    """GIVEN full fine-tuning THEN nothing is said of adapters, and bf16 weights get their warning."""
    advice = advise(PHI, A10G, TrainingChoices(method="full"))
    assert not any(entry.name.startswith("lora_") for entry in advice)
    precision = next(entry for entry in advice if entry.name == "precision")
    assert "bf16-mixed" in precision.rule


def test_data_changes_the_advice(tmp_path: Path) -> None:
    """GIVEN small and larger data THEN epochs, warm-up, dropout and intervals follow the number of steps."""
    eight = TrainingChoices(batch_size=8, gradient_accumulation_steps=1)
    small = values(advise(PHI, A10G, eight, data=make_data(tmp_path, 300)))
    assert (small["epochs"], small["scheduler"], small["lora_dropout"]) == (3, "cosine", 0.05)
    assert small["eval_steps"] is None
    large = advise(PHI, A10G, TrainingChoices(), data=make_data(tmp_path, 20_000), step_seconds=2.0)
    found = values(large)
    # 563 steps an epoch, 1,689 in all: 0.1 · (1000 / 1689) ** 0.523
    assert (found["epochs"], found["scheduler"], found["warmup_ratio"]) == (3, "cosine", 0.076)
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


SIZES = (1, 2, 12, 40, 100, 300, 500, 700, 999, 1_000, 2_000, 20_000, 120_000)


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory) -> dict[int, dataset.DatasetProfile]:
    folder = tmp_path_factory.mktemp("sizes")
    return {size: make_data(folder, size) for size in SIZES}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("model", [PHI, LLAMA, QWEN], ids=lambda model: model.id)
def test_advice_does_not_contradict_itself(scenario: str, method: str, model, data_sets) -> None:
    """GIVEN any model, method, scenario and size of the data, at the batch that is advised for it THEN no entry says
    what another denies.
    """
    for size in SIZES:
        data = data_sets[size]
        preset = SCENARIOS[scenario]
        batch = advised_batch(data.training_examples(0.1), preset)
        asked = TrainingChoices(method=method, batch_size=1, gradient_accumulation_steps=batch, max_length=64)
        choices = adopt(asked, (), data)
        advice = advise(model, A10G, choices, data=data, scenario=scenario)
        found, rules = values(advice), {entry.name: entry.rule for entry in advice}
        steps = data.steps_per_epoch(batch, validation_split=0.1) * found["epochs"]
        assert found["effective_batch_size"] == batch <= preset.effective_batch_size
        # A short run is said to be one, with what to do, exactly where it is one.
        assert ("too few to learn" in rules["epochs"]) == (steps < 100), size
        assert ("makes more" in rules["effective_batch_size"]) == (steps < 100 and batch > 1), size
        # A batch is made smaller only for the steps' sake, and more passes only where even that was not enough.
        assert batch == preset.effective_batch_size or steps < 3 * 100
        assert found["epochs"] <= (preset.epochs or 3) or steps < 100 + found["epochs"] * batch * 10
        # More passes than the usual three are watched.
        assert found["epochs"] <= 3 or found["early_stopping_patience"] > 0
        evaluations = found["epochs"] * (1 if found["eval_steps"] is None else preset.evaluations_per_epoch)
        assert found["early_stopping_patience"] < max(2, evaluations)
        if method != "full":
            assert (found["lora_alpha"], found["lora_dropout"]) == (choices.lora_alpha, choices.lora_dropout)
            assert "instead of 32 / r" not in rules["learning_rate"]
        factor = 1.5 if "short" in rules["learning_rate"] else 1.0
        assert factor == 1.0 or steps < 1_000
        record = hyperparameters(advice)
        assert (record.learning_rate, record.epochs) == (found["learning_rate"], found["epochs"])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_one_example_more_moves_nothing_by_a_jump(scenario: str) -> None:
    """GIVEN one example more THEN batch and passes move by a step of their scale, and never the other way."""
    preset = SCENARIOS[scenario]
    batches = [advised_batch(examples, preset) for examples in range(1, 3_000)]
    assert batches == sorted(batches)
    assert all(after <= 2 * before for before, after in itertools.pairwise(batches))
    passes = [advised_passes(n, batch, preset) for n, batch in enumerate(batches, start=1)]
    assert all(abs(after - before) <= 4 for before, after in itertools.pairwise(passes))
    assert all(warmup_share(n + 1) <= warmup_share(n) <= 1.1 * warmup_share(n + 1) for n in range(1, 20_000))


def test_twelve_examples(tmp_path: Path) -> None:
    """GIVEN 12 examples THEN a hundred steps are planned over ten watched passes, and the reason is said."""
    data = make_data(tmp_path, 12)
    batch = advised_batch(data.training_examples(0.1), SCENARIOS["standard"])
    advice = advise(PHI, A10G, TrainingChoices(batch_size=1, gradient_accumulation_steps=batch), data=data)
    found = values(advice)
    assert data.steps_per_epoch(batch, validation_split=0.1) * found["epochs"] >= 100
    assert found["early_stopping_patience"] > 0
    assert "12 examples" in next(entry.rule for entry in advice if entry.name == "epochs")


def test_every_row_says_how_sure_it_is() -> None:
    """GIVEN the advice THEN what others take or what the rule loses stands beside the values that people argue about,
    and the guides' value where it is another.
    """
    by_name = {entry.name: entry for entry in advise(PHI, A10G, TrainingChoices())}
    for name in ("learning_rate", "epochs", "effective_batch_size", "lora_dropout", "weight_decay", "warmup_ratio"):
        assert by_name[name].spread
        assert "guide" in by_name[name].guides
