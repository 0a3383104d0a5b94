"""Every option of the training guides that no other test runs, each on a short real run of a tiny model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from tests.support.trainer_support import make_model, make_plan, of_kind, train

RUNS: dict[str, dict[str, Any]] = {
    "cosine": {"scheduler": "cosine", "min_learning_rate_ratio": 0.1},
    "cosine-restarts": {"scheduler": "cosine-restarts", "scheduler_cycles": 2},
    "linear": {"scheduler": "linear", "min_learning_rate_ratio": 0.01},
    "polynomial": {"scheduler": "polynomial", "polynomial_power": 2.0},
    "step": {"scheduler": "step", "scheduler_step_epochs": 0.5, "scheduler_gamma": 0.5},
    "constant": {"scheduler": "constant", "warmup_ratio": 0.0},
    "warmup-steps": {"warmup_steps": 2},
    "adamw": {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.98, "epsilon": 1e-6},
    "workers": {"dataloader_workers": 1},
    "unsorted": {"group_by_length": False, "train_on_prompt": True},
    "logging": {"logging_steps": 2, "eval_steps": 2, "save_steps": 4, "save_total_limit": 1},
    "early-stopping": {"early_stopping_patience": 5, "early_stopping_threshold": 1e-4},
    "sample": {"sample_prompt": "say ab", "sample_max_new_tokens": 2},
}


@pytest.mark.parametrize("name", RUNS)
def test_it_runs(model: Path, data: Path, tmp_path: Path, name: str) -> None:
    plan = make_plan(tmp_path / "plan.json", model, data, **({"max_steps": 4} | RUNS[name]))
    events, failure = train(plan, tmp_path / "run")
    assert failure is None, failure
    assert of_kind(events, "finished")[0]["steps"] == 4
    assert all(math.isfinite(step["loss"]) for step in of_kind(events, "step"))


def test_cosine_restarts_rise_again() -> None:
    from trainer.loop.schedules import multiplier

    h = Hyperparameters(scheduler="cosine-restarts", scheduler_cycles=2, warmup_ratio=0.0, min_learning_rate_ratio=0.1)
    rates = [multiplier(step, hyperparameters=h, total_steps=101, steps_per_epoch=10) for step in range(101)]
    assert rates[0] == rates[50] == 1.0
    assert rates[49] < 0.11
    assert rates[100] == pytest.approx(0.1)


def test_a_checkpoint_every_n_epochs_and_the_last_n_kept(model: Path, data: Path, tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path / "plan.json", model, data, epochs=4.0, save_epochs=2.0, save_total_limit=2, learning_rate=1e-9
    )
    events, failure = train(plan, tmp_path / "run")
    assert failure is None, failure
    assert {8, 16} <= {entry["step"] for entry in of_kind(events, "checkpoint")}
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) <= 2


def test_deterministic_runs_are_equal_bit_for_bit(model: Path, data: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    plan = make_plan(tmp_path / "plan.json", model, data, deterministic=True, seed=7, max_steps=3)
    try:
        for name in ("one", "two"):
            _, failure = train(plan, tmp_path / name)
            assert failure is None, failure
    finally:
        torch.use_deterministic_algorithms(False)
    one, two = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_generation_with_temperature_top_p_and_top_k(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import main

    def said(*options: str) -> str:
        assert main(["generate", str(model), "--prompt", "say ab", "--max-new-tokens", "12", *options]) == 0
        return capsys.readouterr().out

    greedy = said()
    assert said("--temperature", "0") == greedy == said("--temperature", "1", "--top-k", "1")
    sampled = {
        said("--temperature", "1.5", "--top-p", "0.95", "--top-k", "40", "--seed", str(seed)) for seed in range(3)
    }
    assert len(sampled) > 1
    assert said("--temperature", "1", "--seed", "5") == said("--temperature", "1", "--seed", "5")
    assert main(["generate", str(model), "--prompt", "x", "--top-p", "0"]) == 2


def test_flags_override_the_plan_file(model: Path, data: Path, tmp_path: Path) -> None:
    """As the guides write them, with underscores or hyphens."""
    from trainer.__main__ import parser
    from trainer.commands.arguments import given_hyperparameters
    from trainer.wire.request import Request, read_plan

    plan = make_plan(tmp_path / "plan.json", model, data)
    words = "--learning_rate 1e-4 --epochs 20 --warmup-ratio 0.03 --weight-decay 0.01 --torch-compile --seed 3"
    given = parser().parse_args(["run", str(plan), *words.split(), "--report-to", "none", "--eval-steps", "500"])
    h = read_plan(Request(plan=plan, overrides=given_hyperparameters(given))).hyperparameters
    assert (h.learning_rate, h.epochs, h.warmup_ratio, h.weight_decay) == (1e-4, 20.0, 0.03, 0.01)
    assert (h.torch_compile, h.seed, h.report_to, h.eval_steps) == (True, 3, (), 500)
    wrong = parser().parse_args(["run", str(plan), "--scheduler", "saw"])
    with pytest.raises(InvalidInput, match=r"--scheduler: .* not 'saw'"):
        read_plan(Request(plan=plan, overrides=given_hyperparameters(wrong)))


@pytest.mark.nightly
def test_torch_compile_trains(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer, so that compiling takes seconds; same losses as without.

    On a cpu the first three steps run under the storage meter, a dispatch mode, where nothing is compiled.
    The default backend writes and compiles C++ for half a minute; what is tested here is all but that.
    """
    import functools

    import torch._dynamo.utils
    import transformers
    from accelerate.state import AcceleratorState

    aot = functools.partial(transformers.TrainingArguments, torch_compile_backend="aot_eager")
    small = make_model(tmp_path / "one", layers=1)
    counted = torch._dynamo.utils.counters
    losses = []
    for compiled in (False, True):
        settings = {"lora_dropout": 0.0, "padding": "max", "gradient_accumulation_steps": 1, "stack": "peft"}
        AcceleratorState._reset_state(True)  # type: ignore[attr-defined]  # a process of its own has a fresh one
        file = tmp_path / f"{compiled}.json"
        if compiled:
            monkeypatch.setattr(transformers, "TrainingArguments", aot)
        plan = make_plan(
            file,
            small,
            data,
            settings=settings,
            torch_compile=compiled,
            max_steps=5,
            data_settings={"validation_split": 0.0},
        )
        events, failure = train(plan, tmp_path / f"run-{compiled}")
        assert failure is None, failure
        assert bool(counted["stats"]["unique_graphs"]) == compiled
        losses.append([step["loss"] for step in of_kind(events, "step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_coverage_table_names_tests_that_exist() -> None:
    import re

    root = Path(__file__).parents[3]
    named = re.findall(
        r"`(?:(test_\w+))?(?:::(test_\w+))?(?:\[[^`]*\])?`", (root / "docs/guides-coverage.md").read_text()
    )
    assert len(named) > 50
    paths = {path.stem: path for path in (root / "tests").rglob("test_*.py")}
    file = ""
    for module, function in named:
        file = module or file
        if not file:
            continue
        assert file in paths, file
        assert not function or f"def {function}(" in paths[file].read_text(), f"{file}::{function}"
