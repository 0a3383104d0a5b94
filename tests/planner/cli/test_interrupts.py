"""Ctrl-C: one line that says what is kept and how to go on, exit code 130, no traceback, nobody left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.cli.progress import Follower, kept_line, summary_lines
from planner.contract.errors import Interrupted
from planner.contract.events import Event, FinishedEvent
from tests.support.trainer_support import make_model, make_plan, write_pairs
from trainer.commands import gridsearch
from trainer.wire.control import Control, StopRequested
from trainer.wire.events import EventStream
from trainer.wire.request import Request, read_plan


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    return make_plan(folder / "plan.json", make_model(folder / "model"), write_pairs(folder / "pairs.jsonl"))


@pytest.mark.nightly
def test_a_range_test_shows_what_it_has(plan_file: Path, tmp_path: Path) -> None:
    """GIVEN SIGINT to `plan` alone THEN the trainer gets it, its points are shown, and no process is left."""
    marked = {**os.environ, "TUNEPLAN_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "planner.cli", "find-lr", str(plan_file), "--steps", "100000"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=marked)
    assert child.stderr is not None
    first = next(line for line in child.stderr if line.startswith("step "))
    assert first.startswith("step 1/100000")
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("interrupted")]
    assert "of 100000 steps; what they say is shown" in line
    assert "|" in out


def test_an_interrupt_before_the_libraries_are_there(plan_file: Path) -> None:
    """GIVEN SIGINT while Python still starts THEN it waits for its handler: one line, no traceback."""
    from planner.cli.signals import held

    with held():
        child = subprocess.Popen(
            [sys.executable, "-m", "trainer", "dry-run", str(plan_file)], stderr=subprocess.PIPE, text=True
        )
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err == "interrupted; nothing was written, start it again\n"


def test_a_grid_goes_on_where_it_was_interrupted(plan_file: Path, tmp_path: Path) -> None:
    ran: list[str] = []
    interrupts = iter([True])
    plan = read_plan(Request(plan=plan_file))
    wanted = gridsearch.cells([1e-3, 1e-2, 1e-1], [4], [8])

    def runner(file: Path, where: Path) -> list[Event]:
        if where.name == wanted[1].name and next(interrupts, False):
            raise KeyboardInterrupt
        ran.append(where.name)
        return [Event(kind="finished", time=0.0, data={"steps": 3, "eval_loss": 1.0, "reason": "completed"})]

    with pytest.raises(Interrupted, match=r"1 of 3 runs are finished and kept in .*grid\.md; the same command goes on"):
        gridsearch.search(plan, wanted, tmp_path, runner=runner)
    assert len(gridsearch.search(plan, wanted, tmp_path, runner=runner)) == 3
    assert ran == [cell.name for cell in wanted]


def test_a_cell_that_was_stopped_is_no_result_and_resumes(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a cell's folder with a checkpoint THEN its run resumes, and steps told before count once."""
    plan = read_plan(Request(plan=plan_file))
    (cell,) = gridsearch.cells([1e-3], [4], [8])

    def stopped(file: Path, where: Path) -> list[Event]:
        return [Event(kind="finished", time=0.0, data={"steps": 2, "eval_loss": 1.0, "reason": "stopped"})]

    assert gridsearch.run_cell(plan, cell, tmp_path, stopped).failure == "stopped after 2 steps"
    where = tmp_path / "run"
    (where / "checkpoint-2").mkdir(parents=True)
    steps = [Event(kind="step", time=0.0, data={"step": number, "loss": float(number)}) for number in (1, 2, 3)]
    (where / "events.jsonl").write_text("".join(event.model_dump_json(by_alias=True) + "\n" for event in steps))
    commands: list[list[str]] = []
    real = subprocess.Popen

    end = Event(kind="finished", time=0.0, data={"step": 3})
    said = "\n".join(event.model_dump_json(by_alias=True) for event in (steps[2], end))

    def popen(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return real([sys.executable, "-c", f"print({said!r})"], **options)

    monkeypatch.setattr(gridsearch.subprocess, "Popen", popen)
    events = gridsearch.in_child(tmp_path / "plan.json", where)
    assert commands[0][-2:] == ["--resume", "auto"]
    assert [event.data["step"] for event in events] == [1, 2, 3, 3, 3]


def test_a_grid_of_other_data_or_settings_is_refused(plan_file: Path, tmp_path: Path) -> None:
    """GIVEN finished cells THEN other hyperparameters or changed data in the same file don't stand beside them."""
    data = write_pairs(tmp_path / "pairs.jsonl", 20)
    plan = read_plan(Request(plan=plan_file, data=str(data)))
    before = gridsearch._key(plan, {})
    assert before == gridsearch._key(plan, {})
    changed = plan.model_copy(update={"hyperparameters": plan.hyperparameters.model_copy(update={"beta2": 0.9})})
    assert gridsearch._key(changed, {}) != before
    write_pairs(data, 21)
    assert gridsearch._key(plan, {}) != before


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control(EventStream(io.StringIO()))
    made.install_signals()
    yield made
    made.restore_signals()


def test_signals_after_the_first_do_not_cut_off_the_last_words(control: Control) -> None:
    with pytest.raises(StopRequested):
        os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


def test_while_stepping_a_second_interrupt_ends_at_once(control: Control) -> None:
    control.stepping = True
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert control.stop.is_set()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


class _Run:
    """A run of given events; stopping and killing are counted."""

    def __init__(self, events: list[Event], code: int, interrupts: int) -> None:
        self.events, self.code, self.interrupts = events, code, interrupts
        self.calls: list[str] = []

    def __iter__(self) -> Iterator[Event]:
        for _ in range(self.interrupts):
            os.kill(os.getpid(), signal.SIGINT)
        yield from self.events

    def stop(self) -> None:
        self.calls.append("stop")

    def kill(self) -> None:
        self.calls.append("kill")

    def let_go(self) -> None:
        self.calls.append("let go")

    def wait(self) -> int:
        return self.code


def _event(kind: str, **data: Any) -> Event:
    return Event(kind=kind, time=0.0, data=data)


@pytest.mark.parametrize(
    ("events", "code", "interrupts", "exit_code", "calls"),
    [
        ([_event("finished", reason="stopped", steps=3)], 0, 1, 130, ["stop"]),
        ([_event("finished", reason="completed", steps=9)], 0, 1, 0, ["stop"]),
        ([_event("failed", message="killed", exit_code=-9)], -9, 2, 130, ["stop", "kill"]),
        ([_event("failed", message="disk", exit_code=4)], 4, 1, 4, ["stop"]),
        ([_event("failed", message="killed", exit_code=-9)], -9, 0, 4, []),
    ],
)
def test_exit_codes_of_a_followed_run(
    events: list[Event], code: int, interrupts: int, exit_code: int, calls: list[str]
) -> None:
    run, follower = _Run(events, code, interrupts), Follower(io.StringIO())
    assert follower.follow(run) == exit_code  # type: ignore[arg-type]
    assert run.calls == calls


def test_what_is_kept_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nothing is kept" in kept_line(None)
    assert "nothing is kept" in kept_line(tmp_path / "a run")
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x"):
        (tmp_path / "a run" / name).mkdir(parents=True)
    assert kept_line(tmp_path / "a run", "cpu") == (
        "checkpoint-10 is kept in a run; "
        "go on with: plan train 'a run/plan.yaml' --output 'a run' --resume --device cpu"
    )
    assert summary_lines(FinishedEvent(reason="stopped", steps=0)) == []


def test_a_forked_worker_does_not_wait_for_the_thread_that_listens() -> None:
    """GIVEN a thread that waits for commands on stdin THEN a forked process, which closes its own first, still runs."""
    script = """
import io, multiprocessing, time
from trainer.wire.control import Control
from trainer.wire.events import EventStream
Control(EventStream(io.StringIO())).listen()
time.sleep(0.3)
worker = multiprocessing.get_context("fork").Process(target=int)
worker.start()
worker.join(20)
print(worker.exitcode)
worker.kill()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.read() == "0\n"


@pytest.mark.parametrize(("lines", "with_parent", "ends"), [
    ([], True, True),
    ([b'{"command": "alone"}'], True, False),
    ([b'{"command": "resume"}'], True, True),
    ([], False, False),
])  # fmt: skip
def test_the_end_of_stdin_ends_a_run_with_its_parent(
    lines: list[bytes], with_parent: bool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN stdin that ends THEN a run that was started `with_parent` stops, unless `alone` had come before."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    control = Control(EventStream(io.StringIO()))
    control.pause.set()
    control.with_parent = with_parent
    control._read(lines)
    assert sent == ([(os.getpid(), signal.SIGTERM)] if ends else [])
    assert control.pause.is_set() == ((not ends and not lines) or b"alone" in b"".join(lines))


@pytest.mark.nightly
def test_a_killed_command_takes_its_child_along(plan_file: Path, tmp_path: Path) -> None:
    """GIVEN SIGKILL to a `plan` that waits for another command of the trainer THEN that one ends too."""
    marked = {**os.environ, "TUNEPLAN_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "planner.cli", "find-lr", str(plan_file), "--steps", "100000"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=marked)
    assert child.stderr is not None
    next(line for line in child.stderr if line.startswith("step "))
    child.kill()
    out, err = child.communicate(timeout=60)  # comes to an end once nobody holds the other side of the pipes
    assert "of 100000 steps; what they say is shown" in err
    assert "|" in out
