"""Names and events of others in the wizard: shown as they stand, never obeyed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from planner.contract.errors import InvalidInput
from planner.tui.app import TuneplanApp
from planner.tui.screens.data import DataScreen
from planner.tui.screens.end import EndScreen
from planner.tui.screens.runs import RunsScreen
from planner.tui.shield import Shield
from tests.support.trainer_support import make_plan
from tests.support.tui_support import flat, screen_text, settle, type_text, until, write_pairs

STEERS = "\x1b[2J\x9b31m\x07\u202e"
NAME = f"a[/]b[red]{STEERS}"
SHOWN = r"a[/]b[red]\x1b[2J\x9b31m\x07\u202e"


def harmless(app: TuneplanApp) -> str:
    """What is on the screen, checked for what would steer a terminal."""
    text = screen_text(app)
    assert not set(STEERS.replace("[2J", "").replace("31m", "")) & set(text)
    return text


async def test_files_and_models_with_hostile_names(tmp_path: Path) -> None:
    """GIVEN markup and escape sequences in file, folder and column names THEN every step shows them as they are."""
    folder = tmp_path / "data"  # beside the kept programs' folder, which may be there already or not yet
    (folder / NAME.replace("/", "")).mkdir(parents=True)
    write_pairs(folder / "x[bold]\x1b[2J.jsonl")
    (folder / "y[].jsonl").write_text(json.dumps({NAME: 1}) + "\n")
    app = TuneplanApp(gpu="a10g", model="gpt2", start_folder=folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        assert isinstance(app.screen, DataScreen)
        shown = harmless(app)
        assert r"x[bold]\x1b[2J.jsonl" in shown
        assert "y[].jsonl" in shown
        await pilot.press("enter")
        await settle(app, pilot)
        assert "prompt-completion" in harmless(app)
        await pilot.press("down", "enter")
        await settle(app, pilot)
        assert r"\x1b[2J" in flat(harmless(app))
        await pilot.press("ctrl+n")
        await settle(app, pilot)
        harmless(app)
        app.notify(f"{NAME}", markup=False)
        app.say(NAME, error=True)
        await pilot.pause()
        harmless(app)


async def test_what_is_typed_is_no_markup(tmp_path: Path) -> None:
    app = TuneplanApp(gpu="a10g")
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        await type_text(pilot, "[/]x")
        await pilot.press("enter")
        await settle(app, pilot)
        assert "[/]x" in harmless(app)


async def test_events_of_a_foreign_run(tmp_path: Path) -> None:
    """GIVEN an unpacked run whose events hold markup, escape sequences and nonsense THEN it can be opened and read."""
    folder = tmp_path / "runs" / f"r[red]{STEERS}"
    (folder / "checkpoint-2").mkdir(parents=True)
    make_plan(folder / "plan.yaml", tmp_path / "model", tmp_path / "data")
    rows = [
        ("started", {"run_dir": NAME, "device": NAME, "total_steps": 9}),
        ("phase", {"name": NAME, "detail": NAME}),
        ("step", {"step": "many", "loss": NAME}),
        ("step", {"step": 2, "total_steps": 9, "loss": 1.0}),
        ("eval", {"step": 2, "loss": 1.0, "sample": NAME}),
        ("warning", {"message": NAME, "advice": NAME}),
        (NAME, {NAME: NAME}),
        ("failed", {"message": NAME, "exit_code": 4}),
    ]
    lines = [json.dumps({"kind": kind, "time": 0.0, "data": data}) for kind, data in rows]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    app = TuneplanApp(gpu="a10g", model="gpt2", output=tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(app, pilot)
        await until(app, pilot, lambda: bool(app.past_runs))
        harmless(app)
        await pilot.press("ctrl+o")
        await until(app, pilot, lambda: isinstance(app.screen, RunsScreen))
        assert "r[red]" in harmless(app)
        await pilot.press("enter")
        await until(app, pilot, lambda: isinstance(app.screen, EndScreen))
        await settle(app, pilot)
        assert SHOWN in flat(harmless(app))
    shutil.rmtree(tmp_path / "runs")


async def test_a_bug_in_the_wizard_is_a_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = TuneplanApp(gpu="a10g")

    def fail(*_: object) -> None:
        raise KeyError(NAME)

    with pytest.raises(KeyError):  # noqa: PT012
        async with app.run_test(size=(120, 40)) as pilot:
            await settle(app, pilot)
            monkeypatch.setattr(app, "action_help", fail)
            await pilot.press("f1")
            await pilot.pause()
    assert app.return_code == 4
    (file,) = (Path(os.environ["TUNEPLAN_HOME"]) / "errors").iterdir()
    assert "KeyError" in file.read_text()
    said = "".join(str(piece) for piece in app._exit_renderables) + capsys.readouterr().err
    assert "\x1b[2J" not in said


def test_the_shield_keeps_the_width_and_textuals_own_codes() -> None:
    from rich.cells import cell_len
    from rich.segment import ControlType, Segment
    from textual.color import Color

    hostile = Segment(f"a{STEERS}日\ud800b")
    control = Segment("\x1b[2J", None, [(ControlType.CLEAR,)])
    plain = Segment("plain")
    found = Shield().apply([hostile, control, plain], Color(0, 0, 0))
    assert found[1] is control
    assert found[2] is plain
    assert not set("\x1b\x9b\x07\u202e\ud800") & set(found[0].text)
    assert cell_len(found[0].text) == cell_len(hostile.text)


def test_a_wrong_start_value_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from planner.tui.app import run

    assert run({"gpu": NAME}) == InvalidInput.exit_code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
