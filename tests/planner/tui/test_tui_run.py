"""The wizard from its first screen to a finished training of the embedded model, by keys alone; and runs that go wrong.

Real trainers in processes of their own; nothing is simulated.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from planner.tui import history
from planner.tui.app import TuneplanApp
from planner.tui.screens.adjust import AdjustScreen
from planner.tui.screens.data import DataScreen
from planner.tui.screens.end import EndScreen
from planner.tui.screens.live import LiveScreen
from planner.tui.screens.modals import QuitScreen
from planner.tui.screens.model import ModelScreen
from planner.tui.screens.plan import PlanScreen
from planner.tui.screens.talk import TalkScreen
from planner.tui.widgets.field_list import FieldList
from tests.support.tui_support import flat, screen_text, settle, type_text, until

pytest.importorskip("torch")
pytest.importorskip("peft")
pytestmark = pytest.mark.slow


def generates_with_peft(base: Path, adapter: Path) -> bool:
    """Whether plain peft loads the adapter, finds something in it and goes on with a text."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    tokens = AutoTokenizer.from_pretrained(base)("sun", return_tensors="pt")
    made = model.generate(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], max_new_tokens=4)
    assert sum(float(p.abs().sum()) for n, p in model.named_parameters() if "lora_B" in n) > 0
    return bool(made.shape[1] > tokens["input_ids"].shape[1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model and data, as `python -m trainer demo-assets` gives them to anyone but for the time that the
    model has learnt: 20 updates are told from 300 by what it says, and no test here reads that."""
    from trainer.commands.demo import assets

    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(assets, "PRETRAINING_PAIRS", 20 * assets.PRETRAINING_BATCH)
        assets.make(folder)
    return folder


@pytest.fixture(autouse=True)
def own_place(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in the demo's folder; observations go to a folder of the test's own."""
    monkeypatch.chdir(demo)
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


async def set_field(app: TuneplanApp, pilot: Pilot[Any], key: str, text: str) -> None:
    """Goes to a setting and types its value, by keys."""
    fields = app.screen.query_one(FieldList)
    for _ in range(60):
        if fields.current == key:
            break
        await pilot.press("down")
    await pilot.press("enter")
    await type_text(pilot, text)
    await pilot.press("enter")
    await settle(app, pilot)


def preset(tmp_path: Path, **numbers: Any) -> TuneplanApp:
    """An app at the plan, for a run that lasts long enough to be disturbed."""
    return TuneplanApp(
        gpu="cpu",
        model="./model",
        data="./train.jsonl",
        output=tmp_path / "runs",
        settings={"batch_size": 2, "gradient_accumulation_steps": 1, "precision": "fp32"},
        hyperparameters={"max_steps": 5000, "logging_steps": 1, "epochs": 100.0, "report_to": (), **numbers},
    )


async def test_from_the_first_screen_to_a_finished_adapter_by_keys(demo: Path, tmp_path: Path) -> None:
    app = TuneplanApp(output=tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        assert "★ cpu" in await settle(app, pilot)
        await type_text(pilot, "cpu")
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, ModelScreen)
        await type_text(pilot, "./model")
        await pilot.press("enter")
        assert "Enter takes this model" in await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, DataScreen)
        await pilot.press("shift+tab")
        await type_text(pilot, "./train.jsonl")
        await pilot.press("enter")
        assert "prompt-completion" in await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        await set_field(app, pilot, "max_steps", "12")
        await set_field(app, pilot, "eval_steps", "6")
        await set_field(app, pilot, "logging_steps", "1")
        await pilot.press("t")
        await until(app, pilot, lambda: isinstance(app.screen, LiveScreen), 10)
        shown = await until(app, pilot, lambda: bool(app.run_snapshot.train), 90)
        for words in ("learning rate", "tokens/s", "predicted", "measured", "time left", "Pause", "Stop"):
            assert words in shown
        shown = await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 90)
        run = app.run_snapshot
        assert run.phase == "finished", run.failure
        assert run.result.reason == "completed"
        assert run.step == 12
        assert run.result.eval_loss < run.result.eval_loss_before
        assert abs(run.deviation) < 0.05
        assert run.sample
        for words in ("adapter", "held-out loss", "peak in tensors", "peak of process", "predicted", "generate"):
            assert words in shown
        adapter = Path(run.result.adapter_path)
        assert (adapter / "adapter_model.safetensors").is_file()
        assert (adapter.parent / "plan.yaml").is_file()
        await pilot.press("p")
        await until(app, pilot, lambda: isinstance(app.screen, TalkScreen), 10)
        talk = app.screen
        await pilot.press(*"sun", "enter")
        await until(app, pilot, lambda: not talk.busy, 90)
        shown = flat(screen_text(app))
        assert "▸ sun" in shown
        assert "trained" in shown
        assert "base" in shown
        assert generates_with_peft(demo / "model", adapter)
        await pilot.press("escape")
        await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 10)
        await pilot.press("q")
        await pilot.pause()
    assert app.return_value == 0


async def test_pause_kill_resume_and_quitting_leaves_the_run_going(tmp_path: Path) -> None:
    app = preset(tmp_path, save_steps=3, eval_steps=3)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        await pilot.press("t")
        await until(app, pilot, lambda: app.run_snapshot is not None and app.run_snapshot.checkpoint is not None, 90)
        await pilot.press("p")
        await until(app, pilot, lambda: app.run_snapshot.phase == "paused", 30)
        waits, evaluated = app.run_snapshot.step, len(app.run_snapshot.samples)
        await pilot.press("e")
        await until(app, pilot, lambda: len(app.run_snapshot.samples) > evaluated, 30)
        await until(app, pilot, lambda: app.run_snapshot.phase == "paused", 30)
        assert app.run_snapshot.step == waits, "it was evaluated where it waits"
        await pilot.press("a")
        await until(app, pilot, lambda: isinstance(app.screen, AdjustScreen), 10)
        await pilot.press("end", *["backspace"] * 20, *"0.001", "enter")
        await until(app, pilot, lambda: app.run_snapshot.peak_rate == 0.001, 30)
        await pilot.press("p")
        await until(app, pilot, lambda: app.run_snapshot.phase == "running", 30)
        await pilot.press("q")
        await until(app, pilot, lambda: isinstance(app.screen, QuitScreen), 10)
        await pilot.press("escape")
        await until(app, pilot, lambda: isinstance(app.screen, LiveScreen), 10)

        os.kill(app._run.pid, signal.SIGKILL)
        shown = await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 30)
        assert "SIGKILL" in shown
        assert "--resume" in flat(shown)
        assert "Traceback" not in shown
        assert app.exit_code == 4
        reached = app.run_snapshot.step

        await pilot.press("r")
        await until(app, pilot, lambda: isinstance(app.screen, LiveScreen), 10)
        await until(app, pilot, lambda: app.run_snapshot.phase == "running" and app.run_snapshot.step > reached, 90)
        process = app._run.process
        await pilot.press("p")
        await until(app, pilot, lambda: app.run_snapshot.phase == "paused", 30)
        paused_after = app.run_snapshot.step
        await pilot.press("ctrl+q")
        await until(app, pilot, lambda: isinstance(app.screen, QuitScreen), 10)
        await pilot.press("l")
        await pilot.pause()
    try:
        assert app.return_value == 0
        assert process.poll() is None
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "run"), "the shell comes back"
        for _ in range(300):
            run, trainer = history.reopen(history.unfinished(tmp_path / "runs")[0])
            if run.step > paused_after:
                break
            time.sleep(0.1)
        assert trainer is not None
        assert run.step > paused_after, "nobody is left to end the pause"
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0, "a stop by signal is an orderly end"


@pytest.mark.nightly
async def test_stop_and_a_new_plan(tmp_path: Path) -> None:
    app = preset(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("t")
        await until(app, pilot, lambda: app.run_snapshot is not None and app.run_snapshot.step >= 2, 90)
        await pilot.press("x", "x")
        shown = await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 60)
        assert app.run_snapshot.result.reason == "stopped"
        assert "stopped" in shown
        await pilot.press("n")
        await until(app, pilot, lambda: isinstance(app.screen, PlanScreen), 10)


@pytest.mark.nightly
async def test_quitting_may_stop_the_run_and_failures_are_one_line(demo: Path, tmp_path: Path) -> None:
    app = preset(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        kept = demo / "train.jsonl"
        kept.rename(demo / "away.jsonl")
        try:
            await pilot.press("t")
            shown = await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 60)
        finally:
            (demo / "away.jsonl").rename(kept)
        assert "train.jsonl" in flat(shown)
        assert "Traceback" not in shown
        assert "The run failed" in shown
        await pilot.press("n")
        await until(app, pilot, lambda: isinstance(app.screen, PlanScreen), 10)
        await pilot.press("t")
        await until(app, pilot, lambda: app.run_snapshot is not None and app.run_snapshot.step >= 2, 90)
        process = app._run.process
        await pilot.press("q")
        await until(app, pilot, lambda: isinstance(app.screen, QuitScreen), 10)
        await pilot.press("x")
        await until(app, pilot, lambda: process.poll() is not None, 60)
        await pilot.pause(0.5)
    assert process.returncode == 0
    assert app.return_value == 0
