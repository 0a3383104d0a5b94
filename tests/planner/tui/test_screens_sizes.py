"""The plan screen at three sizes: which panels stand where, with data, with nothing that fits, and with an error.

What is compared is the screen without its figures, which hang on the machine and on the model of memory.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from planner.tui.app import TuneplanApp
from planner.tui.screens.plan import PlanScreen
from tests.support.tui_support import screen_text, settle, write_pairs

SIZES = ((80, 24), (120, 36), (200, 60))
TITLES = ("Settings", "Memory and speed", "Memory over one step", "Batch and length", "Tiers", "Why", "Data", "Advice")
PANELS = {
    (80, 24): ["Settings", "Memory and speed", "Tiers"],
    (120, 36): ["Settings", "Memory and speed", "Memory over one step", "Tiers"],
    (200, 60): [*TITLES],
}
STATES: dict[str, dict[str, object]] = {
    "data": {"model": "phi-2", "settings": {"max_length": 512}},
    "nothing fits": {"model": "llama-3.3-70b", "settings": {"method": "lora"}, "gpu": "t4"},
    "error": {"model": "phi-2", "settings": {"lora_targets": ("no_such_layer",)}},
}


def titles(shown: str) -> list[str]:
    """The panels of a screen, in the order of the tabs."""
    found = set(re.findall(r"╭─ ([^─]+?) ─", shown))
    return [title for title in TITLES if title in found]


def empty_share(shown: str) -> float:
    """The share of the screen that the largest empty rectangle takes; borders are no emptiness."""
    blank = np.array([[letter == " " for letter in line] for line in shown.splitlines()])
    heights = np.zeros(blank.shape[1], dtype=int)
    largest = 0
    for row in blank:
        heights = np.where(row, heights + 1, 0)
        for height in range(1, int(heights.max()) + 1):
            runs = np.diff(np.flatnonzero(np.concatenate(([True], heights < height, [True])))) - 1
            largest = max(largest, int(runs.max()) * height)
    return largest / blank.size


@pytest.mark.parametrize("state", STATES)
async def test_every_size_shows_its_panels_and_no_hole(state: str, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", 40)
    app = TuneplanApp(**{"gpu": "a10g", "data": data, **STATES[state]})
    async with app.run_test(size=SIZES[0]) as pilot:
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        for size in SIZES:
            await pilot.resize_terminal(*size)
            shown = await settle(app, pilot)
            lines = shown.splitlines()
            assert len(lines) == size[1]
            assert all(len(line) == size[0] for line in lines)
            assert "Train" in lines[-1], "the footer names its keys"
            if state == "error":
                assert "CAN'T BE PLANNED" in shown
            else:
                assert titles(shown) == PANELS[size]
                assert ("DOES NOT FIT" in shown) == (state == "nothing fits")
                assert empty_share(shown) < 1 / 3
        if state == "data":
            await pilot.press("m", "z")
            assert titles(await settle(app, pilot)) == ["Memory over one step"]
            await pilot.press("left", "down", "escape")
            assert titles(await settle(app, pilot)) == PANELS[SIZES[-1]]
            await pilot.press("b")
            await settle(app, pilot)
            await pilot.press("right", "enter")
            await settle(app, pilot)
            assert "batch_size" in app.wizard.edited, "Enter takes the place under the cursor"
            assert f"▸{app.evaluation.report.memory.device_peak_bytes / 2**30:.1f}" in screen_text(app)
