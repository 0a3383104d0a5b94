"""What the wizard's tests share: a small data set, the screen as text, and waiting until every figure has followed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from planner.tui.app import TuneplanApp
from planner.tui.screens.end import EndScreen

SIZES = [(80, 24), (120, 40)]


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


def screen_text(app: TuneplanApp) -> str:
    """What the terminal shows."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips(app.size))


def flat(shown: str) -> str:
    """The screen's words in one line, for messages that wrap."""
    return " ".join(shown.split())


async def settle(app: TuneplanApp, pilot: Pilot[Any], seconds: float = 20) -> str:
    """Waits until all questions are answered; returns the screen."""
    await pilot.pause()
    end = time.monotonic() + seconds
    while not app.idle or any(w.is_running for w in app.workers if w.group in ("machine", "model", "data")):
        assert time.monotonic() < end, "the wizard did not come to rest"
        await asyncio.sleep(0.01)
        await pilot.pause()
    await pilot.pause()
    return screen_text(app)


async def until(app: TuneplanApp, pilot: Pilot[Any], true: Callable[[], bool], seconds: float = 60) -> str:
    """Waits until something holds; returns the screen."""
    end = time.monotonic() + seconds
    while not true():
        failed = (
            isinstance(app.screen, EndScreen) and app.run_snapshot is not None and app.run_snapshot.phase == "failed"
        )
        if failed or time.monotonic() > end:
            raise AssertionError(f"it never came to hold; the screen shows:\n{screen_text(app)}")
        await asyncio.sleep(0.05)
        await pilot.pause()
    await pilot.pause()
    return screen_text(app)


async def type_text(pilot: Pilot[Any], text: str) -> None:
    """Types a text key by key."""
    for character in text:
        await pilot.press(
            {" ": "space", "/": "slash", ".": "full_stop", "-": "minus", "_": "underscore"}.get(character, character)
        )
