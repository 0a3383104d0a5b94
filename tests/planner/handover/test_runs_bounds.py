"""A runner stays small however long the run is, and reads events whatever stands in them."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from pathlib import Path

import pytest

from planner.contract import process
from planner.contract.events import EvalEvent, Event, FinishedEvent
from planner.handover import trainer_process
from planner.tui import history
from tests.support.trainer_support import make_plan
from trainer.commands import gridsearch
from trainer.wire.events import EventStream

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"


def said_by(child: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trainer_process.Run:
    """A runner whose trainer is this script."""
    file = tmp_path / "child.py"
    file.write_text(child)
    monkeypatch.setattr(process, "command", lambda *words: [sys.executable, str(file)])
    return trainer_process.start(tmp_path / "plan.yaml")


def test_a_hundred_thousand_steps_stay_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """GIVEN a long run that nobody listens to THEN its newest events and the last of each lasting kind are there."""
    child = (
        "import json\n"
        "def say(kind, **data): print(json.dumps({'kind': kind, 'time': 0.0, 'data': data}))\n"
        "say('started', run_dir='r'); say('warning', message='w')\n"
        "for step in range(100_000):\n"
        "    say('step', step=step, total_steps=100_000, loss=1.0, learning_rate=1e-4, sample='x' * 300)\n"
        "    if step == 50_000: say('checkpoint', path='checkpoint-50000')\n"
        "say('finished', reason='completed')\n"
    )
    tracemalloc.start()
    try:
        run = said_by(child, monkeypatch, tmp_path)
        assert run.wait(600) == 0
        run._reader.join(600)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 32 * 2**20
    kinds = [event.kind for event in run.events]
    assert len(kinds) <= trainer_process.EVENTS_KEPT + len(trainer_process.KEPT_KINDS)
    assert kinds[:2] == ["started", "checkpoint"]
    assert kinds[-1] == "finished"
    assert run.events[-2].data["step"] == 99_999
    waiting = list(run)
    assert len(waiting) <= 2 * trainer_process.EVENTS_KEPT + 1
    assert [event.kind for event in waiting if event.kind != "step"] == ["started", "warning", "checkpoint", "finished"]
    steps = [event.data["step"] for event in waiting if event.kind == "step"]
    assert steps == sorted(steps)
    assert steps[-1] == 99_999
    assert list(run) == []
    assert run.poll() is None


def test_who_listens_gets_every_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = (
        "import json, sys\n"
        "for step in range(5000):\n"
        "    print(json.dumps({'kind': 'step', 'time': 0.0, 'data': {'step': step}}), flush=True)\n"
        "    if step % 500 == 499: sys.stdin.readline()\n"  # waits until those were taken
        "print(json.dumps({'kind': 'finished', 'time': 0.0, 'data': {}}))\n"
    )
    run = said_by(child, monkeypatch, tmp_path)
    seen = []
    for event in run:
        seen.append(event.data.get("step"))
        if len(seen) % 500 == 0:
            run.pause()
    assert seen == [*range(5000), None]


def test_separators_in_a_sample_split_no_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """GIVEN a model that writes every separator there is THEN the trainer's line is one line for every reader."""
    stream = io.StringIO()
    events = EventStream(stream)
    events.attach(tmp_path)
    events.emit(EvalEvent(step=1, sample=f"a{SEPARATORS}b", loss=float("nan")))
    events.emit(FinishedEvent(reason="completed"))
    events.close()
    for text in (stream.getvalue(), (tmp_path / "events.jsonl").read_text(encoding="utf-8")):
        assert len(text.splitlines()) == 2
        found = [Event.model_validate_json(line) for line in text.splitlines()]
        assert found[0].data["sample"] == f"a{SEPARATORS}b"


def test_readers_split_at_line_feeds_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """GIVEN events that an earlier version wrote, with separators as they are THEN every reader has them whole."""
    sample = "a\u2028\u2029\x85b"
    rows = [
        {"kind": "eval", "time": 0.0, "data": {"step": 1, "loss": 0.5, "sample": sample}},
        {"kind": "finished", "time": 0.0, "data": {"reason": "stopped"}},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "events.jsonl").write_text(text, encoding="utf-8")
    run = said_by(f"import sys; sys.stdout.buffer.write({text.encode()!r})", monkeypatch, tmp_path)
    assert [event.data.get("sample") for event in run] == [sample, None]
    assert [event.data.get("sample") for event in gridsearch._events(text)] == [sample, None]
    assert [event.kind for event in history._tail(tmp_path / "events.jsonl")] == ["eval", "finished"]
    make_plan(tmp_path / "plan.yaml", tmp_path / "model", tmp_path / "data")
    snapshot, _ = history.replay(tmp_path)
    assert snapshot.evals == ((1, 0.5),)


def test_events_that_make_no_sense_are_shown_and_not_believed(tmp_path: Path) -> None:
    """GIVEN a damaged or foreign run's events THEN the wizard goes on."""
    from planner.tui import live

    snapshot = live.RunSnapshot()
    for kind in ("started", "phase", "data", "step", "eval", "checkpoint", "warning", "oom", "paused", "finished", "x"):
        for value in ("abc", None, [], {}, -1, 1e400, "\x1b[2J", True):
            keys = ("step", "total_steps", "loss", "epoch", "seconds", "device", "name", "detail", "reason", "message")
            keys += ("allocated_peak_bytes", "device_bytes", "run_dir", "sample", "path", "trainable_parameters")
            event = Event.model_construct(kind=kind, time=0.0, data=dict.fromkeys(keys, value))
            snapshot = live.reduce(snapshot, event)
    assert "\x1b" not in "".join(snapshot.log)
    assert "\x1b" not in snapshot.doing + snapshot.device
