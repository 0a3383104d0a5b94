"""docs/images/wizard.svg, the wizard's plan step as a terminal shows it: `python -m tests.support.wizard_picture`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from planner.tui.app import TuneplanApp
from planner.tui.theme import THEMES
from tests.support.tui_support import settle, write_pairs

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "wizard.svg"
SIZE = (120, 36)


async def draw() -> str:
    """The screen as SVG text."""
    with tempfile.TemporaryDirectory() as folder:
        app = TuneplanApp(gpu="rtx3060", model="qwen2.5-7b", data=write_pairs(Path(folder) / "pairs.jsonl"))
        app.theme = THEMES[0].name  # whatever this terminal can show
        async with app.run_test(size=SIZE) as pilot:
            await settle(app, pilot)
            app.go("plan")
            await settle(app, pilot)
            return svg(app)


def svg(app: TuneplanApp) -> str:
    """What the app shows, with the fonts that are here: nothing in it is loaded from elsewhere."""
    text = app.export_screenshot(title="plan")
    start, end = text.index("@font-face"), text.rindex("@font-face")
    end = text.index("}", end) + 1
    return text[:start] + text[end:]


if __name__ == "__main__":
    PICTURE.write_text(asyncio.run(draw()), encoding="utf-8")
