"""Training on several devices: two processes on a cpu against one, killed, stopped, out of memory, resumed."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.control import Command, tell
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.events import Event
from planner.handover import trainer_process
from tests.support.trainer_support import SETTINGS, make_model, make_plan, of_kind, train, write_pairs
from trainer.commands.accounts import largest
from trainer.data.batches import EpochBatches
from trainer.distributed import environment, supported
from trainer.distributed.batches import RankBatches
from trainer.wire.request import Request, run_arguments

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")

ONE = {"lora_dropout": 0.0, "loss": "chunked", "batch_size": 4, "gradient_accumulation_steps": 4}
TWO = {**ONE, "gradient_accumulation_steps": 2, "num_gpus": 2}
"""The same effective batch. The 34 training examples make three steps an epoch, the last one not full: in it the second
process has one micro-batch less than the first.
"""


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    make_model(folder / "model")
    write_pairs(folder / "data.jsonl", 42)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def alone(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that the others are held against."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(folder / "home"))
        _, failure = train(plan(assets, folder / "plan.json", ONE), folder / "run")
    assert failure is None
    return folder / "run"


def plan(assets: Path, path: Path, settings: dict[str, Any], **hyper: Any) -> Path:
    return make_plan(path, assets / "model", assets / "data.jsonl", settings=settings, **hyper)


def finish(run: trainer_process.Run) -> list[Event]:
    events = list(run)
    assert run.wait(60) == 0, (events[-1:], run.stderr_tail)
    return events


def until(run: trainer_process.Run, wanted: Callable[[Event], bool]) -> Event:
    for event in run:
        if wanted(event):
            return event
    raise AssertionError(f"the run ended first: {run.events[-1:]} {run.stderr_tail}")


def losses(folder: Path) -> dict[int, float]:
    """The last loss that was reported of each step."""
    lines = (json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines())
    return {line["data"]["step"]: line["data"]["loss"] for line in lines if line["kind"] == "step"}


def assert_same(folder: Path, other: Path) -> None:
    """The same loss curve within 1e-5 and the same adapter within 1e-5."""
    from safetensors.torch import load_file

    found, wanted = losses(folder), losses(other)
    assert found.keys() == wanted.keys()
    assert len(found) == 6
    for step, loss in wanted.items():
        assert math.isclose(found[step], loss, rel_tol=1e-5), (step, found, wanted)
    ours, theirs = (load_file(str(each / "adapter/adapter_model.safetensors")) for each in (folder, other))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert float((ours[name] - value).abs().max()) <= 1e-5, name


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_two_ddp_processes_make_the_run_of_one(assets: Path, alone: Path, tmp_path: Path) -> None:
    """GIVEN the plan for two devices WHEN both train, one of them running out of memory twice, THEN the curve and the
    adapter are those of one device; a checkpoint of theirs goes on in one process.
    """
    path = plan(assets, tmp_path / "plan.json", TWO)
    os.environ["TUNEPLAN_FAULTS"] = "1:backward@2,1:eval@3"
    try:
        events = finish(trainer_process.start(path, output=tmp_path / "run"))
    finally:
        del os.environ["TUNEPLAN_FAULTS"]
    assert_same(tmp_path / "run", alone)
    told = [(each["rank"], each["phase"], each["step"], each["new_batch_size"]) for each in of_kind(events, "oom")]
    assert told == [(1, "backward", 2, 2), (1, "eval", 3, 2)]
    assert of_kind(events, "started")[0]["device"] == "2 × cpu"
    (end,) = of_kind(events, "finished")
    assert (end["reason"], end["steps"]) == ("completed", 6)
    observation = json.loads((tmp_path / "run/observation.json").read_text())
    assert observation["settings"]["num_gpus"] == 2
    assert observation["allocated_peak_bytes"] == max(observation["instants"].values())
    assert [file.name for file in (tmp_path / "run").glob("log*")] != []

    checkpoints = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert [folder.name for folder in checkpoints] == ["checkpoint-3", "checkpoint-6"]
    assert {file.name for file in checkpoints[0].glob("random*.json")} == {"random-0.json", "random-1.json"}
    (tmp_path / "other").mkdir()
    checkpoints[0].rename(tmp_path / "other/checkpoint-3")
    single = plan(assets, tmp_path / "single.json", ONE)
    _, failure = train(single, tmp_path / "other", resume="auto")
    assert failure is None
    wanted = losses(alone)
    for step, loss in losses(tmp_path / "other").items():
        assert step > 3
        assert math.isclose(loss, wanted[step], rel_tol=1e-5)


@pytest.mark.nightly
def test_two_fsdp_processes_start_again_with_fewer_rows(
    assets: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN weights that are divided WHEN one process runs out of memory THEN both go on from the last checkpoint with
    half the rows, and the curve and the adapter are those of one device.
    """
    path = plan(assets, tmp_path / "plan.json", {**TWO, "strategy": "fsdp"})
    monkeypatch.setenv("TUNEPLAN_FAULTS", "1:backward@5")
    events = finish(trainer_process.start(path, output=tmp_path / "run"))
    assert_same(tmp_path / "run", alone)
    (told,) = of_kind(events, "oom")
    assert (told["rank"], told["phase"], told["step"], told["new_batch_size"]) == (1, "backward", 5, 2)
    first, second = of_kind(events, "started")
    assert first["resumed_from"] is None
    assert second["resumed_from"].endswith("checkpoint-3")
    assert of_kind(events, "eval")[-1]["sample"] is not None


def test_a_killed_process_ends_the_run(assets: Path, tmp_path: Path) -> None:
    """GIVEN two DDP processes WHEN the second is killed THEN one line says so and nothing hangs."""
    kill_one(assets, tmp_path)


@pytest.mark.nightly
def test_after_a_kill_another_strategy_goes_on(assets: Path, alone: Path, tmp_path: Path) -> None:
    """GIVEN a DDP run that lost a process THEN FSDP goes on from its checkpoint to the result of one device."""
    kill_one(assets, tmp_path)
    again = plan(assets, tmp_path / "again.json", {**TWO, "strategy": "fsdp"}, save_steps=1)
    finish(trainer_process.start(again, output=tmp_path / "run", resume="auto"))
    assert_same(tmp_path / "run", alone)


def kill_one(assets: Path, tmp_path: Path) -> None:
    """Kills the second process of a run and looks at what is told."""
    path = plan(assets, tmp_path / "plan.json", TWO, save_steps=1)
    run = trainer_process.start(path, output=tmp_path / "run")
    until(run, lambda event: event.kind == "checkpoint" and event.data["step"] == 2)
    run.pause()
    until(run, lambda event: event.kind == "paused")
    second = next(pid for pid in children(run.pid) if environment_of(pid).get("RANK") == "1")
    os.kill(second, signal.SIGKILL)
    failed = until(run, lambda event: event.kind == "failed")
    assert run.wait(60) == failed.data["exit_code"] == 4
    assert "rank 1 of 2 was ended by SIGKILL" in failed.data["message"]
    assert run.stderr_tail.strip().splitlines()[-1] == f"error: {failed.data['message']}"
    assert children(run.pid) == []
    kept = [json.loads(line)["kind"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert kept[-1] == "failed"


@pytest.mark.nightly
def test_a_stop_is_agreed_on_and_leaves_a_checkpoint(assets: Path, tmp_path: Path) -> None:
    path = plan(assets, tmp_path / "plan.json", TWO, epochs=500.0, eval_steps=1000)
    run = trainer_process.start(path, output=tmp_path / "run")
    until(run, lambda event: event.kind == "step" and event.data["step"] >= 2)
    run.stop()
    end = until(run, lambda event: event.kind == "finished")
    assert run.wait(30) == 0
    assert end.data["reason"] == "stopped"
    assert (tmp_path / f"run/checkpoint-{end.data['steps']}/manifest.json").is_file()


def test_processes_obey_what_one_of_them_is_told(assets: Path, tmp_path: Path) -> None:
    """GIVEN a run in two processes WHEN it is told to pause, evaluate, save, change its rate, go on and stop THEN both
    do each together, what is wanted of a paused run before it goes on."""
    steady = {"scheduler": "constant", "warmup_ratio": 0.0}
    path = plan(assets, tmp_path / "plan.json", TWO, epochs=500.0, eval_steps=1000, **steady)
    run = trainer_process.start(path, output=tmp_path / "run")
    until(run, lambda event: event.kind == "step")
    run.pause()
    at = until(run, lambda event: event.kind == "paused").data["step"]
    run.tell(Command(command="evaluate"))
    assert until(run, lambda event: event.kind in ("eval", "step")).data["step"] == at
    run.tell(Command(command="learning_rate", value=3e-5))
    run.tell(Command(command="checkpoint"))
    until(run, lambda event: event.kind == "checkpoint" and event.data["step"] == at)
    run.resume()
    until(run, lambda event: event.kind == "resumed")
    after = until(run, lambda event: event.kind == "step" and event.data["step"] > at)
    assert after.data["learning_rate"] == pytest.approx(3e-5)
    tell(tmp_path / "run", Command(command="stop"))
    end = until(run, lambda event: event.kind == "finished")
    assert run.wait(30) == 0
    assert end.data["reason"] == "stopped"
    assert [event.data["after"] for event in run.events if event.kind == "changed"] == [3e-5]


def children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def environment_of(pid: int) -> dict[str, str]:
    import psutil

    return dict(psutil.Process(pid).environ())


# ---- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_each_step_as_one_would_take_it(size: int) -> None:
    """Every step's micro-batches together are those of one process, in its order; only fillers are added."""
    accumulation = 2
    batches = EpochBatches(
        [3 + i % 7 for i in range(53)], batch_size=4, accumulation=accumulation * size, max_length=16
    )
    whole = list(batches)
    ranks = [RankBatches(batches, rank=rank, size=size) for rank in range(size)]
    lists = [list(rank) for rank in ranks]
    assert {len(each) for each in lists} == {len(ranks[0])} == {-(-len(whole) // size)}
    merged = []
    for place in range(len(ranks[0])):
        for rank, own in zip(ranks, lists, strict=True):
            if rank.is_filler(place):
                assert len(own[place]) == 1
            else:
                merged.append(own[place])
    assert merged == whole


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    base = TrainingChoices(num_gpus=2, strategy="fsdp")
    supported.check(base)
    import dataclasses

    for change, name in (
        ({"strategy": "zero3"}, "--strategy zero3"),
        ({"method": "qlora"}, "quantised weights"),
        ({"precision": "fp16-mixed"}, "--precision fp16-mixed"),
        ({"optimizer": "adafactor"}, "--optimizer adafactor"),
        ({"lora_variant": "dora"}, "DoRA"),
    ):
        with pytest.raises(NotModelled, match=name):
            supported.check(dataclasses.replace(base, **change))


def test_a_wrong_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InvalidInput, match="3 processes were started, but the plan is for --num-gpus 2"):
        environment.check(2)
    monkeypatch.setenv(environment.ROWS, "2,1")
    assert environment.rows() == {"rows": 2, "eval_rows": 1}


def test_processes_get_the_request(tmp_path: Path) -> None:
    """What the launcher hands on is parsed to the same request."""
    from trainer.__main__ import parser
    from trainer.commands.arguments import given_hyperparameters

    asked = Request(
        plan=tmp_path / "plan.yaml",
        data="d.jsonl",
        resume="auto",
        control_stdin=True,
        device="cpu",
        adapter="a",
        overrides={"learning_rate": "1e-4", "group_by_length": False, "report_to": "none"},
    )
    given = parser().parse_args(run_arguments(asked, tmp_path / "run"))
    assert (given.plan, given.data, given.resume, given.adapter) == (asked.plan, "d.jsonl", "auto", "a")
    assert (given.output, given.control, given.device) == (tmp_path / "run", "stdin", "cpu")
    assert given_hyperparameters(given) == asked.overrides


def test_the_largest_of_several_measurements() -> None:
    measured = [
        {"allocated_peak_bytes": 5, "reserved_peak_bytes": None, "instants": {"forward": 5, "eval": 2}},
        {"allocated_peak_bytes": 7, "reserved_peak_bytes": None, "instants": {"forward": 4, "backward": 7}},
    ]
    instants = {"backward": 7, "eval": 2, "forward": 5}
    assert largest(measured) == {"allocated_peak_bytes": 7, "reserved_peak_bytes": None, "instants": instants}


def test_settings_of_the_runs_have_one_effective_batch() -> None:
    assert TrainingChoices(**{**SETTINGS, **ONE}).effective_batch_size == 16
    assert TrainingChoices(**{**SETTINGS, **TWO}).effective_batch_size == 16
