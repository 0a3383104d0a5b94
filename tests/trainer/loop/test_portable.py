"""What leaves the machine with a run says nothing of the user's folders or data; equal runs write equal files."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from tests.support.trainer_support import make_model, make_plan, of_kind, train, write_pairs
from trainer.loop.saving import _in_order, needed_history
from trainer.recovery import checkpoints
from trainer.recovery.symptoms import Symptoms
from trainer.wire import portable


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of a person's name, its observations' folder) after a run with evaluations and a tracker."""
    folder = tmp_path_factory.mktemp("alice-wonder")
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(home))
        model = make_model(folder / "secret-base")
        plan = make_plan(
            folder / "plan.json", model, write_pairs(folder / "patients.jsonl"), report_to=("tensorboard",), epochs=1.0
        )
        _, failure = train(plan, folder / "secret-run")
    assert failure is None, failure
    return folder, home


def test_nothing_that_is_passed_on_names_a_folder_or_quotes_data(ran: tuple[Path, Path]) -> None:
    folder, home = ran
    run = folder / "secret-run"
    local = {"plan.yaml", "events.jsonl", "log.txt", "lock"}
    files = [path for path in [*run.rglob("*"), *home.rglob("*")] if path.is_file() and path.name not in local]
    assert {"adapter_config.json", "README.md", "observation.json", "trainer_state.json", "tuneplan.json"} <= {
        path.name for path in files
    }
    assert any(path.parent.name == "tensorboard" for path in files)
    assert len(list((home / "observations").iterdir())) == 1
    for path in files:
        content = path.read_bytes()
        for word in (str(folder), folder.name, "patients", "secret-run", "say ab"):
            assert word.encode() not in content, (path, word)
        if path.is_relative_to(home):
            assert "secret-run" not in path.name
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "./secret-base"
    assert "base_model: ./secret-base" in (run / "adapter/README.md").read_text()


def test_the_base_is_found_by_the_runs_plan(ran: tuple[Path, Path], tmp_path: Path) -> None:
    from trainer.commands.merge import merge
    from trainer.weights.adapter_files import base_of

    folder, _ = ran
    run = folder / "secret-run"
    assert base_of(run / "adapter") == str(folder / "secret-base")
    assert merge(run, tmp_path / "merged").bytes > 0
    shutil.copytree(run / "adapter", tmp_path / "alone")
    with pytest.raises(InvalidInput, match="folder named 'secret-base', and nothing here says where"):
        base_of(tmp_path / "alone")
    config = json.loads((tmp_path / "alone/adapter_config.json").read_text())
    for value in ("org/model", str(folder / "secret-base")):
        (tmp_path / "alone/adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": value}))
        assert base_of(tmp_path / "alone") == value


def test_a_moved_run_goes_on_with_its_best_checkpoint(ran: tuple[Path, Path], tmp_path: Path) -> None:
    """GIVEN a finished run that was moved WHEN it is resumed THEN the best checkpoint's weights become the result."""
    folder, _ = ran
    shutil.copytree(folder / "secret-run", tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/adapter")
    (newest,) = (tmp_path / "moved").glob("checkpoint-*")
    assert json.loads((newest / "tuneplan.json").read_text())["best"] == newest.name
    assert checkpoints.best(tmp_path / "moved", newest, None) == str(newest)
    events, failure = train(folder / "plan.json", tmp_path / "moved", resume="auto")
    assert failure is None, failure
    assert of_kind(events, "finished")
    ours, theirs = (path / "adapter/adapter_model.safetensors" for path in (tmp_path / "moved", folder / "secret-run"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for given, name in (
        ("microsoft/phi-2", "microsoft/phi-2"),
        ("gpt2", "gpt2"),
        ("tiny", "./tiny"),
        (str(tmp_path / "tiny"), "./tiny"),
        (str(tmp_path / "tiny/config.json"), "./tiny"),
        ("/nowhere/alice/x", "./x"),
        ("~/x/", "./x"),
        ("/c/hub/models--org--some-model/snapshots/0123", "org/some-model"),
    ):
        assert portable.model_name(given) == name, given


def test_a_config_keeps_numbers_and_plain_words() -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "source": "/home/alice/x"},
        "architectures": ["LlamaForCausalLM"],
        "layer_types": ["full_attention", "sliding_attention"],
        "_name_or_path": "/home/alice/model",
        "chat_template": "{{ messages }} of alice",
        "tie_word_embeddings": None,
        "id2label": {"0": "ill", "1": "well"},
        "label2id": {"ill": 0, "well": 1},
        "/home/alice": 1,
    }
    assert portable.config(config) == {
        "model_type": "llama",
        "hidden_size": 32,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        "architectures": ["LlamaForCausalLM"],
        "layer_types": ["full_attention", "sliding_attention"],
        "tie_word_embeddings": None,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    }


def test_equal_adapters_have_equal_configs(tmp_path: Path) -> None:
    texts = []
    for modules in (["v_proj", "q_proj", "k_proj"], ["q_proj", "k_proj", "v_proj"]):
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps({"target_modules": modules, "r": 4, "modules_to_save": None}))
        _in_order(path)
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["target_modules"] == ["k_proj", "q_proj", "v_proj"]


# ---- the log that a checkpoint carries -------------------------------------------------------------------------------


def log_of(steps: int, every: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    found: list[dict[str, Any]] = [{"step": 0, "eval_loss": 3.0}]
    for step in range(1, steps + 1):
        found.append({"step": step, "loss": draw.uniform(0.5, 3), "learning_rate": 1e-3, "epoch": step / steps})
        if step % every == 0:
            found.append({"step": step, "eval_loss": round(draw.uniform(0.5, 3) + step / steps, 1), "epoch": 1.0})
    return found


def without_gain(history: list[dict[str, Any]], threshold: float) -> int:
    """Evaluations since the last one that counted as better, as `Reporter` counts them."""
    best, count = math.inf, 0
    for entry in history:
        if "eval_loss" in entry and entry["step"] > 0:
            best, count = (entry["eval_loss"], 0) if entry["eval_loss"] < best - threshold else (best, count + 1)
    return count


@pytest.mark.parametrize("seed", range(40))
def test_a_bounded_log_says_what_the_whole_one_says(seed: int) -> None:
    h = Hyperparameters(early_stopping_patience=seed % 5, early_stopping_threshold=(seed % 3) * 0.2)
    whole = log_of(100 + 40 * seed, 1 + seed % 7, seed)
    short: list[dict[str, Any]] = []
    for entry in whole:  # as a run does: cut at each checkpoint, not at the end alone
        short.append(entry)
        if entry["step"] % 50 == 0:
            short = needed_history(short, h)
    assert len(needed_history(short, h)) <= 450
    assert min(e["eval_loss"] for e in short if e.get("step") and "eval_loss" in e) == min(
        e["eval_loss"] for e in whole if e.get("step") and "eval_loss" in e
    )
    assert whole[0] in short
    since = without_gain(whole, h.early_stopping_threshold)
    assert min(since, 200) == min(without_gain(short, h.early_stopping_threshold), 200)
    told = []
    for history in (whole, short):
        symptoms = Symptoms(total_steps=10**6, warmup_steps=0, max_grad_norm=1.0)
        symptoms.recall(history)
        told.append((list(symptoms._losses), symptoms._first, symptoms._evaluations[-2:]))
    assert told[0] == told[1]


def test_saving_a_long_run_is_no_slower_than_a_short_one() -> None:
    h = Hyperparameters()
    sizes = [len(json.dumps(needed_history(log_of(steps, 10, 0), h))) for steps in (3_000, 60_000)]
    assert sizes[1] < 1.3 * sizes[0]
