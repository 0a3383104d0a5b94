"""`plan --time`: what is planned is expected to end in time, nothing is cut in vain, and every cut is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.records import read_plan
from planner.contract.settings import parse_duration
from planner.data.dataset import profile
from planner.data.use import DataUse
from planner.decide import faster
from planner.decide.check import check
from planner.decide.deadline import recommend_in
from planner.decide.question import Question
from planner.decide.search import recommend
from planner.devices.hardware import find
from planner.models import sources

HOUR = 3600.0
MODEL = sources.load_model("qwen2.5-0.5b")


def data(folder: Path, examples: int) -> DataUse:
    """Examples of 20 to 500 words, a few far longer."""
    path = folder / f"{examples}.jsonl"
    lengths = [20 + (number * 37) % 480 + (1500 if number % 50 == 0 else 0) for number in range(examples)]
    rows = ({"prompt": f"what is {number}", "completion": "word " * length} for number, length in enumerate(lengths))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataUse(profile=profile(path))


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> DataUse:
    return data(tmp_path_factory.mktemp("data"), 4000)


def asked(data: DataUse | None = None, gpu: str = "t4") -> Question:
    choices = TrainingChoices() if data is not None else TrainingChoices(max_length=1024)
    fixed = frozenset() if data is not None else frozenset({"max_length"})
    return Question(model=MODEL, hardware=find(gpu), choices=choices, fixed=fixed, data=data)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("90 s", 90), ("3d", 259200), ("1.5h", 5400), ("45min", 2700)],
)
def test_times_in_words(text: str, seconds: float) -> None:
    assert parse_duration(text, option="--time") == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "-5m", "0s", "1e9d", "30 minutes", "2h2x", "nan", "٣m", "9" * 400 + "d"]
)
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidInput, match="--time"):
        parse_duration(text, option="--time")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.95, 1.3, 10.0])
def test_what_is_planned_ends_in_time(some: DataUse, share: float) -> None:
    """GIVEN a share of the whole run's time THEN the plan ends in it, uses most of it, and says what it cut."""
    question = asked(some)
    whole = recommend(question)
    assert whole.time is not None
    limit = share * whole.time.total
    found = recommend_in(question, limit)
    assert found.time is not None
    assert found.deadline is not None
    assert found.deadline.kept
    assert found.time.total <= limit
    assert bool(found.deadline.cut) == (whole.time.total > 0.9 * limit)
    steps = next((entry.value for entry in found.advice if entry.name == "max_steps"), None)
    if found.deadline.cut:
        assert steps == found.time.steps or steps is None
        assert found.time.total > 0.4 * limit, "time that is left could have been used"
    else:
        assert found.recommended.settings == whole.recommended.settings
    again = check(question.having(found.recommended.settings), with_remedies=False)
    assert again.verdict == "fits"
    assert again.memory.device_peak_bytes == found.recommended.memory.device_peak_bytes


def test_more_time_is_never_fewer_examples(some: DataUse) -> None:
    question = asked(some)
    seen = []
    for minutes in (3, 5, 10, 20, 40, 80, 160):
        found = recommend_in(question, 60.0 * minutes)
        assert found.time is not None
        seen.append(found.time.epochs * found.time.examples)
    assert seen == sorted(seen)


def test_too_few_steps_make_the_batch_smaller_and_are_said(some: DataUse) -> None:
    """GIVEN time for some tens of steps of 16 THEN steps of fewer sequences are taken, unless the person fixed them."""
    question = asked(some)
    whole = recommend(question)
    assert whole.time is not None
    per_step = whole.time.train / whole.time.steps
    limit = (whole.time.load + whole.time.evaluate / 3 + 40 * per_step) / 0.9
    found = recommend_in(question, limit)
    assert found.deadline is not None
    assert any("sequences a step" in text for text in found.deadline.cut)
    named = replace(question, effective_batch_size=16, fixed=frozenset({"max_length"}))
    fixed = recommend_in(named.having(TrainingChoices(max_length=2496)), limit)
    assert fixed.effective_batch_size == 16
    assert fixed.deadline is not None
    assert not fixed.deadline.enough


def test_a_step_that_is_longer_than_the_time_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--gpu", "cpu", "--model", "phi-2", "--max-length", "2048", "--time", "5m"]
    assert main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "5 min are not enough: one step with loading takes" in out
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["deadline"]["kept"] is False
    assert answer["time"]["steps"] == 1


def test_the_saved_plan_ends_when_it_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    words = ["--gpu", "a10g", "--max-length", "2048", "--time", "30m", "--save", str(plan), "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["deadline"] == {"seconds": 1800.0, "cut": answer["deadline"]["cut"], "kept": True, "enough": True}
    assert read_plan(plan).hyperparameters.max_steps == answer["time"]["steps"]


def test_without_a_limit_nothing_is_said_and_the_time_is_the_sum_of_its_parts(some: DataUse) -> None:
    found = recommend(asked(some))
    assert found.deadline is None
    assert found.time is not None
    assert found.recommended.speed is not None
    epochs = next(entry.value for entry in found.advice if entry.name == "epochs")
    assert found.time.train == pytest.approx((found.recommended.speed.epoch_seconds or 0) * epochs)
    assert found.time.evaluate > 0
    assert found.time.total == found.time.load + found.time.train + found.time.evaluate + found.time.save


def test_long_runs_say_what_would_help(some: DataUse) -> None:
    """GIVEN two weeks on a processor THEN faster devices are named with their times; GIVEN minutes THEN nothing is."""
    question = replace(asked(gpu="cpu"), model=sources.load_model("phi-2"))
    answer = recommend(question)
    said = faster.line(question, answer.recommended, answer.time)
    assert said is not None
    assert "H100" in said
    assert "one epoch" in said
    quick = recommend(asked(some))
    assert faster.line(asked(some), quick.recommended, quick.time) is None
