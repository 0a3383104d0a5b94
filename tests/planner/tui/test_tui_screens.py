"""The wizard's screens driven by keys, at 80×24 and 120×40."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.events import Key
from textual.widgets import Input

from planner.contract.errors import InvalidInput
from planner.tui import state
from planner.tui.app import TuneplanApp, run
from planner.tui.screens.data import DataScreen
from planner.tui.screens.hardware import HardwareScreen
from planner.tui.screens.modals import HelpScreen
from planner.tui.screens.model import ModelScreen
from planner.tui.screens.plan import PlanScreen
from planner.tui.widgets.data_tree import DataTree
from planner.tui.widgets.deck import Deck
from planner.tui.widgets.field_list import FieldList, Rows
from tests.support.tui_support import SIZES, flat, settle, type_text, until, write_pairs

sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


def planned(pairs: Path | None = None, **more: object) -> TuneplanApp:
    return TuneplanApp(gpu="a10g", model="phi-2", data=pairs, **more)  # type: ignore[arg-type]


@sizes
async def test_from_hardware_to_plan_by_keys(size: tuple[int, int], pairs: Path) -> None:
    app = TuneplanApp(start_folder=pairs.parent)
    async with app.run_test(size=size) as pilot:
        shown = await settle(app, pilot)
        assert isinstance(app.screen, HardwareScreen)
        assert "★" in shown
        assert "this machine" in shown
        await type_text(pilot, "a10g")
        shown = await settle(app, pilot)
        for words in ("NVIDIA A10G", "budget", "bandwidth", "bf16", "Sources"):
            assert words in shown
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, ModelScreen)
        await type_text(pilot, "microsoft/phi-2")
        shown = await settle(app, pilot)
        for words in ("2,779,683,840", "layers", "positions", "2,048"):
            assert words in shown
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, DataScreen)
        assert "pairs.jsonl" in shown
        await pilot.press("down", "enter")
        shown = await settle(app, pilot)
        for words in ("prompt-completion", "200", "longest", "cut at", "█"):
            assert words in shown
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        for words in ("a10g · phi-2 · pairs.jsonl", "FITS", "tokens/s", "whole run", "balanced", "peaks in"):
            assert words in shown
        assert all(len(line) == size[0] for line in shown.splitlines())


@sizes
async def test_every_step_says_its_keys(size: tuple[int, int], pairs: Path) -> None:
    app = TuneplanApp(start_folder=pairs.parent)
    async with app.run_test(size=size) as pilot:
        for name, words in (
            ("hardware", ("Choose", "Help", "Quit")),
            ("model", ("Choose", "Help", "Quit", "Back")),
            ("data", ("Open", "Next / skip", "Help", "Quit", "Back")),
            ("plan", ("Change", "Type", "Tier", "View", "Save", "Train", "Back", "Help", "Quit")),
        ):
            app.go(name)
            footer = (await settle(app, pilot)).splitlines()[-1]
            for word in words:
                assert word in footer, (name, footer)


async def test_all_figures_follow_every_key(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        first = app.evaluation.report
        await pilot.press("1")
        await settle(app, pilot)
        second = app.evaluation.report
        assert second.settings.batch_size == 1
        assert second.settings.gradient_accumulation_steps == first.settings.effective_batch_size
        await pilot.press("6")
        shown = await settle(app, pilot)
        third = app.evaluation.report
        assert third.settings.batch_size == 16
        assert third.memory.device_peak_bytes > second.memory.device_peak_bytes
        assert third.settings.gradient_accumulation_steps == 1, "nothing is left to accumulate"
        assert third.speed.tokens_per_second > second.speed.tokens_per_second
        assert (third.memory == first.memory) == (third.settings == first.settings)
        assert f"{third.memory.device_peak_bytes / 2**30:.1f} GiB" in shown
        await pilot.press("escape")
        await settle(app, pilot)
        assert app.evaluation.report.settings.batch_size == first.settings.batch_size
        assert app.evaluation.report.memory == first.memory


async def test_arrows_change_and_the_old_value_is_marked(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        before = app.wizard.choices.batch_size
        await pilot.press("left")
        shown = await settle(app, pilot)
        assert app.wizard.choices.batch_size < before
        assert "•Batch size" in shown
        await pilot.press("right")
        await settle(app, pilot)
        assert app.wizard.choices.batch_size == before
        await pilot.press("right")
        assert "raise the effective batch first" in flat(await settle(app, pilot))
        await pilot.press("r")
        assert "•" not in await settle(app, pilot)


async def test_wrong_value_is_said_and_not_taken(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        before = app.wizard.choices
        await pilot.press("0")
        assert "at least 1" in await settle(app, pilot)
        await pilot.press("x")
        assert "whole number" in await settle(app, pilot)
        assert app.wizard.choices == before
        await pilot.press("enter")
        assert not app.screen.query_one(FieldList).editing
        assert app.wizard.choices == before


async def test_of_a_refused_number_no_beginning_stays(pairs: Path) -> None:
    """GIVEN a number whose first digits would do WHEN Enter is pressed THEN the old one is back, with the reason."""
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("home")
        before = app.wizard.choices.batch_size
        await pilot.press(*"999999", "enter")
        shown = flat(await settle(app, pilot))
        assert app.wizard.choices.batch_size == before
        assert "999999" in shown


async def test_digits_faster_than_the_focus_all_count(pairs: Path) -> None:
    """GIVEN an open edit line WHEN a digit still reaches the list THEN it is added to what was typed."""
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("home", "1")
        settings = app.screen.query_one(FieldList)
        settings.query_one(Rows).post_message(Rows.Typed("batch_size", "2"))
        await settle(app, pilot)
        assert settings.typed == "12"
        assert app.wizard.choices.batch_size == 12


async def test_every_setting_can_be_reached_and_moved() -> None:
    app = TuneplanApp(gpu="a10g")
    async with app.run_test(size=(80, 24)) as pilot:
        app.go("plan")
        assert "choose hardware and a model first" in flat(await settle(app, pilot))
        fields = app.screen.query_one(FieldList)
        reached: list[str | None] = []
        while fields.current not in reached:
            key = fields.current
            reached.append(key)
            before = app.wizard
            await pilot.press("right")
            typed_only = state.BY_KEY[key].kind in ("text", "names")
            if not typed_only and key not in ("max_length", "checkpoint_layers"):
                assert app.wizard != before, key
            await pilot.press("down")
        assert set(reached) == {field.key for field in state.visible_fields(app.wizard)}
        for wanted in ("batch_size", "max_length", "method", "precision", "learning_rate", "epochs", "seed"):
            assert wanted in reached


async def test_targets_are_typed(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        fields = app.screen.query_one(FieldList)
        while fields.current != "lora_targets":
            await pilot.press("down")
        full = app.evaluation.report.model.trainable_parameters
        await pilot.press("enter")
        await type_text(pilot, "q_proj v_pro")
        shown = await settle(app, pilot)
        assert "CAN'T BE PLANNED" in shown
        await pilot.press("j", "enter")
        shown = await settle(app, pilot)
        assert app.wizard.choices.lora_targets == ("q_proj", "v_proj")
        assert app.evaluation.report.model.trainable_parameters < full


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


async def test_models_by_path_and_their_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"model_type": "llama", "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 128}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    app = TuneplanApp(gpu="cpu")
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        for path, says in (("./none", "none"), ("./strange", "mamba")):
            await type_text(pilot, path)
            await pilot.press("enter")
            shown = await settle(app, pilot)
            assert says in "".join(shown.splitlines()[-4:])
            assert isinstance(app.screen, ModelScreen)
            await pilot.press("ctrl+u")
        await type_text(pilot, "./")
        await pilot.press("enter")
        shown = await settle(app, pilot)
        assert "llama" in shown
        assert "128" in shown
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, DataScreen)
        assert app.wizard.model.num_layers == 2


async def test_resize_keeps_everything(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        for size in ((80, 24), (100, 30), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            shown = await settle(app, pilot)
            for words in ("Batch size", "FITS", "Tiers", "tokens/s", "Train"):
                assert words in shown, size


async def test_help_names_keys_and_words(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("question_mark")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, HelpScreen)
        assert "tiers" in shown
        await pilot.press("end")
        assert "budget  " in await settle(app, pilot)
        await pilot.press("escape")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen)
        app.go("model")
        await settle(app, pilot)
        await pilot.press("question_mark")
        await settle(app, pilot)
        assert isinstance(app.screen, HelpScreen)


async def test_palette_knows_the_steps_actions(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Train", "Save", "Tier", "Go to model", "Quit"} <= titles
        await pilot.press("ctrl+p")
        await pilot.pause(0.2)
        await type_text(pilot, "go to data")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await until(app, pilot, lambda: isinstance(app.screen, DataScreen), 10)


async def test_every_binding_has_id_and_tooltip(pairs: Path) -> None:
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        for node in (app.screen, *app.screen.walk_children()):
            if not type(node).__module__.startswith("planner."):
                continue
            for binding in type(node).__dict__.get("BINDINGS", ()):
                assert binding.id, binding
                assert binding.tooltip, binding


def test_wrong_start_values_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="a10"):
        TuneplanApp(gpu="a10gg")
    assert run({"model": "no-such-model"}) == 2
    error = capsys.readouterr().err
    assert error.startswith("plan: ")
    assert error.count("\n") == 1


async def test_sigterm_gives_the_terminal_back() -> None:
    app = TuneplanApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        os.kill(os.getpid(), signal.SIGTERM)
        await pilot.pause(0.1)
    assert app.return_value == 143


async def test_quit_without_a_run_leaves_at_once() -> None:
    app = TuneplanApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("ctrl+q")
        await pilot.pause()
    assert app.return_value == 0


async def test_a_tiny_terminal_says_so_and_comes_back(pairs: Path) -> None:
    """GIVEN a plan WHEN the terminal shrinks and grows again THEN it says what it needs, and nothing was lost."""
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        await pilot.press("left")
        chosen = app.wizard.choices
        await pilot.resize_terminal(40, 10)
        shown = flat(await settle(app, pilot))
        assert "40×10 is too small" in shown
        assert "ctrl+q" in shown
        await pilot.resize_terminal(80, 24)
        shown = await settle(app, pilot)
        assert "too small" not in shown
        assert "Batch size" in shown
        assert app.wizard.choices == chosen
        await pilot.press("left")
        assert app.wizard.choices != chosen, "the focus is where it was"


def test_a_dumb_terminal_is_told_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert run() == 2
    said = capsys.readouterr().err
    assert "plan --gpu auto" in said
    assert len(said.splitlines()) == 1


async def test_undo_takes_back_values_tiers_and_remedies(pairs: Path) -> None:
    """GIVEN a typed value, a tier and a remedy WHEN u is pressed for each THEN every state before is there again."""
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        first = app.wizard.choices
        await pilot.press("home", *"96", "enter")
        await settle(app, pilot)
        typed = app.wizard.choices
        assert typed.batch_size == 96
        await pilot.press("v", "tab", "enter")
        shown = await settle(app, pilot)
        assert "taken: " in shown
        assert app.wizard.choices != typed
        await pilot.press("u")
        await settle(app, pilot)
        assert app.wizard.choices == typed
        await pilot.press("g")
        await settle(app, pilot)
        await pilot.press("u")
        await settle(app, pilot)
        assert app.wizard.choices == typed
        await pilot.press("u")
        await settle(app, pilot)
        assert app.wizard.choices == first
        await pilot.press("u")
        assert "nothing to take back" in await settle(app, pilot)


async def test_a_model_by_path_stays_chosen_and_its_data_is_counted_again(pairs: Path, tmp_path: Path) -> None:
    """GIVEN a model that the catalogue does not hold WHEN one goes back and on THEN it is still the one; with another
    model the data is counted again."""
    from planner.models.sources import load_model

    folder = tmp_path / ("a-folder-with-a-name-that-is-far-too-long-for-its-pane-" + "x" * 60)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(load_model("pythia-70m").config)))
    app = TuneplanApp(gpu="a10g", model=str(folder), data=pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        first = app.wizard.dataset
        await pilot.press("escape")
        assert "goes on" in flat(await settle(app, pilot))
        await pilot.press("escape")
        shown = await settle(app, pilot)
        assert isinstance(app.screen, ModelScreen)
        assert "a-folder-" in shown
        assert "…" in shown
        await pilot.press("enter")
        await settle(app, pilot)
        assert app.wizard.model_name == str(folder)
        assert isinstance(app.screen, PlanScreen), "data and device are chosen already"
        await pilot.press("alt+2")
        await settle(app, pilot)
        await type_text(pilot, "phi-2")
        await settle(app, pilot)
        await pilot.press("enter")
        await settle(app, pilot)
        assert app.wizard.model_name == "phi-2"
        assert app.wizard.dataset is not first
        assert app.wizard.dataset.path == first.path
        await pilot.press("escape", "enter")
        await settle(app, pilot)
        assert isinstance(app.screen, PlanScreen), "Enter goes on with the data that is chosen"


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
