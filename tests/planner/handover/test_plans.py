"""Plan files: round trip, and one line with file and key for everything that can be wrong with one."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.records import Advice, Plan, parse_plan, parse_record
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.settings import to_settings
from planner.handover import plans


def plan() -> Plan:
    return Plan(
        model="microsoft/phi-2",
        gpu="a10g",
        settings=TrainingChoices(batch_size=4, lora_targets=("q_proj", "v_proj")),
        hyperparameters=Hyperparameters(learning_rate=1e-4, report_to=("tensorboard",)),
        advice=[Advice(name="learning_rate", value=1e-4, rule="LoRA trains at ten times …", source="guide")],
        data=DataSettings(path="träin.jsonl", columns={"prompt": "question"}),
    )


def test_a_saved_plan_reads_back_equal(tmp_path: Path) -> None:
    path = plans.save(plan(), tmp_path / "deep" / "plan.yaml")
    assert plans.load(path) == plan()
    assert "schema: tuneplan.plan/1" in path.read_text()
    assert os.listdir(path.parent) == ["plan.yaml"]


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan().model_dump_json(by_alias=True))
    assert plans.load(path) == plan()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: m\n  gpu: [", "plan.yaml:2: not a plan file"),
        ("just words", "not a plan file: expected keys"),
        ("model: m\nsettings: {}\n", "gpu: this key is missing"),
        ("model: m\ngpu: cpu\nsettings: {}\nhyperparameters: {learning_rat: 1}\n", "learning_rat: this key is unknown"),
        ("model: m\ngpu: cpu\nsettings: {}\nhyperparameters: {epochs: many}\n", "hyperparameters.epochs: input should"),
        ("schema: tuneplan.plan/9\nmodel: m\ngpu: cpu\nsettings: {}\n", "schema"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        plans.load(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_binary_content(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.yaml: plan file can't be read: No such file"):
        plans.load(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        plans.load(tmp_path / "binary.yaml")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plans.save(plan(), tmp_path / "plan.yaml")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidInput, match="No space left on device"):
        plans.save(plan().model_copy(update={"gpu": "l4"}), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["plan.yaml"]


def test_settings_are_choices_inside_and_keys_outside(tmp_path: Path) -> None:
    """GIVEN a plan THEN its settings are typed, and every way out of it writes an object with a key for each."""
    made = plan()
    assert made.settings.lora_targets == ("q_proj", "v_proj")
    path = plans.save(made, tmp_path / "plan.yaml")
    for content in (made.model_dump(), json.loads(made.model_dump_json()), yaml.safe_load(path.read_text())):
        assert content["settings"] == to_settings(made.settings)
        assert list(content["settings"]) == [field.name for field in fields(TrainingChoices)]
    assert plans.load(path).settings == made.settings
    assert Plan.model_json_schema()["properties"]["settings"]["type"] == "object"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batchsize": 1}, "settings batchsize: this key is unknown (did you mean batch_size"),
        ({"batch_size": 0}, "settings batch_size must be"),
        ({3: 4}, "settings 3: this key is unknown"),
        (7, "settings: input should be a valid dictionary, not 7"),
    ],
)
def test_a_record_refuses_settings_that_are_none(settings: object, said: str) -> None:
    content = {"model": "m", "gpu": "cpu", "settings": settings}
    with pytest.raises(InvalidInput, match=f"^{re.escape('here: ' + said)}"):
        parse_record(Plan, content, "here")
    with pytest.raises(InvalidInput, match=r"^here"):
        parse_plan(yaml.safe_dump(content), "here")
