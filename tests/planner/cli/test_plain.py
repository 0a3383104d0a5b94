"""`plan ui --plain` and `plan … --train`: questions line by line, and from the question to the run in one command."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from planner.cli import going_on, plain
from planner.cli.asked import Aim, Source, Target
from planner.contract.errors import InvalidInput
from planner.decide.given_up import Changed
from planner.handover import plans


def ask(answers: str, target: Target | None = None, source: Source | None = None) -> int:
    return plain.run(target or Target(), source or Source(), Aim(), io.StringIO(answers))


def test_wrong_answers_are_asked_again_and_the_plan_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("topic,eins,zwei\n" + "sums,what is 1 + 1,two\n" * 40)
    wrong = "a11g\na10g\nno-such-model\ngpt2\nnowhere.csv\npairs.csv\nprompt=qq\n"
    answers = f"{wrong}prompt=eins completion=zwei\nno\nplan.yaml\n"
    assert ask(answers) == 0
    said = capsys.readouterr()
    for words in ("a11g", "no-such-model", "nowhere.csv", "columns: topic, eins, zwei", "wrote plan.yaml"):
        assert words in said.err
    assert "gpt2" in said.out
    plan = plans.load("plan.yaml")
    assert (plan.gpu, plan.data.columns) == ("a10g", {"prompt": "eins", "completion": "zwei"})


def test_what_was_given_is_not_asked_and_an_end_of_answers_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("\n\n", Target(gpu="a10g", model="gpt2")) == 0
    assert "device" not in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="the answers ended at the question"):
        ask("a10g\n")


def test_train_refuses_what_it_can_not_go_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="--data"):
        going_on.require(None, as_json=False)
    with pytest.raises(InvalidInput, match="--json"):
        going_on.require("x.jsonl", as_json=True)
    changed = Changed(name="method", asked="lora", taken="qlora", named=True)
    assert going_on.run("runs/x/plan.yaml", [changed]) == 3
    assert "plan train runs/x/plan.yaml trains it all the same" in capsys.readouterr().err


def test_a_run_gets_a_folder_of_its_own() -> None:
    path = Path(going_on.plan_file("owner/some model"))
    assert path.parent.parent == Path("runs")
    assert path.parent.name.endswith("-some-model")
