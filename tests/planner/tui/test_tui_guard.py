"""What starts or is saved is what was judged: `t` and `s` wait for the verdict of the settings on the screen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.records import Plan
from planner.tui import doubts, messages, reading, work
from planner.tui import state as states
from planner.tui.app import TuneplanApp
from planner.tui.screens.plan import OLDER
from planner.tui.widgets.panels.verdict import VerdictPanel
from tests.support.tui_support import flat, screen_text, settle, until, write_pairs

FITS, TOO_LARGE = {"batch_size": 1, "max_length": 512}, 64


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Judging waits until this is set; it is at the start."""
    open_, real = threading.Event(), work.evaluate
    open_.set()

    def slow(state: states.WizardState) -> work.Evaluation:
        assert open_.wait(30)
        return real(state)

    monkeypatch.setattr(work, "evaluate", slow)
    yield open_
    open_.set()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans that would have been handed to a trainer."""
    plans: list[Plan] = []
    monkeypatch.setattr(TuneplanApp, "_begin", lambda self, plan, *, resume: plans.append(plan))
    return plans


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TuneplanApp:
    """A plan for a card that this machine claims to be: one sequence fits, 64 do not."""
    from planner.devices.profiles import load

    monkeypatch.setattr(
        reading, "look_at_machine", lambda: reading.HardwareFound(profile=load("a10g"), title="A10G", note="")
    )
    data = write_pairs(tmp_path / "pairs.jsonl")
    fixed = {
        **FITS,
        "gradient_checkpointing": False,
        "padding": "max",
        "loss": "full",
        "gradient_accumulation_steps": 64,
    }
    return TuneplanApp(gpu="a10g", model="phi-2", data=data, output=tmp_path / "runs", settings=fixed)


def enlarge(app: TuneplanApp) -> None:
    """The change that no longer fits, as the keys make it."""
    app.screen._try(lambda state: states.change(state, "batch_size", TOO_LARGE))  # type: ignore[attr-defined]


async def test_train_waits_for_the_verdict_and_asks(
    app: TuneplanApp, gate: threading.Event, started: list[Plan]
) -> None:
    """GIVEN settings that fit WHEN they are changed and `t` comes before the answer THEN nothing starts unasked."""
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        assert app.settled
        gate.clear()
        enlarge(app)
        await pilot.press("t", "t", "t")
        await until(app, pilot, lambda: "t waits for that" in flat(screen_text(app)))
        assert started == []
        gate.set()
        shown = flat(await settle(app, pilot))
        assert "It does not fit" in shown
        assert "Press t again" in shown
        assert started == []
        assert not (app.output).exists()
        await pilot.press("t")
        assert [plan.settings.batch_size for plan in started] == [TOO_LARGE]
        assert started[0].predicted == app.evaluation.report.memory


async def test_train_that_waited_starts_what_fits_once(
    app: TuneplanApp, gate: threading.Event, started: list[Plan]
) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        gate.clear()
        app.screen._try(lambda state: states.change(state, "batch_size", 2))  # type: ignore[attr-defined]
        await pilot.press("t", "t")
        assert started == []
        gate.set()
        await settle(app, pilot)
        assert [plan.settings.batch_size for plan in started] == [2]


async def test_saving_waits_and_asks_as_well(app: TuneplanApp, gate: threading.Event) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        gate.clear()
        enlarge(app)
        await pilot.press("s")
        assert not app.output.exists()
        gate.set()
        assert "Press s again to save" in flat(await settle(app, pilot))
        assert not app.output.exists()
        await pilot.press("s")
        await settle(app, pilot)
        assert len(list(app.output.glob("*.yaml"))) == 1


async def test_a_change_ends_the_waiting(app: TuneplanApp, gate: threading.Event, started: list[Plan]) -> None:
    """GIVEN a `t` that waits WHEN a setting is changed THEN it is asked for anew, whatever the verdict."""
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        gate.clear()
        enlarge(app)
        await pilot.press("t")
        await pilot.press("u")
        gate.set()
        assert "t waits for that" not in flat(await settle(app, pilot))
        assert started == []


WAYS: dict[str, Callable[[Any], None]] = {
    "undo": lambda screen: screen.action_undo(),
    "reset": lambda screen: screen.action_reset(),
    "remedy": lambda screen: screen._try(lambda s: states.take_remedy(s, {"batch_size": 2})),
    "tier": lambda screen: screen.action_tier(),
    "device": lambda screen: screen.wizard_app.choose_hardware(screen.wizard_app.find_hardware("t4")),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_other_settings_is_judged_before_it_starts(
    app: TuneplanApp, gate: threading.Event, started: list[Plan], way: str
) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        app.screen._try(lambda state: states.change(state, "batch_size", 3))  # type: ignore[attr-defined]
        await settle(app, pilot)
        gate.clear()
        WAYS[way](app.screen)
        await pilot.press("t")
        assert started == []
        assert not app.settled
        gate.set()
        await settle(app, pilot)
        for plan in started:
            assert plan.settings == states_settings(app)
            assert plan.predicted == app.evaluation.report.memory


def states_settings(app: TuneplanApp) -> TrainingChoices:
    """The settings on the screen."""
    return app.wizard.choices


async def test_figures_of_older_settings_are_marked(app: TuneplanApp, gate: threading.Event) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        pane = app.screen.query_one(VerdictPanel)
        assert "FITS" in screen_text(app)
        assert not pane.has_class("older")
        gate.clear()
        enlarge(app)
        await pilot.pause()
        assert pane.has_class("older")
        await until(app, pilot, lambda: OLDER in screen_text(app))
        gate.set()
        shown = await settle(app, pilot)
        assert not pane.has_class("older")
        assert OLDER not in shown
        assert "DOES NOT FIT" in shown


async def test_a_newer_question_ends_the_older_one(app: TuneplanApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a judgement that takes long WHEN a setting changes THEN its parts end early and its figures never show."""
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        shown: list[int] = []
        app.watch(app, "evaluation", lambda new: shown.append(new.report.settings.batch_size), init=False)
        ended: list[str] = []
        real = work._still_wanted
        first = threading.Event()

        def look() -> None:
            first.wait(10)
            try:
                real()
            except work.Superseded:
                ended.append("older")
                raise

        monkeypatch.setattr(work, "_still_wanted", look)
        enlarge(app)
        await asyncio.sleep(0.05)
        app.screen._try(lambda state: states.change(state, "batch_size", 4))  # type: ignore[attr-defined]
        first.set()
        await settle(app, pilot)
        assert ended == ["older"]
        assert shown == [4]
        assert app.evaluation.report.settings.batch_size == 4


async def test_undo_keeps_what_was_learnt_of_the_machine(app: TuneplanApp, started: list[Plan]) -> None:
    """GIVEN a change made before this machine was looked at WHEN it is taken back THEN `t` still knows the machine."""
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        before = states.replace(app.wizard, this_machine=None, note="")
        back = states.back_to(before, app.wizard)
        assert back.this_machine == app.wizard.this_machine == "a10g"


def test_a_plan_for_elsewhere_that_does_not_fit_says_both(app: TuneplanApp) -> None:
    wizard = states.change(app.wizard, "batch_size", TOO_LARGE)
    report = work.evaluate(wizard).report
    told = doubts.doubt(states.replace(wizard, this_machine="cpu"), report, None)
    assert told is not None
    assert "this machine is cpu" in told.text
    assert "does not fit" in told.text
    assert "GiB of" in told.text


async def test_answers_that_come_while_the_wizard_closes_are_dropped(app: TuneplanApp, started: list[Plan]) -> None:
    """GIVEN threads that answer when the last screen has gone THEN nobody minds."""
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
    assert app.shown is None
    assert app.wizard.hardware is not None
    app.on_fits_found(messages.FitsFound(app.wizard.hardware.name, {"phi-2": "fits"}))
    app.on_runs_found(messages.RunsFound(()))
    app.on_model_ready(messages.ModelReady(reading.ModelFound(name="phi-2")))
    app.on_data_ready(messages.DataReady(reading.DataFound(path="elsewhere.jsonl")))
    app.say("anything")
    app.go("plan")


@pytest.mark.parametrize("model", [None, "gpt2"], ids=["model", "data"])
async def test_an_answer_for_a_screen_that_is_taken_down_does_no_harm(model: str | None) -> None:
    """GIVEN a screen whose widgets are gone already THEN what threads still have to say to it is dropped."""
    app = TuneplanApp(gpu="a10g", model=model)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        await app.screen.query("*").remove()
        app.post_message(messages.FitsFound("a10g", {"gpt2": "fits"}))
        app.post_message(messages.ModelReady(reading.ModelFound(name="x", error="none")))
        app.post_message(messages.DataReady(reading.DataFound(path="x", error="none")))
        app.post_message(messages.SamplesRead("x", ()))
        app.say("one more word")
        await pilot.pause()
        await pilot.pause()
        assert app.is_running
