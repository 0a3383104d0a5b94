"""What a running trainer is told, by stdin and by its folder; a paused one evaluates, saves and changes too."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.contract import control as contract
from planner.contract.control import Command, tell
from planner.contract.errors import InvalidInput
from planner.contract.run_folder import COMMANDS
from planner.handover import plans, trainer_process
from tests.support.clock import tries
from tests.support.trainer_support import make_model, make_plan, of_kind, train, write_pairs
from trainer.wire import control
from trainer.wire.control import Control
from trainer.wire.events import EventStream

pytest.importorskip("torch")

WRONG = (
    "", "[]", "nonsense", '{"command": "format"}', '{"command": "pause", "value": 1}', '{"command": "learning_rate"}',
    '{"command": "learning_rate", "value": -1}', '{"command": "learning_rate", "value": NaN}',
    '{"command": "learning_rate", "value": "1e-4"}', '{"command": "learning_rate", "value": 1e9}',
    '{"command": "logging_steps", "value": 1.5}', '{"command": "stop", "run": "rm"}', '{"command": true}',
    '{"command": "pause"}' + " " * contract.LONGEST,
)  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_line_that_is_no_command_is_none(line: str) -> None:
    assert contract.read(line) is None


@pytest.mark.parametrize(("word", "value"), [("evaluate", None), ("learning_rate", 1e-4), ("logging_steps", 7)])
def test_a_command_reads_back(word: Any, value: float | None) -> None:
    command = Command(command=word, value=value)
    assert contract.read(contract.line_of(command)) == command


def until(true: Callable[[], bool]) -> None:
    for _ in tries(30):
        if true():
            return
        time.sleep(0.005)


def test_what_is_written_into_the_folder_from_now_on_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN an older run's commands WHEN the folder is followed THEN only later whole lines count, links never."""
    monkeypatch.setattr(control, "LOOK_SECONDS", 0.005)
    told = io.StringIO()
    flags = Control(EventStream(told))
    tell(tmp_path, Command(command="stop"))
    flags.follow(tmp_path)
    path = tmp_path / COMMANDS
    with path.open("a") as stream:
        stream.write("nonsense\n" + contract.line_of(Command(command="pause"))[:9])
        stream.flush()
        until(lambda: "unknown command line" in told.getvalue())
        assert not flags.pause.is_set(), "half a line is none"
        stream.write(contract.line_of(Command(command="pause"))[9:])
    until(flags.pause.is_set)
    assert not flags.stop.is_set(), "what an earlier run was told"
    path.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x" * 500 + "\n" + contract.line_of(Command(command="stop")))
    path.symlink_to(elsewhere)
    with pytest.raises(InvalidInput):
        tell(tmp_path, Command(command="stop"))
    path.unlink()
    tell(tmp_path, Command(command="evaluate"))
    tell(tmp_path, Command(command="resume"))
    until(lambda: not flags.pause.is_set())
    assert [wish.command for wish in flags.wanted()] == ["evaluate"]
    assert not flags.wanted()
    assert not flags.stop.is_set()
    flags.close()


def test_a_paused_run_evaluates_saves_and_changes_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a run paused after its second step WHEN told this and that THEN it does each without another step, the
    rate holds from there on, and the plan in its folder says so."""
    from trainer.loop.callbacks import Reporter

    model = make_model(tmp_path / "model")
    data = write_pairs(tmp_path / "data.jsonl")
    steady = {"scheduler": "constant", "warmup_ratio": 0.0, "eval_steps": None}
    plan = make_plan(tmp_path / "plan.json", model, data, max_steps=5, **steady)
    script = [
        Command(command="learning_rate", value=0.5e-4),
        Command(command="evaluate"),
        Command(command="evaluate"),
        Command(command="checkpoint"),
        Command(command="logging_steps", value=3),
    ]
    original = Reporter._wait_while_paused

    def scripted(self: Any, state: Any) -> None:
        if state.global_step == 2:
            self.flags.pause.set()
            if script:
                self.flags.wishes.append(script.pop(0))
            else:
                self.flags.pause.clear()
        original(self, state)

    monkeypatch.setattr(Reporter, "_wait_while_paused", scripted)
    events, failure = train(plan, tmp_path / "run")
    assert failure is None
    assert [entry["step"] for entry in of_kind(events, "resumed")] == [2], "what was paused is told to go on, once"
    assert [entry["step"] for entry in of_kind(events, "eval")].count(2) == 2
    assert 2 in [entry["step"] for entry in of_kind(events, "checkpoint")]
    changed = {entry["name"]: (entry["step"], entry["after"]) for entry in of_kind(events, "changed")}
    assert changed == {"learning_rate": (2, 0.5e-4), "logging_steps": (2, 3)}
    rates = {entry["step"]: entry["learning_rate"] for entry in of_kind(events, "step")}
    assert rates[5] == pytest.approx(0.5e-4)
    assert rates[1] == pytest.approx(plans.load(plan).hyperparameters.learning_rate)
    assert sorted(rates) == [1, 2, 3, 5], "after the change only every third step is told, and the last"
    assert plans.load(tmp_path / "run/plan.yaml").hyperparameters.learning_rate == 0.5e-4
    assert json.loads((tmp_path / "run/events.jsonl").read_text().splitlines()[-1])["kind"] == "finished"


def test_a_pause_that_ends_while_the_run_evaluates_is_told_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a paused run that evaluates WHEN it is resumed meanwhile THEN whoever watches hears that it goes on."""
    from trainer.loop.callbacks import Reporter

    plan = make_plan(
        tmp_path / "plan.json", make_model(tmp_path / "model"), write_pairs(tmp_path / "data.jsonl"), max_steps=3
    )
    waiting, evaluated = Reporter._wait_while_paused, Reporter.on_evaluate

    def paused(self: Any, state: Any) -> None:
        if state.global_step == 1:
            self.flags.pause.set()
            self.flags.wishes.append(Command(command="evaluate"))
        waiting(self, state)

    def resumed(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> Any:
        if state.global_step == 1:
            self.flags.pause.clear()
        return evaluated(self, args, state, control, **rest)

    monkeypatch.setattr(Reporter, "_wait_while_paused", paused)
    monkeypatch.setattr(Reporter, "on_evaluate", resumed)
    events, failure = train(plan, tmp_path / "run")
    assert failure is None
    assert [event.kind for event in events if event.kind in ("paused", "resumed")] == ["paused", "resumed"]


def test_an_evaluation_by_hand_is_no_turn_of_early_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a run that ends after two evaluations without gain WHEN a person evaluates after every step THEN only those
    that were due count, in the loop and for whoever goes on from its log."""
    from trainer.loop.callbacks import Reporter
    from trainer.loop.saving import needed_history
    from trainer.recovery.symptoms import BY_HAND

    plan = make_plan(
        tmp_path / "plan.json",
        make_model(tmp_path / "model"),
        write_pairs(tmp_path / "data.jsonl"),
        max_steps=8,
        eval_steps=2,
        early_stopping_patience=2,
        early_stopping_threshold=9.0,
    )
    original, logs = Reporter._fulfil, []

    def each_step(self: Any, state: Any, control: Any) -> None:
        self.flags.wishes.append(Command(command="evaluate"))
        logs[:] = state.log_history
        original(self, state, control)

    monkeypatch.setattr(Reporter, "_fulfil", each_step)
    events, failure = train(plan, tmp_path / "run")
    assert failure is None
    (end,) = of_kind(events, "finished")
    assert (end["reason"], end["steps"]) == ("early_stopping", 6)
    assert [entry["step"] for entry in of_kind(events, "eval")][1:] == [1, 2, 3, 4, 5, 6]
    by_hand = {entry["step"]: entry.get(BY_HAND, False) for entry in logs if "eval_loss" in entry}
    assert by_hand[5]
    assert not by_hand[4]
    kept = needed_history(logs, plans.load(plan).hyperparameters)
    assert [entry["step"] for entry in kept if "eval_loss" in entry and not entry.get(BY_HAND)] == [0, 2, 4]


def test_a_stop_that_comes_while_the_trainer_imports_is_a_stop(tmp_path: Path) -> None:
    """GIVEN a trainer that was started a moment ago WHEN it is stopped THEN it says so and ends with 0."""
    plan = make_plan(tmp_path / "plan.json", tmp_path / "model", tmp_path / "data.jsonl")
    run = trainer_process.start(plan, output=tmp_path / "run")
    run.stop()
    events = list(run)
    assert run.wait(60) == 0, run.stderr_tail
    assert [event.kind for event in events] == ["finished"]
    assert events[0].data["reason"] == "stopped"
    assert run.stderr_tail == ""
