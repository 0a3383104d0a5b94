"""The trainer as a child process: events, commands, signals, a killed child, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from planner.contract.events import Event
from planner.handover import trainer_process
from tests.support.trainer_support import make_model, make_plan, of_kind, write_pairs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    make_model(folder / "model")
    write_pairs(folder / "data.jsonl")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def plan(assets: Path, path: Path, **hyper: object) -> Path:
    return make_plan(path, assets / "model", assets / "data.jsonl", **{"epochs": 500.0, "eval_steps": 100, **hyper})


def until(run: trainer_process.Run, wanted: Callable[[Event], bool]) -> Event:
    for event in run:
        if wanted(event):
            return event
    raise AssertionError(f"the run ended first: {run.events[-1:]} {run.stderr_tail}")


def at_step(number: int) -> Callable[[Event], bool]:
    return lambda event: event.kind == "step" and event.data["step"] >= number


def test_pause_resume_stop_then_kill_and_resume(assets: Path, tmp_path: Path) -> None:
    """One run's life: paused, gone on, stopped with a checkpoint, resumed, killed, resumed to its end."""
    path = plan(assets, tmp_path / "plan.json", save_steps=5)
    output = tmp_path / "run"
    first = trainer_process.start(path, output=output)
    until(first, at_step(2))
    first.pause()
    paused = until(first, lambda event: event.kind == "paused")
    time.sleep(0.3)
    assert [event for event in first.events if event.kind == "step"][-1].data["step"] <= paused.data["step"]
    first.resume()
    until(first, lambda event: event.kind == "resumed")
    first.process.stdin.write("nonsense\n")  # type: ignore[union-attr]
    first.process.stdin.flush()  # type: ignore[union-attr]
    until(first, lambda event: event.kind == "warning" and event.data["what"] == "control")
    first.stop()
    end = until(first, lambda event: event.kind == "finished")
    assert first.wait(30) == 0
    assert end.data["reason"] == "stopped"
    assert Path(end.data["adapter_path"], "adapter_model.safetensors").exists()
    assert (output / f"checkpoint-{end.data['steps']}/manifest.json").exists()
    assert list(first) == []

    second = trainer_process.start(path, output=output, resume="auto")
    event = until(second, at_step(end.data["steps"] + 7))
    second.kill()
    (failed,) = [event for event in second if event.kind == "failed"]
    assert "ended by SIGKILL" in failed.data["message"]
    assert second.exit_code == failed.data["exit_code"] == -signal.SIGKILL

    third = trainer_process.start(path, output=output, resume="auto")
    again = until(third, lambda event: event.kind == "step")
    # The first step after the kill follows a checkpoint written every five steps, never the beginning.
    assert end.data["steps"] < again.data["step"] <= event.data["step"] + 10
    third.process.send_signal(signal.SIGINT)
    assert until(third, lambda event: event.kind == "finished").data["reason"] == "stopped"
    assert third.wait(30) == 0


def test_a_run_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("model: m\n")
    run = trainer_process.start(tmp_path / "plan.yaml", output=tmp_path / "run")
    (failed,) = list(run)
    assert failed.kind == "failed"
    assert failed.data["exit_code"] == run.wait(10) == 2
    assert f"{tmp_path}/plan.yaml: gpu: this key is missing" in failed.data["message"]
    assert run.stderr_tail == f"error: {failed.data['message']}"


def test_a_stop_while_loading_ends_at_once(assets: Path, tmp_path: Path) -> None:
    run = trainer_process.start(plan(assets, tmp_path / "plan.json"), output=tmp_path / "run")
    until(run, lambda event: event.kind == "phase")
    run.stop()
    end = until(run, lambda event: event.kind == "finished")
    assert (end.data["reason"], end.data["steps"]) == ("stopped", 0)
    assert run.wait(30) == 0


def test_a_full_disk_keeps_the_last_good_checkpoint(assets: Path, tmp_path: Path) -> None:
    """A size limit on every file stands for the full disk: the adapters fit, the optimizer's state doesn't."""
    path = plan(assets, tmp_path / "plan.json", save_steps=2, report_to=())
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        "from trainer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    output = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(path), "--output", str(output)], capture_output=True, text=True
    )
    events = [Event.model_validate_json(line) for line in done.stdout.splitlines()]
    (failed,) = of_kind(events, "failed")
    assert done.returncode == failed["exit_code"] == 4
    assert "checkpoint of step 2 could not be written" in failed["message"]
    assert "no earlier checkpoint exists" in failed["message"]
    assert "\n" not in failed["message"]
    assert not list(output.glob("checkpoint-*"))
    assert not list(output.glob(".checkpoint*"))
    assert done.stderr.strip().splitlines()[-1] == f"error: {failed['message']}"


def test_stdout_carries_nothing_but_events_and_outlives_its_reader(assets: Path, tmp_path: Path) -> None:
    path = plan(assets, tmp_path / "plan.json", max_steps=2)
    command = [sys.executable, "-m", "trainer", "run", str(path), "--output", str(tmp_path / "run")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    Event.model_validate_json(child.stdout.readline())
    assert child.stderr is not None
    child.stdout.close()  # whoever listened goes away
    child.stderr.close()
    assert child.wait(60) == 0
    kept = [Event.model_validate_json(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert kept[-1].kind == "finished"


@pytest.mark.parametrize(
    ("number", "stops"), [(signal.SIGKILL, True), pytest.param(signal.SIGHUP, False, marks=pytest.mark.nightly)]
)
def test_a_run_knows_why_its_follower_went(assets: Path, tmp_path: Path, number: int, stops: bool) -> None:
    """GIVEN `plan train` WHEN it is killed THEN its trainer stops with a checkpoint, and WHEN its terminal is closed
    THEN the training goes on."""
    path, output = plan(assets, tmp_path / "plan.json", save_steps=100000), tmp_path / "run"
    command = [sys.executable, "-m", "planner.cli", "train", str(path), "--output", str(output)]
    follower = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = _told(output / "events.jsonl")
    trainer = next(event for event in told if event.kind == "started").data["pid"]
    next(event for event in told if event.kind == "step")
    follower.send_signal(number)
    follower.wait(30)
    if not stops:
        now = next(event for event in told if event.kind == "step").data["step"]
        next(event for event in told if event.kind == "step" and event.data["step"] > now + 20)
        os.kill(trainer, signal.SIGTERM)
    rest = list(told)
    warned = any(event.kind == "warning" and event.data["what"] == "orphaned" for event in rest)
    end = rest[-1]
    assert (end.kind, end.data["reason"], warned) == ("finished", "stopped", stops)
    assert (output / f"checkpoint-{end.data['steps']}/manifest.json").exists()


def _told(path: Path) -> Iterator[Event]:
    """What a run writes into its folder, as it comes, to its end."""
    read = 0
    for _ in range(3000):
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        for line in whole[read:]:
            event = Event.model_validate_json(line)
            yield event
            if event.kind in ("finished", "failed"):
                return
        read = len(whole)
        time.sleep(0.05)
