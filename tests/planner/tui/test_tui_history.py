"""Runs that were left behind: found in the output folder, read again, followed or offered to be resumed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from planner.contract.control import Command, read
from planner.contract.errors import InvalidInput
from planner.contract.records import Plan
from planner.contract.run_folder import COMMANDS
from planner.contract.run_settings import DataSettings
from planner.handover import plans
from planner.tui import history
from planner.tui.app import TuneplanApp
from planner.tui.screens.adjust import AdjustScreen
from planner.tui.screens.end import EndScreen
from planner.tui.screens.live import LiveScreen
from planner.tui.screens.plan import PlanScreen
from tests.support.tui_support import drawn, flat, screen_text, settle, until

fcntl = pytest.importorskip("fcntl")


def line(kind: str, /, **data: object) -> str:
    return json.dumps({"schema": "tuneplan.event/1", "kind": kind, "time": 0.0, "data": data}) + "\n"


def step(number: int) -> str:
    return line("step", step=number, total_steps=50, loss=1.0 / number, allocated_peak_bytes=1000 + number)


def leave_run(output: Path, name: str, *events: str, checkpoint: bool = True) -> Path:
    """A run's folder as a trainer leaves it."""
    folder = output / name
    folder.mkdir(parents=True)
    plans.save(Plan(model="phi-2", gpu="cpu", settings={}, data=DataSettings(path="/x.jsonl")), folder / "plan.yaml")
    (folder / "events.jsonl").write_text(line("started", device="cpu", total_steps=50) + "".join(events))
    (folder / "lock").write_text(f"{os.getpid()}\n")
    if checkpoint:
        (folder / "checkpoint-4").mkdir()
    return folder


@contextmanager
def trainer_at_work(folder: Path) -> Iterator[None]:
    """The folder's lock is held, as a trainer that runs holds it."""
    handle = os.open(folder / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


SAVED = line("checkpoint", step=4, path="runs/a/checkpoint-4", kind="last")


def test_what_is_left_to_do_is_found(tmp_path: Path) -> None:
    leave_run(tmp_path, "killed", step(4), SAVED)
    leave_run(tmp_path, "stopped", step(9), line("finished", reason="stopped", steps=9))
    leave_run(tmp_path, "broken", step(3), line("failed", message="no space"))
    leave_run(tmp_path, "done", step(50), line("finished", reason="completed", steps=50))
    leave_run(tmp_path, "early", step(1), checkpoint=False)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "events.jsonl").write_bytes(b"\xff\xfe no events")
    going = leave_run(tmp_path, "going", step(2), checkpoint=False)
    with trainer_at_work(going):
        found = {run.folder.name: (run.state, run.step) for run in history.unfinished(tmp_path)}
    assert found == {"killed": ("interrupted", 4), "stopped": ("stopped", 9), "broken": ("failed", 3),
                     "going": ("going on", 2)}  # fmt: skip
    assert "going" not in {run.folder.name for run in history.unfinished(tmp_path)}
    assert history.unfinished(tmp_path / "nowhere") == ()


def test_a_run_is_read_again_with_its_resumption(tmp_path: Path) -> None:
    """GIVEN a run that failed, was resumed and cut off in a line WHEN read THEN it is as if it had been watched."""
    folder = leave_run(
        tmp_path, "a", step(1), step(4), SAVED, line("failed", message="no space"),
        line("started", device="cpu", total_steps=50), step(5), '{"kind": "st',
    )  # fmt: skip
    (past,) = history.unfinished(tmp_path)
    run, trainer = history.reopen(past)
    assert trainer is None
    assert run.phase == "failed"
    assert "killed" in run.failure
    assert run.step == 5
    assert [x for x, _ in run.train] == [1, 4, 5]
    assert run.checkpoint is not None
    (folder / "plan.yaml").write_text("nonsense: [")
    with pytest.raises(InvalidInput):
        history.reopen(past)


def test_long_runs_are_thinned_and_keep_their_last_step(tmp_path: Path) -> None:
    leave_run(tmp_path, "a", *(step(number) for number in range(1, 3 * history.STEPS_KEPT)))
    run, _ = history.reopen(history.unfinished(tmp_path)[0])
    assert run.step == 3 * history.STEPS_KEPT - 1


def test_a_run_that_goes_on_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a trainer of someone else WHEN followed THEN new events come to its end; it is told by its folder."""
    monkeypatch.setattr(history, "POLL_SECONDS", 0.01)
    folder = leave_run(tmp_path, "a", step(2))
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(pid))
    with trainer_at_work(folder):
        run, trainer = history.reopen(history.unfinished(tmp_path)[0])
        assert run.phase == "running"
        assert trainer is not None
        trainer.pause()
        trainer.tell(Command(command="learning_rate", value=1e-4))
        trainer.leave()  # what was paused from here goes on
        trainer.leave()
        told = [read(told) for told in (folder / COMMANDS).read_text().splitlines()]
        assert [command.command for command in told] == ["pause", "learning_rate", "resume"]
        trainer.stop()
        assert signals == [os.getpid()]
        seen: list[int] = []
        listener = threading.Thread(target=lambda: seen.extend(event.data["step"] for event in trainer))
        listener.start()
        with (folder / "events.jsonl").open("a") as stream:
            stream.write(step(3) + step(4)[:20])
            stream.flush()
            stream.write(step(4)[20:])
    listener.join(10)
    assert seen == [3, 4]
    trainer.stop()
    assert len(signals) == 1, "a process that is not the trainer any more gets no signal"


async def test_a_killed_run_is_offered_at_the_start_and_resumable(tmp_path: Path) -> None:
    leave_run(tmp_path, "tiny-a-1", step(4), SAVED)
    app = TuneplanApp(output=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        shown = flat(await settle(app, pilot))
        assert "tiny-a-1 was interrupted: ^o" in shown
        assert "Runs" in screen_text(app).splitlines()[-1]
        await pilot.press("ctrl+o")
        assert "interrupted, step 4 of 50" in await settle(app, pilot)
        await pilot.press("enter")
        shown = flat(await until_end(app, pilot))
        assert "killed" in shown
        assert "--resume" in shown
        assert app.may_resume
        await until(app, pilot, lambda: app.wizard.model is not None, 20)
        await pilot.press("n")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen), "the plan is that run's"


async def until_end(app: TuneplanApp, pilot) -> str:  # type: ignore[no-untyped-def]
    for _ in range(200):
        if isinstance(app.screen, EndScreen):
            break
        await pilot.pause(0.02)
    return await settle(app, pilot)


async def test_a_run_that_goes_on_is_shown_live(tmp_path: Path) -> None:
    folder = leave_run(tmp_path, "tiny-a-1", step(2), step(4))
    app = TuneplanApp(output=tmp_path)
    with trainer_at_work(folder):
        async with app.run_test(size=(80, 24)) as pilot:
            assert "tiny-a-1 still goes on: ^o" in flat(await settle(app, pilot))
            await pilot.press("ctrl+o", "enter")
            shown = await until(app, pilot, lambda: isinstance(app.screen, LiveScreen), 10)
            assert "step 4/50" in shown
            assert "Started elsewhere" in flat(shown)
            for key in ("Pause", "Evaluate", "Save", "Adjust", "Stop"):
                assert key in shown.splitlines()[-1]
            await pilot.press("e", "s", "x", "c", "a")
            await until(app, pilot, lambda: isinstance(app.screen, AdjustScreen), 10)
            await pilot.press("end", *["backspace"] * 20, *"nonsense", "enter")
            assert "is not a number above 0" in flat(await drawn(app, pilot))
            await pilot.press(*["backspace"] * 8, *"3e", "minus", "4", "enter")
            await until(app, pilot, lambda: isinstance(app.screen, LiveScreen), 10)
            told = [read(line) for line in (folder / COMMANDS).read_text().splitlines()]
            assert [(each.command, each.value) for each in told] == [
                ("evaluate", None), ("checkpoint", None), ("learning_rate", 3e-4)
            ], "one x alone stops nothing"  # fmt: skip
            await pilot.press("q", "l")
            await pilot.pause()
    assert app.return_value == 0
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "run")


async def test_a_run_is_shown_by_its_folder_alone(tmp_path: Path) -> None:
    """GIVEN the folder of a run, going on or over, WHEN the wizard opens with it THEN the run stands there at once."""
    going = leave_run(tmp_path, "going", step(2), checkpoint=False)
    early = leave_run(tmp_path, "early", step(1), checkpoint=False)
    with trainer_at_work(going):
        app = TuneplanApp(attach=history.at(going), output=tmp_path)
        async with app.run_test(size=(120, 36)) as pilot:
            shown = flat(await until(app, pilot, lambda: isinstance(app.screen, LiveScreen)))
            assert "cpu · phi-2 · x.jsonl" in shown, "the line at the top tells of the run, not of what was chosen"
            assert "Started elsewhere" in shown
            await pilot.press("q", "l")
            await pilot.pause()
            assert str(going) in str(app.goes_on) or "going" in str(app.goes_on)
            assert " ui " in str(app.goes_on)
    app = TuneplanApp(attach=history.at(early), output=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        assert "The run failed" in await until(app, pilot, lambda: isinstance(app.screen, EndScreen), fails=True)
        await until(app, pilot, lambda: app.wizard.model is not None, 20)
        await pilot.press("n")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen), "another run like it begins with its plan"
        assert app.wizard.model_name == "phi-2"


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("model: x\n")
    with pytest.raises(InvalidInput, match="not the folder of a run"):
        history.at(tmp_path)
