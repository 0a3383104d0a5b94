"""The doors: the wizard opens with every option of `plan`, and with any plan file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.contract.errors import InvalidInput
from planner.handover import plans
from planner.tui import app as wizard
from planner.tui import state, work
from planner.tui.app import TuneplanApp
from planner.tui.opening import Opening, opened
from tests.support.tui_support import write_pairs


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the wizard was opened with, in what claims to be a terminal."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(wizard, "run", lambda values=None: found.append(dict(values or {})) or 0)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    return found


def test_the_wizard_takes_the_options_of_plan(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl")
    said = ["--gpu", "a10g", "--model", "phi-2", "--data", str(data)]
    said += ["--max-length", "512", "--lora-r", "4", "--effective-batch-size", "8"]
    said += ["--reserve", "2", "--goal", "fastest", "--validation-split", "0.2"]
    assert main(["ui", *said]) == 0
    assert main([*said, "--ui"]) == 0
    assert given[0] == given[1]
    start = TuneplanApp(**given[0]).wizard
    assert start.hardware is not None
    assert start.hardware.name == "a10g"
    assert (start.choices.max_length, start.choices.lora_r, start.choices.effective_batch_size) == (512, 4, 8)
    assert start.reserve_bytes == 2 * 2**30
    assert start.data.validation_split == 0.2
    assert start.question is not None
    assert start.question.goal == "fastest"
    assert {"max_length", "lora_r", "validation_split"} <= start.edited


def test_a_plan_file_opens_as_it_was_made(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl")
    settings = {"max_length": 256, "batch_size": 2, "lora_r": 4}
    made = opened(Opening(gpu="a10g", model="phi-2", data=data, settings=settings))
    made = state.change(work.adopt(made, work.recommend(made)), "learning_rate", 1.5e-4)
    plan = work.plan_of(made, work.evaluate(made))
    file = plans.save(plan, tmp_path / "plan.yaml")
    assert main(["ui", str(file)]) == 0
    start = TuneplanApp(**given[0]).wizard
    assert start.choices == made.choices
    assert start.hyperparameters.learning_rate == 1.5e-4
    assert start.dataset is not None
    after = work.adopt(start, work.recommend(start))
    assert after.choices == made.choices, "nothing of the plan is replaced unasked"
    assert after.hyperparameters.learning_rate == 1.5e-4
    assert main(["ui", str(file), "--max-length", "128"]) == 2
    data.unlink()
    without = opened(Opening(plan=plan))
    assert without.dataset is None
    assert without.choices == made.choices


def test_wrong_start_values_are_one_line() -> None:
    with pytest.raises(InvalidInput, match="multiple"):
        opened(Opening(gpu="a10g", settings={"batch_size": 3}, effective_batch_size=8))
    with pytest.raises(InvalidInput, match="scenario"):
        _ = opened(Opening(gpu="a10g", model="phi-2", aim={"scenario": "none such"})).question


def test_the_time_is_taken_and_what_the_wizard_has_no_use_for_is_refused(given: list[dict[str, Any]]) -> None:
    for said in (["ui", "--time", "2h"], ["--time", "2h", "--ui"]):
        assert main([*said, "--gpu", "a10g"]) == 0
        assert TuneplanApp(**given[-1]).wizard.seconds == 7200
    for flag in (["--train"], ["--json"], ["--save", "x.yaml"], ["--advice"]):
        assert main(["--gpu", "a10g", "--ui", *flag]) == InvalidInput.exit_code, flag
    assert len(given) == 2, "none of them opened it"
