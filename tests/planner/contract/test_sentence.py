"""An error names its field; command line, settings file, plan file and wizard each call it as they call it."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest
import typer

from planner.cli.app import app
from planner.contract.choices import CHOICES
from planner.contract.errors import InvalidInput
from planner.contract.records import Advice, CheckReport, Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.sentence import Sentence, flag, joined, named, sentence
from planner.contract.settings import choices_from, plan_choices
from planner.tui import fields, figures, work

WRONG = {int: -1, float: -1.0, bool: "neither", str: "no-such-word", tuple: ["no module"]}
"""A value of each kind that no choice takes."""


@pytest.mark.parametrize("name", CHOICES)
def test_each_front_end_has_its_own_name_for_a_choice(name: str) -> None:
    """GIVEN a wrong value WHEN it comes from options, a file or the wizard THEN the line has that one's name for it."""
    wrong = WRONG[CHOICES[name][0]]
    with pytest.raises(InvalidInput) as found:
        choices_from({name: wrong})
    error = found.value
    assert error.sentence.fields == {name}
    assert str(error).startswith(f"{flag(name)} ")
    label = CHOICES[name][1].label or name.replace("_", " ")
    assert work.error_line(error).startswith(f"{label} ")
    assert "--" not in work.error_line(error)
    with pytest.raises(InvalidInput, match=rf"^plan\.yaml: settings\.{name} "):
        plan_choices({name: wrong}, "plan.yaml")


def test_the_settings_file_is_named_where_it_gave_the_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from planner.cli import main

    path = tmp_path / "s.yaml"
    path.write_text("max-length: 99999\nbatch_size: 2\n")
    words = ["check", "--gpu", "a10g", "--config", str(path)]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"plan: --config {path}: max-length 99999 is beyond the 2048 positions")
    assert main([*words, "--max-length", "88888"]) == 2
    assert capsys.readouterr().err.startswith("plan: --max-length 88888 is beyond the 2048 positions")


def test_every_name_in_a_sentence_is_a_field_or_an_option() -> None:
    """A name that nobody has would be said to a person as if it could be set."""
    fields = {*CHOICES, *Hyperparameters.model_fields, *DataSettings.model_fields, "effective_batch_size"}
    plan = typer.main.get_command(app)
    commands = [plan.get_command(None, name) for name in plan.list_commands(None)]
    options = {parameter.name for command in commands for parameter in command.params} | {"validation_path"}
    asked = set()
    for path in Path("planner").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "named":
                asked |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    assert len(asked) > 30
    assert asked - fields - options == set()


def test_no_sentence_of_the_core_writes_an_option_out() -> None:
    """What judges, prices and reads names fields; only front ends, and what runs their commands, know of options."""
    rooms = ("contract", "data", "decide", "devices", "memory", "models", "speed")
    options = {flag(name) for name in (*CHOICES, *Hyperparameters.model_fields, "effective_batch_size", "goal")}
    found = []
    for path in (path for room in rooms for path in Path("planner", room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                words = {word.strip(".,;:()'`") for word in node.value.split()}
                found += [f"{path}:{node.lineno} {word}" for word in words & options]
    allowed = {"planner/contract/choices.py", "planner/contract/run_settings.py"}  # helps of options themselves
    assert [place for place in found if place.split(":")[0] not in allowed] == []


def test_names_stay_apart_through_what_is_done_with_sentences() -> None:
    said = "use " + named("max_length") + " 5, " + joined(" or ", [named("loss") + " chunked", "less data"])
    assert said == "use --max-length 5, --loss chunked or less data"
    assert said.fields == {"max_length", "loss"}
    assert said.in_words(figures.label) == "use Max length 5, Loss chunked or less data"
    assert pickle.loads(pickle.dumps(said)).fields == said.fields
    assert sentence("plain").fields == Sentence("--max-length is only text").fields == set()
    assert pickle.loads(pickle.dumps(InvalidInput(said))).sentence.fields == said.fields


def test_records_keep_names_and_files_hold_text() -> None:
    advice = Advice(name="epochs", value=3, rule=named("epochs") + " 3", source="s")
    assert Sentence(advice.rule).fields == {"epochs"}
    assert advice.model_dump()["rule"] == advice.model_dump(mode="json")["rule"] == "--epochs 3"
    assert Advice.model_validate_json(advice.model_dump_json()).rule == "--epochs 3"
    with pytest.raises(ValueError, match="string"):
        Advice.model_validate({"name": "a", "value": 1, "rule": 3, "source": "s"})
    schema = CheckReport.model_json_schema()["properties"]["reasons"]
    assert schema["items"] == {"type": "string"}
    assert Plan.model_json_schema()


def test_every_row_of_the_wizard_is_said_by_its_label() -> None:
    for field in fields.FIELDS:
        assert figures.in_labels(named(field.key) + " 3") == f"{field.label} 3"
    hidden = next(name for name, (_, about) in CHOICES.items() if about.hidden and "_" in name)
    assert figures.in_labels(named(hidden) + " x") == f"{hidden.replace('_', ' ')} x"
