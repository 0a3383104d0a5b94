"""What holds on every screen: keys, help, palette, sizes, and how the wizard begins and ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from planner.contract.errors import InvalidInput
from planner.tui.app import TuneplanApp, run
from planner.tui.screens.data import DataScreen
from planner.tui.screens.hardware import HardwareScreen
from planner.tui.screens.modals import HelpScreen
from planner.tui.screens.model import ModelScreen
from planner.tui.screens.plan import PlanScreen
from tests.support.tui_support import SIZES, flat, planned, settle, type_text, until

sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@sizes
async def test_from_hardware_to_plan_by_keys(size: tuple[int, int], pairs: Path) -> None:
    app = TuneplanApp(start_folder=pairs.parent)
    async with app.run_test(size=size) as pilot:
        shown = await settle(app, pilot)
        assert isinstance(app.screen, HardwareScreen)
        assert "★" in shown
        assert "this machine" in shown
        await type_text(pilot, "a10g")
        shown = await settle(app, pilot)
        for words in ("NVIDIA A10G", "budget", "bandwidth", "bf16", "Sources"):
            assert words in shown
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, ModelScreen)
        await type_text(pilot, "microsoft/phi-2")
        shown = await settle(app, pilot)
        for words in ("2,779,683,840", "layers", "positions", "2,048"):
            assert words in shown
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, DataScreen)
        assert "pairs.jsonl" in shown
        await pilot.press("down", "enter")
        shown = await settle(app, pilot)
        for words in ("prompt-completion", "200", "longest", "cut at", "█"):
            assert words in shown
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        for words in ("a10g · phi-2 · pairs.jsonl", "FITS", "tokens/s", "whole run", "balanced", "peaks in"):
            assert words in shown
        assert all(len(line) == size[0] for line in shown.splitlines())


@sizes
async def test_every_step_says_its_keys(size: tuple[int, int], pairs: Path) -> None:
    app = TuneplanApp(start_folder=pairs.parent)
    async with app.run_test(size=size) as pilot:
        for name, words in (
            ("hardware", ("Choose", "Help", "Quit")),
            ("model", ("Choose", "Help", "Quit", "Back")),
            ("data", ("Open", "Next", "Help", "Quit", "Back")),
            ("plan", ("Change", "Type", "Tier", "View", "Save", "Train", "Back", "Help", "Quit")),
        ):
            app.go(name)
            footer = (await settle(app, pilot)).splitlines()[-1]
            for word in words:
                assert word in footer, (name, footer)


async def test_resize_keeps_everything(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        for size in ((80, 24), (100, 30), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            shown = await settle(app, pilot)
            for words in ("Batch size", "FITS", "Tiers", "tokens/s", "Train"):
                assert words in shown, size


async def test_help_names_keys_and_words(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("question_mark")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, HelpScreen)
        assert "tiers" in shown
        await pilot.press("end")
        assert "budget  " in await settle(app, pilot)
        await pilot.press("escape")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        app.go("model")
        await settle(app, pilot)
        await pilot.press("question_mark")
        await settle(app, pilot)
        assert isinstance(app.screen, HelpScreen)


async def test_palette_knows_the_steps_actions(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Train", "Save", "Tier", "Memory over one step", "Go to model", "Quit"} <= titles
        await pilot.press("ctrl+p")
        await pilot.pause(0.2)
        await type_text(pilot, "go to data")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await until(app, pilot, lambda: isinstance(app.screen, DataScreen), 10)


async def test_every_binding_has_id_and_tooltip(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        for node in (app.screen, *app.screen.walk_children()):
            if not type(node).__module__.startswith("planner."):
                continue
            for binding in type(node).__dict__.get("BINDINGS", ()):
                assert binding.id, binding
                assert binding.tooltip, binding


def test_wrong_start_values_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="a10"):
        TuneplanApp(gpu="a10gg")
    assert run({"model": "no-such-model"}) == 2
    error = capsys.readouterr().err
    assert error.startswith("plan: ")
    assert error.count("\n") == 1


async def test_sigterm_gives_the_terminal_back() -> None:
    app = TuneplanApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        os.kill(os.getpid(), signal.SIGTERM)
        await pilot.pause(0.1)
    assert app.return_value == 143


async def test_quit_without_a_run_leaves_at_once() -> None:
    app = TuneplanApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("ctrl+q")
        await pilot.pause()
    assert app.return_value == 0


async def test_a_tiny_terminal_says_so_and_comes_back(pairs: Path) -> None:
    """GIVEN a plan WHEN the terminal shrinks and grows again THEN it says what it needs, and nothing was lost."""
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("left")
        chosen = app.wizard.choices
        await pilot.resize_terminal(40, 10)
        shown = flat(await settle(app, pilot))
        assert "40×10 is too small" in shown
        assert "ctrl+q" in shown
        await pilot.resize_terminal(80, 24)
        shown = await settle(app, pilot)
        assert "too small" not in shown
        assert "Batch size" in shown
        assert app.wizard.choices == chosen
        await pilot.press("left")
        assert app.wizard.choices != chosen, "the focus is where it was"


def test_a_dumb_terminal_is_told_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert run() == 2
    said = capsys.readouterr().err
    assert "plan --gpu auto" in said
    assert len(said.splitlines()) == 1
