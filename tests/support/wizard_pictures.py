"""Pictures of the wizard for the docs, from a real plan and a real run.

`python -m tests.support.wizard_pictures` writes `docs/images/wizard-*.svg` (`wizard_picture` the README's). The plan is
phi-2 on an A10G with made-up pairs; the run is the embedded demo model on this machine's processor, from `t` to its
adapter.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from planner.tui.app import TuneplanApp
from planner.tui.kept import keep_theme
from planner.tui.screens.end import EndScreen
from planner.tui.theme import THEMES
from tests.support.tui_support import settle, type_text, until, write_pairs
from tests.support.wizard_picture import svg

FOLDER = Path(__file__).parents[2] / "docs" / "images"
SIZE = (120, 36)
Shot = Callable[[TuneplanApp, str], None]


def keep_svg(app: TuneplanApp, name: str) -> None:
    """Writes the screen, unless it shows where things lie on this machine."""
    text = svg(app)
    if any(place in text for place in (sys.prefix, str(Path.home()), str(FOLDER.parents[1]), tempfile.gettempdir())):
        print(f"wizard-{name}: shows a path of this machine, left out")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"wizard-{name}.svg").write_text(text, encoding="utf-8")


async def steps(shot: Shot, size: tuple[int, int], folder: Path) -> None:
    """Hardware, model, data."""
    app = TuneplanApp(start_folder=folder)
    async with app.run_test(size=size) as pilot:
        await settle(app, pilot)
        shot(app, "hardware")
        app.choose_hardware(app.find_hardware("a10g"))
        app.go("model")
        await settle(app, pilot)
        await app.workers.wait_for_complete([worker for worker in app.workers if worker.group == "fits"])
        await settle(app, pilot)
        shot(app, "model")
        app.read_model("phi-2", True)
        await settle(app, pilot)
        await type_text(pilot, "pairs.jsonl")
        await pilot.press("enter")
        await settle(app, pilot)
        shot(app, "data")


async def plan(shot: Shot, size: tuple[int, int], folder: Path) -> None:
    """The plan, one that does not fit, and the step with its cursor."""
    settings = {"max_length": 1024, "padding": "max"}
    app = TuneplanApp(gpu="a10g", model="phi-2", data=folder / "pairs.jsonl", settings=settings)
    async with app.run_test(size=size) as pilot:
        await settle(app, pilot)
        shot(app, "plan")
        await pilot.press("m", "z", "down", "down")
        await settle(app, pilot)
        shot(app, "plan-step")
        await pilot.press("z", "e", "home", *"32", "enter")
        await settle(app, pilot)
        await pilot.press("w")
        await settle(app, pilot)
        shot(app, "plan-does-not-fit")


async def run(shot: Shot, size: tuple[int, int], folder: Path, max_steps: int = 150) -> None:
    """A run as it goes, and its end."""
    from trainer.commands.demo import assets

    assets.make(folder)
    os.chdir(folder)
    app = TuneplanApp(
        gpu="cpu",
        model="./model",
        data="./train.jsonl",
        output=folder / "runs",
        settings={"batch_size": 2, "gradient_accumulation_steps": 1, "precision": "fp32"},
        hyperparameters={"max_steps": max_steps, "logging_steps": 1, "eval_steps": 25, "report_to": ()},
    )
    async with app.run_test(size=size) as pilot:
        await settle(app, pilot)
        await pilot.press("t")
        await until(app, pilot, lambda: app.run_snapshot is not None and app.run_snapshot.step > max_steps // 2, 240)
        await asyncio.sleep(0.5)
        await shown(pilot)
        shot(app, "live")
        await until(app, pilot, lambda: isinstance(app.screen, EndScreen), 240)
        shot(app, "end")


async def shown(pilot: Pilot[Any]) -> None:
    """Waits for the picture that is due."""
    await pilot.pause(0.3)


async def main() -> None:
    """All pictures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "project"
        folder.mkdir()
        write_pairs(folder / "pairs.jsonl")
        os.environ["TUNEPLAN_HOME"] = str(Path(place) / "home")
        keep_theme(THEMES[0].name)  # whatever this terminal can show
        os.chdir(folder)
        await steps(keep_svg, SIZE, folder)
        await plan(keep_svg, (160, 48), folder)
        await run(keep_svg, SIZE, folder / "demo")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
