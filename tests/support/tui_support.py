"""What the wizard's tests share: a small data set, the screen as text, and waiting until every figure has followed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import textual.app
import textual.pilot
from textual._context import active_app
from textual.message_pump import MessagePump
from textual.pilot import Pilot

from planner.tui.app import TuneplanApp
from planner.tui.in_order import InOrder
from planner.tui.screens.end import EndScreen

SIZES = [(80, 24), (120, 40)]


async def _all_handled(min_sleep: float = 0.0, max_sleep: float = 0.0) -> None:
    """Lets the event loop handle what follows from a key: each message that makes another takes a turn of it.

    Textual waits instead until the whole process computes nothing, for a second at most and twice a key: while the
    wizard's threads answer a question that is a second each time, and how much is answered by then is the machine's.
    """
    app = active_app.get(None)
    for _ in range(3):
        await asyncio.sleep(0.001)  # what threads and the driver hand over
        for _ in range(20):
            await asyncio.sleep(0)
        for _ in range(500):  # a clock that ticks may never let them all be empty
            typing = isinstance(app, InOrder) and app.typing
            if app is None or not (typing or any(pump.message_queue_size for pump in pumps(app))):
                break
            await asyncio.sleep(0)


def pumps(app: textual.app.App[Any]) -> list[MessagePump]:
    """Everything that handles messages: the app, its screens, and what stands on the one that is shown."""
    shown = app.screen_stack[-1].walk_children() if app.screen_stack else []
    return [app, *app.screen_stack, *shown]


textual.app.wait_for_idle = textual.pilot.wait_for_idle = _all_handled


def write_pairs(path: Path, count: int = 200) -> Path:
    """Prompt-completion pairs of varying length."""
    chance = random.Random(1)
    lines = [
        json.dumps(
            {"prompt": f"Question {n}: " + "word " * chance.randint(3, 120), "completion": "yes " * (n % 20 + 1)}
        )
        for n in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def planned(pairs: Path | None = None, **more: Any) -> TuneplanApp:
    """The wizard at the plan of phi-2 on an A10G."""
    return TuneplanApp(gpu="a10g", model="phi-2", data=pairs, **more)


def screen_text(app: TuneplanApp) -> str:
    """What the terminal shows."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips(app.size))


def flat(shown: str) -> str:
    """The screen's words in one line, for messages that wrap."""
    return " ".join(shown.split())


async def settle(app: TuneplanApp, pilot: Pilot[Any], seconds: float = 90) -> str:
    """Waits until all questions are answered; returns the screen."""
    await pilot.pause()
    end = time.monotonic() + seconds
    while (
        not app.idle
        or app._measuring
        or any(w.is_running for w in app.workers if w.group in ("machine", "model", "data"))
    ):
        assert time.monotonic() < end, "the wizard did not come to rest"
        await asyncio.sleep(0.01)
        await pilot.pause()
    return await drawn(app, pilot)


async def until(
    app: TuneplanApp, pilot: Pilot[Any], true: Callable[[], bool], seconds: float = 60, *, fails: bool = False
) -> str:
    """Waits until something holds; returns the screen. `fails`: a run that fails is what is waited for."""
    end = time.monotonic() + seconds
    while not true():
        failed = (
            isinstance(app.screen, EndScreen) and app.run_snapshot is not None and app.run_snapshot.phase == "failed"
        )
        if (failed and not fails) or time.monotonic() > end:
            raise AssertionError(f"it never came to hold; the screen shows:\n{screen_text(app)}")
        await asyncio.sleep(0.05)
        await pilot.pause()
    return await drawn(app, pilot)


async def drawn(app: TuneplanApp, pilot: Pilot[Any]) -> str:
    """The screen once it stays as it is: a footer follows its screen, widgets follow what they hold."""
    shown = None
    while shown != (now := screen_text(app)):
        shown = now
        await asyncio.sleep(0.02)
        await pilot.pause()
    return shown


async def type_text(pilot: Pilot[Any], text: str) -> None:
    """Types a text key by key."""
    for character in text:
        await pilot.press(
            {" ": "space", "/": "slash", ".": "full_stop", "-": "minus", "_": "underscore"}.get(character, character)
        )
