"""The run's screens as text, at three sizes: `python -m tests.support.run_screens` writes anew what the test compares.

A made-up run with fixed times: nothing hangs on the machine, its clock, or the model of memory.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import tempfile
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

from planner.contract.events import Event
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings
from planner.tui import live
from planner.tui.app import TuneplanApp
from planner.tui.live import RunSnapshot
from planner.tui.screens.live import SPINNER
from tests.support.tui_support import drawn, screen_text

FOLDER = Path(__file__).parents[1] / "planner" / "tui" / "screens"
SIZES = ((80, 24), (120, 36), (200, 60))
STEPS, GIB = 120, 2**30


def event(kind: str, time: float, **data: object) -> Event:
    return Event(kind=kind, time=time, data=data)


def made_up(steps: int) -> RunSnapshot:
    """A run after so many steps, as its events make it; each step takes a second."""
    run = live.begin(Plan(model="phi-2", gpu="a10g", settings={}, data=DataSettings(path="/data/faq.csv")))
    run = replace(run, predicted_bytes=15 * GIB, predicted_device_bytes=16 * GIB, planned_speed=2400.0)
    run = live.reduce(run, event("started", 0.0, device="cuda", total_steps=STEPS, trainable_parameters=7_864_320))
    for step in range(1, steps + 1):
        numbers = {"loss": 2.0 * math.exp(-step / 40) + 0.3, "learning_rate": 2e-4 * (1 - step / STEPS)}
        memory = {"allocated_peak_bytes": 15 * GIB - 10**8, "device_bytes": 16 * GIB}
        times = {"tokens_per_second": 2300.0 + step % 7, "step_seconds": 1.0, "seconds_left": (STEPS - step) / 2}
        told = {**numbers, **memory, **times, "grad_norm": 1.0 + math.sin(step / 9) / 4}
        run = live.reduce(run, event("step", float(step), step=step, total_steps=STEPS, epoch=step / 40, **told))
        if step % 40 == 0:
            loss = 2.0 * math.exp(-step / 40) + 0.35
            asked = {"sample_prompt": "Where is the tower that Eiffel built?", "sample_expected": "In Paris."}
            told = {"loss": loss, "best": True, "sample": "It is in Paris.", **asked}
            run = live.reduce(run, event("eval", float(step), step=step, **told))
    return run


RUNS = {"waiting": made_up(0), "running": made_up(50), "failed": live.fail(made_up(50), "no space left on the disk")}


async def screens(name: str) -> dict[tuple[int, int], str]:
    """What one of the runs looks like, by size."""
    run, found = RUNS[name], {}
    with tempfile.TemporaryDirectory() as place, chdir(place):
        app = TuneplanApp(gpu="a10g", output=place)
        async with app.run_test(size=SIZES[0]) as pilot:
            app.run_folder = "runs/phi-2-faq"
            app.next_commands = list  # type: ignore[method-assign]  # they say where this Python lies
            # A run that goes on ticks with the clock: its last event is its now.
            app.run_snapshot = replace(run, began=None) if not run.over else run
            app.go("end" if run.over else "live")
            for size in SIZES:
                await pilot.resize_terminal(*size)
                await pilot.pause(0.3)
                await drawn(app, pilot)
                text = re.sub(f"[{SPINNER}]", SPINNER[0], screen_text(app))
                found[size] = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    return found


def path_of(name: str, size: tuple[int, int]) -> Path:
    return FOLDER / f"run-{name}-{size[0]}x{size[1]}.txt"


async def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in RUNS:
        for size, text in (await screens(name)).items():
            path_of(name, size).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ["TUNEPLAN_HOME"] = tempfile.mkdtemp()
    asyncio.run(write())
