"""The fit finds what was put in, never harms, and `plan` picks it up; observations stand in for missing hardware."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner import memory
from planner.calibration import features, fit, shapes, store
from planner.calibration import run as calibration_run
from planner.calibration.attach import find
from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.records import Observation
from planner.contract.spec import Calibration, HardwareProfile
from planner.contract.units import MIB
from planner.decide.check import check
from planner.decide.question import Question
from planner.devices import profiles
from planner.memory import device
from planner.models import sources
from tests.support.observations import CARD, CONTEXT, MODELS, SLACK, observation


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def several(**changes: Any) -> list[Observation]:
    """Nine runs of three models."""
    return [observation(m, b, s, **changes) for m in MODELS for b, s in ((1, 256), (4, 512), (8, 1024))]


def fitted(observations: list[Observation], hardware: HardwareProfile | None = None) -> Calibration:
    hardware = hardware or profiles.load(CARD)
    rows, left_out = features.rows(observations, hardware)
    assert not left_out
    return fit.calibrate(rows, hardware, versions=dict(observations[0].versions))


# ---- the fit -------------------------------------------------------------------------------------------------------


def test_known_quantities_are_found() -> None:
    """GIVEN another context, more slack and larger activations THEN the fit says so, and predicts better."""
    found = fitted(several(moving=1.006))
    assert found.applied, found.reason
    assert found.context_bytes == pytest.approx(CONTEXT, abs=8 * MIB)
    assert found.slack_bytes == pytest.approx(SLACK, abs=8 * MIB)
    assert found.moving_factor == pytest.approx(1.006, abs=0.003)
    assert found.persistent_factor == pytest.approx(1.0, abs=0.002)
    assert found.errors["fitted_mean"] < 0.5 * found.errors["bare_mean"]
    assert found.coverage is not None
    assert found.coverage >= 0.8


def test_a_right_model_is_left_alone() -> None:
    """GIVEN measurements that equal the bare prediction THEN no correction beats it, and this is said."""
    hardware = profiles.load(CARD)
    exact = []
    for item in several():
        report = item.predicted
        assert report is not None
        exact.append(
            item.model_copy(
                update={
                    "instants": {k: report.instants[k] for k in item.instants},
                    "allocated_peak_bytes": report.allocated_peak_bytes,
                    "reserved_peak_bytes": report.reserved_peak_bytes,
                    "device_peak_bytes": report.device_peak_bytes,
                }
            )
        )
    found = fitted(exact, hardware)
    assert not found.applied
    assert "left out" in found.reason


def test_scatter_without_a_pattern_is_not_learned() -> None:
    """GIVEN contexts drawn at random around the profile's THEN the fit is dropped or changes the context little."""
    hardware = profiles.load(CARD)
    draw = random.Random(5)
    noisy = [
        observation(m, b, 512, context=hardware.context_bytes - SLACK + draw.randint(-60, 60) * MIB)
        for m in MODELS
        for b in (1, 2, 4)
    ]
    found = fitted(noisy)
    if found.applied:
        assert found.context_bytes == pytest.approx(hardware.context_bytes, abs=60 * MIB)


def test_an_outlier_carries_nothing_away() -> None:
    """GIVEN one run that another process disturbed by 3 GiB THEN context and factors stay where they were."""
    items = several()
    wild = items[4].model_copy(update={"device_peak_bytes": (items[4].device_peak_bytes or 0) + 3 * 1024 * MIB})
    rows, _ = features.rows([*items[:4], wild, *items[5:]], profiles.load(CARD))
    terms = fit.fit_terms(rows, profiles.load(CARD))
    assert terms.context_bytes == pytest.approx(CONTEXT, abs=40 * MIB)
    assert terms.moving_factor == pytest.approx(1.0, abs=0.003)


def test_priors_hold_where_little_is_known() -> None:
    """GIVEN one observation THEN the terms move towards it, and nothing is applied that could not be checked."""
    one = [observation(MODELS[0], 4, 512)]
    hardware = profiles.load(CARD)
    rows, _ = features.rows(one, hardware)
    terms = fit.fit_terms(rows, hardware)
    bare = abs(hardware.context_bytes - CONTEXT)
    assert abs(terms.context_bytes - CONTEXT) < bare
    assert abs(terms.persistent_factor - 1) < 0.002
    found = fitted(one)
    assert not found.applied
    assert "too few" in found.reason


def test_no_rows_is_the_bare_model() -> None:
    hardware = profiles.load(CARD)
    terms = fit.fit_terms([], hardware)
    assert terms.context_bytes == pytest.approx(hardware.context_bytes)
    assert (terms.persistent_factor, terms.moving_factor, terms.fragmentation_factor) == pytest.approx((1, 1, 1))


def test_runs_that_failed_or_ran_elsewhere_are_left_out() -> None:
    items = several()
    over = items[0].model_copy(update={"outcome": "out_of_memory"})
    elsewhere = items[1].model_copy(update={"hardware": {"profile": "h200"}})
    failed = items[2].model_copy(update={"notes": ["failed: loss became nan"]})
    rows, left_out = features.rows([over, elsewhere, failed, items[3]], profiles.load(CARD))
    assert [row.label for row in rows] == [items[3].probe["label"]]
    assert left_out == []


def test_intervals_hold_what_they_promise() -> None:
    """GIVEN errors of known distribution THEN the interval covers 95 of 100 new ones, with few and with many."""
    draw = np.random.default_rng(1)
    for count in (6, 60):
        shares = []
        for _ in range(60):
            low, high = fit.interval(list(3 * draw.standard_normal(count)))
            new = 3 * draw.standard_normal(400)
            shares.append(np.mean((new >= -low) & (new <= high)))
        assert np.mean(shares) >= 0.94


# ---- speed ---------------------------------------------------------------------------------------------------------


def test_speed_factors_are_found() -> None:
    """GIVEN a card at half the expected arithmetic and bandwidth THEN the fit says so and predictions follow."""
    from planner.calibration.fit_speed import fit_speed, predicted_seconds

    hardware = profiles.load(CARD)
    rows, _ = features.rows(several(), hardware)
    truth = {"arithmetic": 0.5, "bandwidth": 0.5, "launch": 2.0}
    slow = [replace(row, step_seconds=predicted_seconds(row, hardware, truth)) for row in rows]
    found = fit_speed(slow, hardware)
    assert found["bandwidth"] < 0.8
    calibrated = replace(hardware, calibration=Calibration(applied=True, speed=found))
    from planner import speed

    row = slow[-1]
    assert row.step_seconds is not None
    assert speed.predict(row.spec, calibrated, row.choices).step_seconds == pytest.approx(row.step_seconds, rel=0.1)
    assert fit_speed([replace(row, step_seconds=None) for row in rows], hardware) == {}


# ---- files and use -------------------------------------------------------------------------------------------------


def test_a_fit_is_kept_per_versions(home: Path) -> None:
    """GIVEN fits with two versions of torch THEN the installed one's is used; another's is named, not applied."""
    installed = store._installed("torch")
    assert installed is not None
    other = Calibration(applied=True, made="then", versions={"torch": "1.0.0"}, context_bytes=1)
    store.save_fit(CARD, other)
    found = store.load_fit(CARD)
    assert found is not None
    assert not found.applied
    assert "torch 1.0.0" in found.reason
    own = Calibration(applied=True, made="now", versions={"torch": installed}, context_bytes=2, interval=(1.0, 2.0))
    store.save_fit(CARD, own)
    assert store.load_fit(CARD) == own
    assert len(json.loads(store.fit_path(CARD).read_text())["fits"]) == 2
    assert not list(store.fit_path(CARD).parent.glob(".*")), "no temporary file stays"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "tuneplan.calibration/1", "fits": [{"applied": "x", "y": 1}, 3]}']
)
def test_a_damaged_file_is_as_good_as_none(text: str) -> None:
    path = store.fit_path(CARD)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = store.attach(profiles.load(CARD)).calibration
    assert found is None


def test_predictions_pick_it_up() -> None:
    """GIVEN a stored fit THEN `find` carries it, single and grid predictions agree, and components still sum."""
    bare = profiles.load(CARD)
    spec = sources.load_model(MODELS[0])
    choices = TrainingChoices(batch_size=4, max_length=512, gradient_accumulation_steps=1)
    before = memory.predict(spec, bare, choices)
    found = Calibration(
        applied=True,
        versions={"torch": store._installed("torch") or ""},
        persistent_factor=1.001,
        moving_factor=1.01,
        fragmentation_factor=0.8,
        slack_bytes=3 * MIB,
        context_bytes=300 * MIB,
        cublas_workspace_bytes=8 * MIB,
        interval=(2.0, 3.0),
        observations=9,
        models=3,
        errors={"fitted_median": 0.004},
    )
    store.save_fit(CARD, found)
    hardware = find(CARD)
    assert hardware.context_bytes == 300 * MIB
    after = memory.predict(spec, hardware, choices)
    assert before.tensors_peak_bytes is not None
    moving = before.tensors_peak_bytes - before.instants["load"]
    persistent = before.instants["load"] - device.workspace_bytes(bare)
    expected = 16 * MIB + 1.001 * persistent + 1.01 * moving
    assert after.tensors_peak_bytes == pytest.approx(expected, abs=1024)
    assert after.device_peak_bytes == after.reserved_peak_bytes + 300 * MIB
    assert sum(after.components.values()) == after.device_peak_bytes
    assert max(after.instants.values()) == after.tensors_peak_bytes
    low, high = after.interval_bytes
    assert after.allocated_peak_bytes <= low <= after.device_peak_bytes <= high
    grid = memory.predict_grid(spec, hardware, choices, [4, 8], [512], [spec.total_layers])
    assert grid.allocated[0] == pytest.approx(max(v for k, v in after.instants.items() if k != "eval"), abs=1024)
    assert store.bare(hardware) == bare
    report = check(Question(model=spec, hardware=hardware, choices=choices), with_remedies=False)
    assert report.calibration is not None
    assert report.calibration["applied"] is True
    assert any("Corrected by 9 measurements of 3 models" in sentence for sentence in report.reasons)


def test_nothing_observed_changes_nothing() -> None:
    assert find(CARD) == profiles.load(CARD)
    spec = sources.load_model(MODELS[0])
    assert check(Question(model=spec, hardware=find(CARD)), with_remedies=False).calibration is None


def test_runs_tell_how_far_off_predictions_were() -> None:
    """GIVEN two training runs but no calibration THEN the report says how far off they were."""
    for seed, share in ((1, 1.02), (2, 1.04)):
        item = observation(MODELS[0], 2, 256, seed=seed)
        assert item.predicted is not None
        measured = round(item.predicted.allocated_peak_bytes / share)
        kept = item.model_copy(update={"source": "run", "allocated_peak_bytes": measured})
        store.save_observation(kept, f"run-{seed}")
    hardware = find(CARD)
    assert hardware.calibration is not None
    assert not hardware.calibration.applied
    assert hardware.calibration.errors["runs_worst"] == pytest.approx(0.04, abs=1e-4)


# ---- shapes --------------------------------------------------------------------------------------------------------


def test_shapes_separate_the_unknowns() -> None:
    """GIVEN a card THEN the chosen shapes fit it, cover several models, and tell the terms apart."""
    hardware = profiles.load(CARD)
    pool = shapes.candidates(hardware, budget_bytes=hardware.budget_bytes)
    chosen = shapes.choose(pool, hardware, count=10, seconds=150)
    assert len(chosen) == 10
    assert len({shape.model for shape in chosen}) >= 4
    assert sum(shape.seconds for shape in chosen) <= 150
    assert all(shape.predicted.device_peak_bytes <= 0.6 * hardware.budget_bytes for shape in chosen)

    def information(picked: list[shapes.Shape]) -> float:
        design = np.vstack([shapes.information(shape, hardware) for shape in picked])
        return float(np.linalg.slogdet(np.eye(design.shape[1]) + design.T @ design)[1])

    assert information(chosen) > information(pool[:10]) + 1
    assert shapes.choose(pool, hardware, count=10, seconds=1) == []


def test_layers_are_cut_from_a_config() -> None:
    config = {"num_hidden_layers": 8, "layer_types": ["a"] * 8, "max_window_layers": 8}
    assert shapes.with_layers(config, 2) == {"num_hidden_layers": 2, "layer_types": ["a"] * 2, "max_window_layers": 2}
    assert config["num_hidden_layers"] == 8


# ---- the command ---------------------------------------------------------------------------------------------------


def test_interruption_keeps_finished_points(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN Ctrl-C during the third point THEN two observations are kept and fitted, and the exit code is 130."""
    taken: list[str] = []

    def probe(request: Any, *, timeout: float | None = None) -> Observation:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(request.label)
        item = observation(MODELS[len(taken) - 1], 1, 256, seed=len(taken))
        return item.model_copy(update={"hardware": {"profile": "cpu"}, "reserved_peak_bytes": None})

    monkeypatch.setattr("planner.calibration.worker.probe", probe)
    assert main(["calibrate", "--device", "cpu"]) == 130
    out, err = capsys.readouterr()
    assert len(list(store.observations_folder().glob("*.json"))) == 2
    assert "2 observations are too few" in out
    assert "[2/" in err


def test_fit_only_uses_what_is_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN earlier observations THEN `plan calibrate --fit-only` fits them, and `plan check --json` says so."""
    for index, item in enumerate(several()):
        store.save_observation(item, f"calibrate-{index:02d}")
    monkeypatch.setattr(
        calibration_run, "hardware_for", lambda kind: (profiles.load(CARD), profiles.load(CARD).budget_bytes)
    )
    assert main(["calibrate", "--fit-only", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fit"]["applied"] is True
    assert main(["check", "--gpu", CARD, "--model", MODELS[0], "--max-length", "512", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["calibration"]["observations"] == 9
    assert report["memory"]["device_peak_bytes"] == sum(report["memory"]["components"].values())


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InvalidInput, match="tpu"):
        calibration_run.hardware_for("tpu")
    with pytest.raises(RunFailed, match="nothing was measured"):
        calibration_run.calibrate("cpu", measure=False)
    assert main(["calibrate", "--device", "cpu", "--minutes", "0"]) == 2


def test_a_calibration_of_a_strange_version_is_one_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a fit whose file names a version with control characters WHEN it is set aside THEN the reason has none."""
    from planner.calibration import store
    from planner.contract.spec import Calibration

    fit = Calibration(applied=True, versions={"torch": "\x1b[31mred\n1"})
    monkeypatch.setattr(store, "_revived", lambda path: [fit])
    monkeypatch.setattr(store, "_installed", lambda package: "2.13.0")
    found = store.load_fit("cpu")
    assert found is not None
    assert found.reason.isprintable()
