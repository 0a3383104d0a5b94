"""docs/images/wizard-cast.svg, the wizard at work as a moving picture: `python -m tests.support.wizard_cast`.

Frames of the real wizard, one shown after the other by the style sheet alone: no script, nothing loaded from elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
from pathlib import Path

from planner.tui.app import TuneplanApp
from planner.tui.theme import THEMES
from tests.support.tui_support import settle, write_pairs
from tests.support.wizard_picture import PICTURE, svg

CAST = PICTURE.with_name("wizard-cast.svg")
SIZE = (100, 30)
SECONDS = 2.5
"""How long a frame stands."""
STEPS = ("hardware", "model", "data", "plan")
KEYS = ("right", "left", "left")
"""Pressed on the plan, a frame after each: a larger micro-batch, the one before, a smaller one."""


async def frames() -> list[str]:
    """The screens as SVG text: each step of the wizard, then the plan under a few keys."""
    found = []
    with tempfile.TemporaryDirectory() as outer, contextlib.chdir(outer):
        Path("project").mkdir()
        os.chdir("project")
        write_pairs(Path("pairs.jsonl"))
        app = TuneplanApp(gpu="rtx3060", model="qwen2.5-7b", data="pairs.jsonl")
        app.theme = THEMES[0].name
        async with app.run_test(size=SIZE) as pilot:
            await settle(app, pilot)
            for step in STEPS:
                app.go(step)
                await settle(app, pilot)
                found.append(svg(app))
            for key in KEYS:
                await pilot.press(key)
                await settle(app, pilot)
                found.append(svg(app))
    return found


def composed(pictures: list[str]) -> str:
    """One SVG that shows each picture in its turn, over and over."""
    box = re.search(r'viewBox="([^"]+)"', pictures[0])
    assert box is not None
    share = 100 / len(pictures)
    whole = SECONDS * len(pictures)
    style = (
        f".frame {{ visibility: hidden; animation: turn {whole:g}s step-end infinite; }} "
        f"@keyframes turn {{ 0% {{ visibility: visible; }} {share:.4f}% {{ visibility: hidden; }} }} "
        "@media (prefers-reduced-motion: reduce) { .frame { animation: none; } "
        ".frame:last-child { visibility: visible; } }"
    )
    parts = [
        f'<g class="frame" style="animation-delay: {number * SECONDS:g}s">{picture}</g>'
        for number, picture in enumerate(pictures)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}"><style>{style}</style>'
    return head + "\n".join(parts) + "</svg>\n"


if __name__ == "__main__":
    CAST.write_text(composed(asyncio.run(frames())), encoding="utf-8")
