"""A click selects and never decides: only Enter takes what is under the cursor."""

from __future__ import annotations

from pathlib import Path

from textual.widgets import OptionList

from planner.tui.app import TuneplanApp
from planner.tui.history import PastRun
from planner.tui.screens.data import DataScreen
from planner.tui.screens.plan import PlanScreen
from planner.tui.screens.runs import RunsScreen
from planner.tui.widgets.data_tree import DataTree
from planner.tui.widgets.field_list import FieldList
from planner.tui.widgets.quiet_list import QuietList
from tests.support.tui_support import flat, planned, screen_text, settle, write_pairs


async def test_a_click_on_a_setting_changes_nothing(tmp_path: Path) -> None:
    app = planned(write_pairs(tmp_path / "pairs.jsonl"))
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        before = app.wizard.choices
        rows = app.screen.query_one("#rows", OptionList)
        for key in ("method", "gradient_checkpointing"):
            await pilot.click("#rows", offset=(4, rows.get_option_index(key) - round(rows.scroll_y)))
            await settle(app, pilot)
            assert app.screen.query_one(FieldList).current == key
            assert app.wizard.choices == before
        await pilot.press("enter")
        await settle(app, pilot)
        assert app.wizard.choices != before


async def test_clicks_on_a_file_show_it_and_enter_takes_it(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    file = write_pairs(tmp_path / "pairs.jsonl")
    app = TuneplanApp(gpu="a10g", model="phi-2", start_folder=tmp_path)
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        tree = app.screen.query_one(DataTree)
        assert tree.cursor_node is not None
        assert str(tree.cursor_node.label) == file.name, "the cursor begins at the first file"
        for _ in range(3):
            await pilot.click(DataTree, offset=(8, tree.cursor_line))
            await settle(app, pilot)
        assert isinstance(app.screen, DataScreen)
        assert app.wizard.dataset is None
        assert "examples 200" in flat(screen_text(app))
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        assert app.wizard.dataset is not None


async def test_a_click_on_a_run_opens_nothing(tmp_path: Path) -> None:
    names = ("one", "two")
    runs = tuple(
        PastRun(folder=tmp_path / name, state="completed", step=5, total_steps=5, changed=0.0) for name in names
    )
    app = planned()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.push_screen(RunsScreen(runs))
        await settle(app, pilot)
        await pilot.click(QuietList, offset=(4, 1))
        await settle(app, pilot)
        assert isinstance(app.screen, RunsScreen)
        assert app.screen.query_one(OptionList).highlighted == 1
