"""Commands that start a child: train and trace on a tiny model, and how a run is shown."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from planner.cli import main
from planner.cli.progress import Follower, summary_lines
from planner.contract.events import Event, FinishedEvent
from planner.contract.records import Observation
from tests.support.trainer_support import make_plan, write_pairs

PLAN = [sys.executable, "-m", "planner.cli"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TUNEPLAN_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}


def test_train_follows_a_run_to_its_end(model: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """GIVEN a plan made and saved by check THEN train runs it and prints promised beside measured memory."""
    data = write_pairs(tmp_path / "train.jsonl")
    plan = tmp_path / "plan.yaml"
    words = ["check", "--gpu", "cpu", "--model", str(model), "--precision", "fp32", "--batch-size", "4"]
    words += ["--gradient-accumulation-steps", "2", "--max-length", "16", "--no-gradient-checkpointing"]
    words += ["--stack", "builtin", "--loss", "chunked"]
    assert main([*words, "--save", str(plan)]) == 0
    command = [*PLAN, "train", str(plan), "--data", str(data), "--output", str(tmp_path / "run")]
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr
    assert "Completed after" in child.stdout
    assert "predicted," in child.stdout
    assert "measured (" in child.stdout
    assert "validation loss" in child.stderr
    observation = Observation.model_validate_json((tmp_path / "run" / "observation.json").read_text())
    assert observation.predicted is not None
    assert observation.allocated_peak_bytes is not None
    error = observation.predicted.allocated_peak_bytes / observation.allocated_peak_bytes - 1
    assert abs(error) < 0.03, error


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_interrupt_stops_with_a_checkpoint(
    model: Path, tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    """GIVEN Ctrl-C or SIGTERM during a run THEN it stops after the step with its adapter, says how to go on, and ends
    with 130; --json passes events on.
    """
    data = write_pairs(tmp_path / "train.jsonl", 200)
    plan = make_plan(tmp_path / "plan.json", model, data, epochs=200.0)
    command = [*PLAN, "train", str(plan), "--output", str(tmp_path / "run"), "--json"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert child.stdout is not None
    kinds = []
    for line in child.stdout:
        event = Event.model_validate_json(line)
        kinds.append(event.kind)
        if event.kind == "step" and kinds.count("step") == 3:
            child.send_signal(number)
        if event.kind == "finished":
            assert event.data["reason"] == "stopped"
            assert Path(event.data["adapter_path"]).is_dir()
    assert child.wait(60) == 130
    assert kinds[-1] == "finished"
    assert child.stderr is not None
    last = child.stderr.read().splitlines()[-1]
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    run = tmp_path / "run"
    assert (
        last == f"plan: {newest.name} is kept in {run}; go on with: plan train {run}/plan.yaml --output {run} --resume"
    )


def test_failed_run_keeps_its_exit_code(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """GIVEN data the trainer refuses THEN its exit code and its one line come through."""
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    plan = make_plan(tmp_path / "plan.json", model, data)
    assert main(["train", str(plan), "--output", str(tmp_path / "run")]) == 2
    out, err = capfd.readouterr()
    assert "failed: " in err
    assert "train.jsonl" in err
    assert out == ""


def test_trace_answers_like_check(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """GIVEN one configuration THEN the traced memory object has the shape of check's and lies within 5 % of it."""
    words = ["--gpu", "a10g", "--model", str(model), "--batch-size", "8", "--max-length", "128", "--json"]
    assert main(["trace", *words]) == 0
    one = json.loads(capfd.readouterr().out)
    assert main(["check", *words]) == 0
    other = json.loads(capfd.readouterr().out)["memory"]
    assert set(one) == set(other)
    assert sum(one["components"].values()) == one["device_peak_bytes"]
    assert one["allocated_peak_bytes"] == pytest.approx(other["allocated_peak_bytes"], rel=0.05)


def test_without_the_train_extra_one_line_says_how(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """GIVEN no torch THEN train, trace and demo say in one line what to install."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    plan = make_plan(tmp_path / "plan.json", tmp_path, tmp_path / "train.jsonl")
    for words in (["trace", "--gpu", "a10g"], ["train", str(plan)], ["demo"]):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "pip install 'tuneplan[train]'" in err
        assert err.count("\n") == 1


def _event(kind: str, **data: object) -> Event:
    return Event(kind=kind, time=time.time(), data=data)


def test_follower_tells_what_happened() -> None:
    """GIVEN events THEN each that matters is a line, and a number that is missing does not break it."""
    stream = io.StringIO()
    follower = Follower(stream)
    follower.show(_event("step", step=1, total_steps=2, loss=None, learning_rate=1e-4, seconds_left=61))
    follower.show(_event("oom", phase="backward", batch_size=8, new_batch_size=4))
    follower.show(_event("warning", what="nan", message="the loss is NaN", advice="lower the learning rate"))
    follower.show(_event("eval", step=2, loss=1.25, best=True))
    follower.show(_event("failed", message="no space left", exit_code=4))
    text = stream.getvalue()
    assert "step 1/2  loss ?  lr 0.0001" in text
    assert "micro-batch 8 becomes 4" in text
    assert "lower the learning rate" in text
    assert "validation loss 1.2500, best so far" in text
    assert "failed: no space left" in text


def test_summary_sets_promised_beside_measured() -> None:
    """GIVEN a finished run THEN the summary holds loss before and after and the error of the prediction."""
    lines = summary_lines(
        FinishedEvent(
            reason="completed",
            steps=10,
            seconds=65.0,
            eval_loss_before=2.0,
            eval_loss=1.0,
            predicted_bytes=1100 * 2**20,
            measured_bytes=1000 * 2**20,
            adapter_path="run/adapter",
        )
    )
    text = "\n".join(lines)
    assert "Completed after 10 steps in 1 min" in text
    assert "2.0000 before, 1.0000 after (perplexity 7.39 to 2.72)" in text
    assert "1.1 GiB predicted, 1000 MiB measured (9.1% below the prediction)" in text
    assert "Adapter: run/adapter" in text
