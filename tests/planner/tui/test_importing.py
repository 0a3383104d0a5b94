"""A plan or another trainer's file, opened or typed in the wizard; rows of the aim; a validation file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.contract.errors import InvalidInput
from planner.handover import plans
from planner.tui import importing, state, work
from planner.tui.app import TuneplanApp
from planner.tui.opening import Opening, opened
from tests.support.tui_support import flat, planned, screen_text, settle, type_text, write_pairs

AXOLOTL = """base_model: NousResearch/Meta-Llama-3-8B
adapter: lora
lora_r: 12
lora_alpha: 24
lora_target_linear: true
sequence_len: 768
micro_batch_size: 3
gradient_accumulation_steps: 5
gradient_checkpointing: true
optimizer: adamw_torch
learning_rate: 0.00017
num_epochs: 2
bf16: true
wandb_project: mine
datasets: [{path: faq.csv, type: alpaca}]
"""


@pytest.fixture
def axolotl(tmp_path: Path) -> Path:
    path = tmp_path / "axolotl.yaml"
    path.write_text(AXOLOTL)
    return path


def test_another_trainers_file_is_the_state_that_it_says(axolotl: Path) -> None:
    start = opened(Opening(gpu="a100-80gb", foreign=importing.source_of(str(axolotl))))
    choices = start.choices
    assert (choices.lora_r, choices.max_length, choices.batch_size) == (12, 768, 3)
    assert choices.gradient_accumulation_steps == 5
    assert choices.stack == "peft"
    assert start.hyperparameters.learning_rate == 0.00017
    assert start.model_name == "meta-llama/Meta-Llama-3-8B"
    assert {"lora_r", "batch_size", "learning_rate"} <= start.edited
    # What the search finds leaves what the file says alone.
    taken = work.adopt(start, work.recommend(start))
    assert (taken.choices.batch_size, taken.choices.max_length) == (3, 768)


def test_plan_ui_opens_it(axolotl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.tui import app as wizard

    given: list[dict[str, Any]] = []
    monkeypatch.setattr(wizard, "run", lambda values=None: given.append(dict(values or {})) or 0)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    assert main(["ui", str(axolotl), "--gpu", "a100-80gb"]) == 0
    assert TuneplanApp(**given[0]).wizard.choices.lora_r == 12


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "colour: red\n", "neither a plan nor a trainer's file"),
        ("a.yaml", "settings: {}\n", "key is missing"),
        ("a.yaml", "a: [", "a.yaml"),
        ("a.json", "[]", "a.json"),
        ("a.sh", "echo hello\n", "a.sh"),
        ("a.ipynb", "{", "a.ipynb"),
        ("gone.yaml", None, "gone.yaml"),
    ],
)
def test_what_is_neither_is_one_line(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    found = importing.read_file(str(tmp_path / name), state.WizardState(), final=False)
    assert found.state is None
    assert says in (found.error or "")
    assert "\n" not in (found.error or "")


def test_which_files_are_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"model_type": "llama"}')
    (tmp_path / "args.json").write_text('{"per_device_train_batch_size": 2}')
    assert importing.may_be(str(tmp_path / "args.json"))
    assert not importing.may_be(str(tmp_path / "mine.json"))
    assert not importing.may_be("/x/config.json")
    assert not importing.may_be("meta-llama/Llama-3.1-8B")
    assert not importing.may_be("./demo/model")


async def test_a_file_is_typed_looked_at_and_taken(axolotl: Path, tmp_path: Path) -> None:
    app = TuneplanApp(gpu="a100-80gb", start_folder=tmp_path)
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        await type_text(pilot, str(axolotl))
        await pilot.press("enter")
        await settle(app, pilot)
        shown = flat(screen_text(app))
        assert "(axolotl)" in shown
        assert "Enter takes what this file says" in shown
        assert "lora_r" in shown
        assert app.wizard.model is None, "a look takes nothing"
        await pilot.press("enter")
        await settle(app, pilot)
        assert app.screen.__class__.__name__ == "DataScreen"
        assert app.wizard.choices.lora_r == 12
        await pilot.press("alt+4")
        await settle(app, pilot)
        assert app.evaluation is not None
        assert app.evaluation.report is not None
        assert app.evaluation.report.settings.batch_size == 3


async def test_a_plan_is_typed_and_taken_for_the_chosen_device(tmp_path: Path) -> None:
    made = opened(Opening(gpu="a10g", model="phi-2", settings={"max_length": 320, "lora_r": 4}))
    file = plans.save(work.plan_of(made, work.evaluate(made)), tmp_path / "mine.yaml")
    app = TuneplanApp(gpu="rtx-4090", start_folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await type_text(pilot, str(file))
        await pilot.press("enter")
        await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        assert (app.wizard.choices.max_length, app.wizard.choices.lora_r) == (320, 4)
        assert app.wizard.hardware is not None
        assert app.wizard.hardware.name == "rtx-4090"


def test_the_aim_is_edited_as_the_command_line_says_it() -> None:
    start = opened(Opening(gpu="a10g", model="phi-2"))
    start = work.adopt(start, work.recommend(start))
    quick = state.change(start, "scenario", "quick")
    answer = work.recommend(quick)
    said = opened(Opening(gpu="a10g", model="phi-2", aim={"scenario": "quick"}))
    assert work.adopt(quick, answer).hyperparameters == work.adopt(said, work.recommend(said)).hyperparameters
    assert work.adopt(quick, answer).hyperparameters != start.hyperparameters
    fastest = state.change(start, "goal", "fastest")
    assert work.recommend(fastest).recommended == "high"
    roomy = state.type_text(start, "reserve_bytes", "2.5")
    assert roomy.reserve_bytes == 2.5 * 2**30
    assert roomy.budget_bytes == start.hardware.total_bytes - 2.5 * 2**30 if start.hardware else False
    assert state.type_text(roomy, "reserve_bytes", "usual").reserve_bytes is None
    back = state.reset(state.change(roomy, "goal", "safest"))
    assert (back.goal, back.reserve_bytes, back.scenario) == (None, None, "standard")


def test_a_time_limit_plans_what_the_command_line_plans(tmp_path: Path) -> None:
    from planner.decide import deadline

    pairs = write_pairs(tmp_path / "pairs.jsonl")
    start = opened(Opening(gpu="rtx3060", model="phi-2", data=pairs))
    start = work.adopt(start, work.recommend(start))
    short = state.type_text(start, "seconds", "0.01")
    assert short.seconds == 36
    answer = work.recommend(short)
    assert any(line.startswith("In 36 s: ") for line in answer.notes)
    taken = work.adopt(short, answer)
    assert taken.hyperparameters.max_steps is not None
    asked = work.asked(short)
    assert asked is not None
    expected = deadline.recommend_in(asked.question, 36)
    assert taken.choices.max_length == expected.recommended.settings.max_length < start.choices.max_length
    back = state.type_text(taken, "seconds", "any")
    assert work.adopt(back, work.recommend(back)).hyperparameters.max_steps is None


def test_trackers_are_known_by_name() -> None:
    start = state.preset({}, {}, None)
    assert state.type_text(start, "report_to", "wandb mlflow").hyperparameters.report_to == ("wandb", "mlflow")
    assert state.type_text(start, "report_to", "none").hyperparameters.report_to == ()
    with pytest.raises(InvalidInput, match="Trackers: 'wandbb' is unknown"):
        state.type_text(start, "report_to", "wandbb")
    seen = set()
    for _ in range(10):
        start = state.step(start, "report_to", 1)
        seen.add(start.hyperparameters.report_to)
    assert {(), ("wandb",), ("trackio",)} <= seen


async def test_a_validation_file_is_measured_and_a_wrong_one_refused(tmp_path: Path) -> None:
    held = write_pairs(tmp_path / "held.jsonl", 17)
    odd = tmp_path / "odd.jsonl"
    odd.write_text("{not json\n")
    app = planned(write_pairs(tmp_path / "pairs.jsonl"))
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        assert "validation_split" in {entry.key for entry in state.visible_fields(app.wizard)}
        with pytest.raises(InvalidInput, match="Validation file: there is no file"):
            state.type_text(app.wizard, "validation_path", str(tmp_path / "gone.jsonl"))
        app.update(state.type_text(app.wizard, "validation_path", str(held)))
        await settle(app, pilot)
        assert app.wizard.dataset is not None
        assert app.wizard.dataset.validation_lengths is not None
        assert len(app.wizard.dataset.validation_lengths) == 17
        assert "validation_split" not in {entry.key for entry in state.visible_fields(app.wizard)}
        assert app._plan().data.validation_path == str(held)
        app.update(state.type_text(app.wizard, "validation_path", str(odd)))
        await settle(app, pilot)
        assert app.wizard.data.validation_path is None
        assert app.wizard.dataset is not None, "the data stays"
        assert "odd.jsonl" in flat(screen_text(app))
