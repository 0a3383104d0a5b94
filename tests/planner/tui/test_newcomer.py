"""A newcomer's way: from `plan` alone to a training that runs, counted in keys; and the places where it could end."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from planner.calibration import attach
from planner.contract.data.columns import ANSWER
from planner.models.sources import load_model
from planner.tui import state
from planner.tui.app import TuneplanApp
from planner.tui.makers import STARTS, first_model
from planner.tui.opening import Opening, opened
from planner.tui.reading import read_data
from planner.tui.screens.data import DataScreen
from planner.tui.screens.live import LiveScreen
from planner.tui.screens.model import ModelScreen
from planner.tui.screens.plan import PlanScreen
from planner.tui.widgets.filter_list import FilterList
from planner.tui.work import evaluate
from tests.support.tui_support import flat, settle, type_text, until, write_pairs

MOST_KEYS = 8
"""Keys beside the name of the file."""


def write_csv(path: Path, columns: tuple[str, str], second: tuple[str, ...]) -> Path:
    chance = random.Random(1)
    rows = [f"what is {chance.randint(1, 99)} plus {n}?,{second[n % len(second)]}" for n in range(60)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path


class Keys:
    """Presses keys and counts them."""

    def __init__(self, app: TuneplanApp, pilot: Pilot[Any]) -> None:
        self.app, self.pilot, self.count = app, pilot, 0

    async def press(self, key: str) -> str:
        await self.pilot.press(key)
        self.count += 1
        return await settle(self.app, self.pilot)


@pytest.mark.parametrize(
    ("columns", "second", "format"),
    [
        (("question", "answer"), ("it is a number", "nobody knows", "more than ten"), "prompt-completion"),
        (("text", "label"), ("odd", "even"), "prompt-completion"),
    ],
    ids=["question and answer", "text and label"],
)
async def test_from_plan_to_a_training_in_eight_keys(
    columns: tuple[str, str], second: tuple[str, ...], format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a CSV of one's own WHEN a newcomer presses what the screens offer THEN the trainer runs on its plan."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    write_csv(Path("faq.csv"), columns, second)
    app = TuneplanApp(output=tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        keys = Keys(app, pilot)
        await settle(app, pilot)
        await keys.press("enter")
        assert isinstance(app.screen, ModelScreen)
        assert app.screen.query_one(FilterList).current == first_model(app.wizard.hardware)
        await keys.press("enter")
        assert isinstance(app.screen, DataScreen)
        await type_text(pilot, "faq.csv")
        shown = await keys.press("enter")
        if "What is to be done?" in shown:
            shown = await keys.press("enter")
        assert "Enter takes this data set" in shown
        await keys.press("enter")
        assert isinstance(app.screen, PlanScreen)
        assert app.wizard.dataset.format == format
        await keys.press("t")
        if not isinstance(app.screen, LiveScreen):
            await keys.press("t")  # a doubt, as on a machine with little memory, is asked about
        assert isinstance(app.screen, LiveScreen)
        assert app.running
        assert keys.count <= MOST_KEYS
        assert len(list((tmp_path / "runs").glob("*/plan.yaml"))) == 1
        app._run.kill()
        await until(app, pilot, lambda: not app.running, 30)


async def test_a_model_that_was_named_is_not_asked_for_again(tmp_path: Path) -> None:
    """GIVEN a model on the command line WHEN the device is taken THEN the data is next; and with data the plan."""
    data = write_pairs(tmp_path / "pairs.jsonl", 20)
    for given, screen in (
        ({}, ModelScreen),
        ({"model": "phi-2"}, DataScreen),
        ({"model": "phi-2", "data": data}, PlanScreen),
    ):
        app = TuneplanApp(start_folder=tmp_path, **given)
        async with app.run_test(size=(80, 24)) as pilot:
            await settle(app, pilot)
            await type_text(pilot, "a10g")
            await pilot.press("enter")
            await settle(app, pilot)
            assert isinstance(app.screen, screen)


async def test_after_an_answer_enter_goes_on_with_a_typed_path(tmp_path: Path) -> None:
    """GIVEN a path that was typed WHEN its question is answered THEN Enter takes the file; refused, it is read anew."""
    path = tmp_path / "two.csv"
    path.write_text("text,label\ngood,1\nbad,1\n")
    app = TuneplanApp(gpu="a10g", model="bert-base-uncased", start_folder=tmp_path)
    async with app.run_test(size=(100, 30)) as pilot:
        await settle(app, pilot)
        await type_text(pilot, str(path))
        await pilot.press("enter")
        assert "Enter the first" in flat(await settle(app, pilot))
        await pilot.press("1")
        assert "a classifier needs two" in flat(await settle(app, pilot))
        path.write_text("text,label\ngood,1\nbad,0\n")
        await pilot.press("enter")
        await settle(app, pilot)
        await pilot.press("1")
        assert "Enter takes this data set" in await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        assert app.wizard.data.format == "classification"


@pytest.mark.parametrize(
    ("model", "offered"),
    [("bert-base-uncased", ["learn the label"]), ("qwen3-0.6b", [ANSWER]), ("flan-t5-small", [ANSWER])],
)
def test_labels_are_learned_as_the_model_can(model: str, offered: list[str], tmp_path: Path) -> None:
    """GIVEN texts with labels WHEN a model without a program for a classifier is chosen THEN it may answer with them,
    and what is offered can be planned."""
    path = write_csv(tmp_path / "data.csv", ("text", "label"), ("odd", "even"))
    start = opened(Opening(gpu="a10g", model=model))
    found = read_data(str(path), start, final=False)
    assert [words for words, _ in found.ways] == [*offered, "learn the text alone"]
    chosen = read_data(str(path), start, final=False, changes=found.ways[0][1])
    assert chosen.dataset is not None
    assert evaluate(state.with_dataset(start, chosen.dataset, chosen.settings, chosen.model)).report is not None


async def test_data_that_was_named_is_shown_with_its_first_examples(tmp_path: Path) -> None:
    """GIVEN data on the command line WHEN its step is looked at THEN its examples stand there too."""
    app = TuneplanApp(gpu="a10g", model="phi-2", data=write_pairs(tmp_path / "pairs.jsonl", 20))
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        app.go("data")
        shown = flat(await settle(app, pilot))
        assert "First examples" in shown
        assert "Question 0" in shown


async def test_what_the_data_says_names_no_option(tmp_path: Path) -> None:
    """GIVEN columns that were understood THEN the wizard says so without an option of the command line."""
    write_csv(tmp_path / "faq.csv", ("question", "answer"), ("a", "b"))
    app = TuneplanApp(gpu="a10g", model="phi-2", start_folder=tmp_path)
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        await pilot.press("down", "enter")
        shown = flat(await settle(app, pilot))
        assert "Taken as prompt: question" in shown
        assert "--" not in shown


@pytest.mark.parametrize("name", [name for name, _ in STARTS])
def test_a_start_is_as_large_as_it_is_said_to_be(name: str) -> None:
    assert 2 * load_model(name).parameters == pytest.approx(dict(STARTS)[name], rel=0.03)


def test_where_the_cursor_stands_hangs_on_the_device() -> None:
    wanted = {
        "a10g": "qwen3-4b-instruct-2507",
        "a100-80gb": "qwen3-8b",
        "rtx-3060-12gb": "qwen3-1.7b",
        "cpu": "qwen3-0.6b",
    }
    assert {name: first_model(attach.find(name)) for name in wanted} == wanted
    assert first_model(None) is None


def test_a_local_model_is_not_fetched(tmp_path: Path) -> None:
    from planner.tui.screens.model import weights_text

    (tmp_path / "config.json").write_text(json.dumps(dict(load_model("pythia-70m").config)))
    assert "fetch" not in weights_text(load_model(str(tmp_path)))
    assert "GB to fetch" in weights_text(load_model("phi-2"))
