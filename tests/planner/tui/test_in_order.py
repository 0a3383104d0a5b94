"""Keys that come faster than screens change: each acts where the one before it led, none is lost."""

from __future__ import annotations

from pathlib import Path

from textual import events

from planner.tui.app import TuneplanApp
from planner.tui.screens.model import ModelScreen
from planner.tui.screens.plan import PlanScreen
from planner.tui.widgets.filter_list import FilterList
from tests.support.tui_support import settle, until


def type_at_once(app: TuneplanApp, *keys: str) -> None:
    """All keys before any of them is handled, as a paste or a quick hand sends them."""
    for key in keys:
        event = events.Key(key, key if len(key) == 1 else None)
        event.set_sender(app)
        assert app._driver is not None
        app._driver.send_message(event)


async def test_what_is_typed_after_enter_goes_to_the_next_step(tmp_path: Path) -> None:
    app = TuneplanApp(start_folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        type_at_once(app, *"a10g", "enter", *"gpt2")
        await until(app, pilot, lambda: isinstance(app.screen, ModelScreen) and not app.typing, 30)
        assert app.wizard.hardware is not None
        assert app.wizard.hardware.name == "a10g"
        assert app.screen.query_one(FilterList).text == "gpt2"


async def test_a_value_typed_at_once_is_kept_whole() -> None:
    app = TuneplanApp(gpu="a10g", model="gpt2")
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.go("plan")
        await until(app, pilot, lambda: isinstance(app.screen, PlanScreen), 30)
        type_at_once(app, "home", "enter", *(["backspace"] * 4), "7", "enter", "down", "down", "down", "enter",
                     *(["backspace"] * 6), *"300", "enter")  # fmt: skip
        await until(app, pilot, lambda: not app.typing, 30)
        await settle(app, pilot)
        assert app.wizard.choices.batch_size == 7
        assert app.wizard.choices.max_length == 300


def test_alt_and_a_digit_are_heard_as_terminals_send_them() -> None:
    """GIVEN the bytes of a plain terminal (xterm, tmux) and of one with kitty's protocol THEN both mean alt+2."""
    from textual._xterm_parser import XTermParser

    TuneplanApp()
    for sent in ("\x1b2", "\x1b[50;3u"):
        parser = XTermParser()
        found = [getattr(event, "key", "") for event in parser.feed(sent + "x")]
        assert found == ["alt+2", "x"], sent
