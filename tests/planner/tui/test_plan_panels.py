"""The plan's panels, and what becomes of the plan: saved or trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.events import Key

from planner.tui.screens.data import DataScreen
from planner.tui.widgets.deck import Deck
from planner.tui.widgets.field_list import Rows
from tests.support.tui_support import flat, planned, settle, type_text


async def test_tiers_views_and_remedies() -> None:
    app = planned(settings={"max_length": 2048})
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        app.go("plan")
        await settle(app, pilot)
        effective = app.wizard.choices.effective_batch_size
        seen = set()
        for _ in range(4):
            await pilot.press("g")
            await settle(app, pilot)
            seen.add((app.wizard.choices.batch_size, app.wizard.choices.checkpoint_layers))
            assert app.wizard.choices.effective_batch_size == effective
        assert len(seen) > 1
        for key in "96":
            await pilot.press(key)
        await pilot.press("enter", "w")
        shown = await settle(app, pilot)
        assert "DOES NOT FIT" in shown
        assert "Memory peaks" in shown
        needed = app.evaluation.report.memory.device_peak_bytes
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert "taken: " in shown
        assert app.evaluation.report.memory.device_peak_bytes < needed
        await pilot.press("f")
        assert "Device peak by component" in await settle(app, pilot)
        await pilot.press("a", "z")
        shown = await settle(app, pilot)
        assert "Batch size" not in shown, "one panel fills the screen"
        assert "learning rate" in shown
        assert "guide" in shown.lower()


@pytest.mark.parametrize(("keys", "zoomed"), [("az", "advice"), ("wz", "why"), ("fz", "full"), ("azz", "")])
async def test_keys_typed_faster_than_frames_meet_their_panel(keys: str, zoomed: str) -> None:
    """GIVEN a plan WHEN keys come in one burst THEN each acts where the one before it led."""
    app = planned(settings={"max_length": 2048})
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        app.go("plan")
        await settle(app, pilot)
        for key in keys:
            app.post_message(Key(key, key))
        await settle(app, pilot)
        assert app.screen.query_one(Deck).zoomed == zoomed


async def test_every_pane_of_the_plan_is_reached_by_tab(pairs: Path) -> None:
    """GIVEN any view WHEN Tab is pressed a few times THEN the view and the settings have had the focus, no more."""
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        for view in ("tiers", "why", "memory", "advice"):
            seen = []
            for _ in range(4):
                focused = app.focused
                assert focused is not None, view
                seen.append(isinstance(focused, Rows))
                await pilot.press("tab")
            assert True in seen, view
            assert False in seen, view
            while not isinstance(app.focused, Rows):
                await pilot.press("tab")
            await pilot.press("v")
            await settle(app, pilot)


async def test_the_view_keeps_the_focus_when_it_changes(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("tab")
        assert "Take" in (await settle(app, pilot)).splitlines()[-1]
        for _ in range(5):
            await pilot.press("v")
            await settle(app, pilot)
            assert app.focused is not None
            assert not isinstance(app.focused, Rows)


async def test_save_writes_a_plan(pairs: Path, tmp_path: Path) -> None:
    from planner.handover import plans

    app = planned(pairs, output=tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        await pilot.press("s")
        assert "plan train" in flat(await settle(app, pilot))
    files = list(tmp_path.glob("*.yaml"))
    assert len(files) == 1
    assert plans.load(files[0]).gpu == "a10g"


async def test_unwritable_folder_is_one_line(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = planned(pairs, output=tmp_path / "file")
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        await pilot.press("s")
        assert "can't be written" in flat(await settle(app, pilot))


async def test_training_is_refused_without_data_and_asked_twice_elsewhere(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pairs.parent)
    app = planned()
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        assert isinstance(app.screen, DataScreen)
        await pilot.press("ctrl+n")
        assert "not known without data" in await settle(app, pilot)
        await pilot.press("t")
        assert "no data chosen" in await settle(app, pilot)
        await pilot.press("escape")
        await settle(app, pilot)
        await pilot.press("shift+tab")
        await type_text(pilot, f"./{pairs.name}")
        await pilot.press("enter")
        await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        await pilot.press("t")
        assert "this machine is" in await settle(app, pilot)
        assert app.run_snapshot is None
