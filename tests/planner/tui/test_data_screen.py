"""The step that chooses the data, by keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.widgets import Input

from planner.tui.app import TuneplanApp
from planner.tui.screens.data import DataScreen
from planner.tui.screens.plan import PlanScreen
from planner.tui.widgets.data_tree import DataTree
from tests.support.tui_support import flat, settle, type_text


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "empty"), ('{"prompt": "a", "completion": "b"}\n{"prompt"\n', ":2"), ('{"x": 1}\n', "x")],
    ids=["empty", "malformed", "unknown"],
)
async def test_bad_data_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(content)
    app = TuneplanApp(gpu="a10g", model="gpt2", start_folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("down", "enter")
        shown = await settle(app, pilot)
        assert "bad.jsonl" in shown
        assert says in shown
        assert "Traceback" not in shown
        assert isinstance(app.screen, DataScreen)
        assert app.wizard.dataset is None


async def test_a_path_is_typed_or_pasted_wherever_the_focus_is(pairs: Path, tmp_path: Path) -> None:
    """GIVEN the tree has the focus WHEN a path with q in it is typed or pasted THEN it is read, and nothing quits."""
    queries = tmp_path / "queries.jsonl"
    queries.write_bytes(pairs.read_bytes())
    app = TuneplanApp(gpu="a10g", model="gpt2", start_folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        assert app.screen.focused is app.screen.query_one(DataTree)
        await type_text(pilot, "qu")
        line = app.screen.query_one("#path", Input)
        assert line.value == "qu"
        line.value = ""
        app.screen.set_focus(app.screen.query_one(DataTree))
        app.screen.query_one(DataTree).post_message(events.Paste(f"{queries}\n"))
        await pilot.pause()
        assert line.value == str(queries)
        await pilot.press("enter")
        assert "Enter takes this data set" in flat(await settle(app, pilot))


async def test_refused_data_can_be_left_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("no json\n")
    app = TuneplanApp(gpu="a10g", model="phi-2", start_folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("down", "enter")
        assert "not valid JSON" in flat(await settle(app, pilot))
        await pilot.press("ctrl+n")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        assert app.wizard.dataset is None


@pytest.mark.parametrize(
    ("name", "content", "keys", "settings"),
    [
        (
            "a.csv",
            "Frage;Antwort;Nr\n2+2?;4;1\n3+3?;6;2\n",
            "12",
            {"columns": {"prompt": "Frage", "completion": "Antwort"}},
        ),
        ("a.csv", "Absatz,Nr\nEs war einmal.,1\n", "01", {"columns": {"text": "Absatz"}}),
        (
            "a.csv",
            "text,label\ngood,1\nbad,0\n",
            "1",
            {"format": "prompt-completion", "columns": {"prompt": "text", "completion": "label"}},
        ),
        ("a.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "1", {"format": "preference"}),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n', "1", {"skip_invalid": True}),
    ],
    ids=["columns", "a text", "labels", "preferences", "an invalid row"],
)
async def test_data_that_can_be_read_in_several_ways_is_asked_about(
    tmp_path: Path, name: str, content: str, keys: str, settings: dict[str, Any]
) -> None:
    """GIVEN data whose columns nobody knows, or of several meanings WHEN the keys are pressed THEN it is read so."""
    (tmp_path / name).write_text(content)
    app = TuneplanApp(gpu="a10g", model="phi-2", start_folder=tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        await settle(app, pilot)
        await pilot.press("down", "enter")
        await settle(app, pilot)
        await pilot.press(*keys)
        await settle(app, pilot)
        await pilot.press("ctrl+n")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        assert app.wizard.dataset is not None
        assert app.wizard.data.model_dump(include=set(settings)) == settings


async def test_what_the_data_holds_and_nobody_uses_is_told_before_it_is_taken(tmp_path: Path) -> None:
    """GIVEN a column that is not learned THEN the screen of the data says so."""
    row = {"prompt": "a", "completion": "b", "notes": "for nobody"}
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    app = TuneplanApp(gpu="a10g", model="phi-2", start_folder=tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        await settle(app, pilot)
        await pilot.press("down", "enter")
        shown = flat(await settle(app, pilot))
        assert isinstance(app.screen, DataScreen)
        assert "notes" in shown
        assert "Not used" in shown


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ("113", {"format": "auto", "columns": {"prompt": "body", "completion": "reply"}}),
        ("33", {"format": "text", "columns": {"text": "reply"}}),
        ("4", {"format": "auto", "columns": {}}),
    ],
    ids=["question and answer", "a text", "as found"],
)
async def test_columns_are_chosen_though_the_data_could_be_read(
    tmp_path: Path, keys: str, settings: dict[str, Any]
) -> None:
    """GIVEN a table that is read as a text WHEN ^t and digits say what is learned THEN it is read so."""
    (tmp_path / "a.csv").write_text("body,topic,reply\nlong words,a,short\nmore words,b,brief\n")
    app = TuneplanApp(gpu="a10g", model="phi-2", start_folder=tmp_path)
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        await pilot.press("down", "enter")
        await settle(app, pilot)
        await pilot.press("ctrl+t")
        assert "What is to be learned of it?" in await settle(app, pilot)
        await pilot.press("escape")
        assert "First examples" in await settle(app, pilot), "esc leaves it as it was"
        await pilot.press("ctrl+t")
        await settle(app, pilot)
        await pilot.press(*keys)
        await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        assert app.wizard.data.model_dump(include=set(settings)) == settings
