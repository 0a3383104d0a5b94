"""Loss curves that look wrong, and ones that don't."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tests.support.trainer_support import make_model, make_plan, of_kind, train, write_pairs
from trainer.recovery.faults import VARIABLE
from trainer.recovery.symptoms import Symptoms
from trainer.wire import files


def told(losses: list[float], norms: list[float] | None = None, *, clip: float = 1.0) -> list[str]:
    """What is warned about over a curve."""
    signs = Symptoms(total_steps=len(losses), warmup_steps=5, max_grad_norm=clip)
    found = []
    for step, loss in enumerate(losses, 1):
        found += signs.step(step, loss, norms[step - 1] if norms else 1.0)
    return [sign.what for sign in found]


def falling(steps: int, *, noise: float = 0.1, floor: float = 0.5) -> list[float]:
    rng = random.Random(0)
    return [floor + 3 * math.exp(-step / 60) + rng.gauss(0, noise) for step in range(steps)]


def test_ordinary_curves_are_left_alone() -> None:
    for noise in (0.0, 0.02, 0.1, 0.2):
        assert told(falling(400, noise=noise)) == []
    assert told([0.01] * 200) == []  # nothing left to learn
    assert told(falling(8)) == []


def test_batches_of_another_kind_are_no_spikes() -> None:
    """Every ninth to thirtieth batch holds examples that are harder, as length grouping makes them."""
    for every in (9, 17, 30):
        curve = [loss + (1.2 + 0.1 * (step % 4) if step % every == 5 else 0) for step, loss in enumerate(falling(400))]
        assert told(curve) == [], every
        curve[222] = 12.0
        assert told(curve) == ["loss spike"], every


def test_a_spike_is_told_once_per_outbreak() -> None:
    curve = falling(400)
    curve[150], curve[151], curve[300] = 9.0, 8.0, 7.0
    assert told(curve) == ["loss spike", "loss spike"]


def test_gradient_spikes_matter_where_nothing_clips() -> None:
    norms = [1.0] * 200
    norms[120] = 50.0
    assert told(falling(200), norms, clip=0.0) == ["gradient spike"]
    assert told(falling(200), norms, clip=1.0) == []


def test_a_loss_that_stands_still_and_one_that_crawls() -> None:
    assert told([4.0] * 300) == ["loss doesn't fall"]
    assert told([4.0 - 0.001 * step for step in range(300)]) == ["slow convergence"]


def test_overfitting_is_seen_in_the_evaluations() -> None:
    signs = Symptoms(total_steps=100, warmup_steps=0, max_grad_norm=1.0)
    found = []
    for step in range(1, 101):
        signs.step(step, 3.0 / step, 1.0)
        if step % 20 == 0:
            found += signs.evaluation(step, {20: 1.0, 40: 0.9, 60: 1.0, 80: 1.2, 100: 1.4}[step])
    assert [sign.what for sign in found] == ["overfitting"]
    assert "stop early" in found[0].advice
    assert [sign.what for sign in signs.evaluation(101, math.nan)] == ["evaluation is no number"]


def test_a_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    model, data = make_model(tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    monkeypatch.setenv(VARIABLE, "nan@6")
    plan = make_plan(tmp_path / "plan.json", model, data, epochs=3.0, save_steps=4)
    events, failure = train(plan, tmp_path / "run")
    assert "step 6: the loss became nan; the last good checkpoint is" in str(failure)
    assert "checkpoint-4" in str(failure)
    assert files.manifest_problem(tmp_path / "run/checkpoint-4") is None
    assert of_kind(events, "failed")[0]["exit_code"] == 4
    assert of_kind(events, "step")[-1]["step"] == 5


def test_a_manifest_that_does_not_cover_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    files.write_manifest(tmp_path)
    (tmp_path / "b.txt").write_text("two")
    assert files.manifest_problem(tmp_path) == "b.txt isn't listed in manifest.json"
    (tmp_path / "manifest.json").write_text('{"files": {}}')
    assert files.manifest_problem(tmp_path) == "manifest.json lists no files"
    (tmp_path / "manifest.json").write_text('{"files": {"a.txt": {"bytes": "x"}}}')
    assert files.manifest_problem(tmp_path) == "manifest.json is damaged"
