"""Training runs on this machine correct the next plan's speed and memory by themselves; broken ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from planner import memory, speed
from planner.calibration import store
from planner.calibration.attach import find
from planner.calibration.own import NEWEST
from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.records import CheckReport, Observation
from planner.contract.settings import choices_from
from planner.contract.spec import Calibration
from planner.contract.units import MIB
from planner.decide.check import check
from planner.decide.question import Question
from planner.devices import profiles
from planner.models import sources
from tests.support.observations import CARD, MODELS, observation

MODEL = MODELS[0]
BARE = profiles.load(CARD)
ASKED = TrainingChoices(batch_size=8, max_length=1024, gradient_accumulation_steps=1, stack="peft")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def a_run(number: int, *, slower: float = 1.0, moving: float = 1.0, beyond: int = 0, **changes: object) -> Observation:
    """A run as it should be on the card, but for the factors."""
    batch = 4 + number % 5
    item = observation(MODEL, batch, 1024, seed=number, **changes)  # type: ignore[arg-type]
    report = item.predicted
    assert report is not None
    choices = choices_from({name: value for name, value in item.settings.items() if value is not None})
    seconds = float(speed.step_seconds(sources.load_model(MODEL), BARE, choices, batch, 1024, choices_layers(choices)))
    fixed = report.instants["load"]
    allocated = report.allocated_peak_bytes + round((moving - 1) * (report.allocated_peak_bytes - fixed))
    return item.model_copy(
        update={
            "source": "run",
            "allocated_peak_bytes": allocated,
            "reserved_peak_bytes": None,
            "device_peak_bytes": allocated + report.device_peak_bytes - report.allocated_peak_bytes + beyond,
            "instants": {name: round(fixed + moving * (report.instants[name] - fixed)) for name in item.instants},
            "step_seconds": [seconds * slower] * 5,
        }
    )


def choices_layers(choices: TrainingChoices) -> int:
    return choices.checkpointed_layers(sources.load_model(MODEL).total_layers)


def keep(*items: Observation) -> None:
    for number, item in enumerate(items):
        store.save_observation(item, f"run-{number}")


def judged(choices: TrainingChoices = ASKED, model: str = MODEL) -> CheckReport:
    question = Question(model=sources.load_model(model), hardware=find(CARD), choices=choices)
    return check(question, with_remedies=False)


def before(choices: TrainingChoices = ASKED, model: str = MODEL) -> CheckReport:
    return check(Question(model=sources.load_model(model), hardware=BARE, choices=choices), with_remedies=False)


def tokens_per_second(report: CheckReport) -> float:
    assert report.speed is not None
    return report.speed.tokens_per_second


def test_six_runs_at_a_tenth_are_believed() -> None:
    """GIVEN six runs at a tenth of the predicted speed THEN the next plan says about a tenth, and that six say so."""
    keep(*(a_run(number, slower=10.0) for number in range(6)))
    report = judged()
    ratio = tokens_per_second(report) / tokens_per_second(before())
    assert 0.1 <= ratio < 0.12
    assert report.speed is not None
    low, high = report.speed.interval_tokens_per_second
    assert low <= 0.1 * tokens_per_second(before()) <= high
    assert any("corrected by 6 runs here" in sentence for sentence in report.reasons)
    assert report.calibration is not None
    assert report.calibration["own_runs"]["speed_runs"] == 6


def test_few_runs_are_believed_less_and_right_ones_change_nothing() -> None:
    keep(a_run(0, slower=10.0))
    one = tokens_per_second(judged()) / tokens_per_second(before())
    assert 0.12 < one < 0.3
    for path in store.observations_folder().iterdir():
        path.unlink()
    keep(*(a_run(number) for number in range(6)))
    assert tokens_per_second(judged()) == pytest.approx(tokens_per_second(before()), rel=0.01)
    assert judged().memory.device_peak_bytes == pytest.approx(before().memory.device_peak_bytes, rel=0.005)


def test_memory_is_corrected_by_runs() -> None:
    """GIVEN six runs with 30 % more that comes and goes and 500 MiB more context THEN plan and grid say so, alike."""
    keep(*(a_run(number, moving=1.3, beyond=500 * MIB) for number in range(6)))
    report, bare = judged().memory, before().memory
    moving = bare.allocated_peak_bytes - bare.instants["load"]
    assert report.allocated_peak_bytes - bare.allocated_peak_bytes == pytest.approx(0.3 * moving, rel=0.15)
    assert report.device_peak_bytes - bare.device_peak_bytes == pytest.approx(0.3 * moving + 500 * MIB, rel=0.15)
    assert sum(report.components.values()) == report.device_peak_bytes
    low, high = report.interval_bytes
    assert low <= report.device_peak_bytes <= high
    spec = sources.load_model(MODEL)
    grid = memory.predict_grid(spec, find(CARD), ASKED, [8], [1024], [choices_layers(ASKED)])
    assert int(grid.allocated[0]) == pytest.approx(report.allocated_peak_bytes, rel=0.001)
    assert any("Memory is corrected by 6 runs here" in sentence for sentence in judged().reasons)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"slower": 8.0}, "4 times as long as the others"),
        ({"slower": 0.002}, "as long as predicted"),
        ({"moving": 1.9}, "memory is far from"),
        ({"moving": 0.05}, "memory is not that of its settings"),
    ],
)
def test_a_broken_run_is_named_and_left_out(broken: dict[str, float], named: str) -> None:
    """GIVEN five runs that agree and one that can't be THEN the plan is as with the five, and names the sixth."""
    keep(*(a_run(number, slower=2.0) for number in range(5)))
    five = judged()
    assert five.calibration is not None
    assert five.calibration["own_runs"]["left_out"] == []
    store.save_observation(a_run(9, **{"slower": 2.0, **broken}), "run-broken")
    six = judged()
    assert tokens_per_second(six) == pytest.approx(tokens_per_second(five), rel=0.03)
    assert six.memory.device_peak_bytes == pytest.approx(five.memory.device_peak_bytes, rel=0.005)
    assert any("run-broken" in sentence and named in sentence for sentence in six.reasons)


def test_what_failed_ran_elsewhere_or_says_nothing_does_not_count() -> None:
    keep(
        a_run(0, slower=10.0).model_copy(update={"outcome": "out_of_memory"}),
        a_run(1, slower=10.0).model_copy(update={"notes": ["failed: NaN"]}),
        a_run(2, slower=10.0).model_copy(update={"hardware": {"profile": "h200"}}),
    )
    (store.observations_folder() / "2026-11-30-run-9.json").write_text("{")
    assert judged().speed == before().speed
    assert find(CARD).own_runs == ()


def test_a_toy_teaches_nothing_of_a_large_model() -> None:
    """GIVEN six runs of a small model at a tenth THEN a model whose step takes 10,000 times as long is as before."""
    keep(*(a_run(number, slower=10.0) for number in range(6)))
    large = TrainingChoices(batch_size=32, gradient_accumulation_steps=16, max_length=8192, stack="peft")
    assert tokens_per_second(judged(large, "llama-3.1-70b")) == pytest.approx(
        tokens_per_second(before(large, "llama-3.1-70b")), rel=0.02
    )


def test_other_methods_count_for_a_part() -> None:
    """GIVEN runs with LoRA alone THEN a plan of full fine-tuning moves the same way, and less."""
    keep(*(a_run(number, slower=4.0) for number in range(6)))
    full = TrainingChoices(method="full", batch_size=8, max_length=1024, gradient_accumulation_steps=1, stack="peft")
    lora = tokens_per_second(before()) / tokens_per_second(judged())
    other = tokens_per_second(before(full)) / tokens_per_second(judged(full))
    assert 1.5 < other < lora


def test_the_faster_of_two_stays_the_faster() -> None:
    """GIVEN runs at a hundredth THEN corrected times rise wherever uncorrected ones do, over six decades."""
    from planner.speed import own_runs

    keep(*(a_run(number, slower=90.0) for number in range(NEWEST)))
    seconds = np.geomspace(1e-4, 1e2, 2000)
    corrected = seconds * own_runs.factor(find(CARD), ASKED, seconds)
    assert (np.diff(corrected) > 0).all()


def test_a_calibration_that_holds_is_corrected_once() -> None:
    """GIVEN a fit that already halves the speed, and runs at a half THEN the plan says a half, not a quarter."""
    versions = {"torch": store._installed("torch") or ""}
    halves = {"arithmetic": 0.5, "bandwidth": 0.5, "launch": 2.0, "spread": 0.1}
    store.save_fit(CARD, Calibration(applied=True, versions=versions, made="then", speed=halves))
    fitted = tokens_per_second(judged())
    keep(*(a_run(number, slower=2.0) for number in range(6)))
    assert tokens_per_second(judged()) == pytest.approx(fitted, rel=0.05)


def test_plan_says_how_many_runs(capsys: pytest.CaptureFixture[str]) -> None:
    keep(*(a_run(number, slower=10.0) for number in range(6)))
    words = ["--gpu", CARD, "--model", MODEL, "--max-length", "1024", "--stack", "peft"]
    assert main(["--json", *words]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["recommended"]["calibration"]["own_runs"]["speed_runs"] == 6
    assert main(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "6 runs here" in out
    assert "Weakest point: speed" not in out
