"""Runs listed, marked and compared: curves over one another, results, and the settings that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.contract.errors import InvalidInput
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings
from planner.handover import plans
from planner.tui import comparing, history
from planner.tui.app import TuneplanApp
from planner.tui.screens.runs import CompareScreen, RunsScreen
from planner.tui.widgets.charts import Curves
from tests.support.tui_support import drawn, flat, settle, until


def finished_run(output: Path, name: str, *, rate: float, losses: tuple[float, ...], method: str = "lora") -> Path:
    """A run's folder as a trainer leaves it at the end."""
    folder = output / name
    folder.mkdir(parents=True)
    plan = Plan(
        model="phi-2",
        gpu="cpu",
        settings={"method": method},
        hyperparameters={"learning_rate": rate},
        data=DataSettings(path="/x/pairs.jsonl"),
    )
    plans.save(plan, folder / "plan.yaml")
    told: list[tuple[str, dict[str, Any]]] = [("started", {"device": "cpu", "total_steps": len(losses)})]
    for number, loss in enumerate(losses, 1):
        told.append(("step", {"step": number, "total_steps": len(losses), "loss": loss, "tokens_per_second": 100.0}))
    told += [("eval", {"step": len(losses), "loss": losses[-1]}), ("finished", {"reason": "completed"})]
    lines = [
        json.dumps({"schema": "tuneplan.event/1", "kind": kind, "time": 1000.0 + place, "data": data})
        for place, (kind, data) in enumerate(told)
    ]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_what_differs_is_told_and_nothing_else(tmp_path: Path) -> None:
    finished_run(tmp_path, "phi-pairs-1", rate=1e-4, losses=(3.0, 2.0))
    finished_run(tmp_path, "phi-pairs-2", rate=2e-4, losses=(3.0, 1.5, 1.0), method="full")
    runs = sorted(history.every(tmp_path), key=lambda run: run.folder.name)
    assert [(run.state, run.loss) for run in runs] == [("completed", 2.0), ("completed", 1.0)]
    assert history.unfinished(tmp_path) == ()
    found = comparing.compare(runs)
    assert [name for name, _ in found.runs] == ["1", "2"]
    assert dict(found.settings) == {"Method": ("lora", "full"), "Learning rate": ("1e-4", "2e-4")}
    results = dict(found.results)
    assert results["best eval loss"] == ("2.0000", "1.0000")
    assert results["steps"] == ("2", "3")
    (runs[0].folder / "plan.yaml").write_text("nonsense: [")
    with pytest.raises(InvalidInput):
        comparing.compare(runs)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["a-1"], ["a-1"]),
        (["phi-x-20260101-1", "phi-x-20260102-2"], ["20260101-1", "20260102-2"]),
        (["one", "other"], ["one", "other"]),
        (["a-b", "a-b-2"], ["b", "b-2"]),
    ],
)
def test_names_are_short_and_differ(names: list[str], short: list[str]) -> None:
    assert comparing.short_names(names) == short


async def test_runs_are_sorted_marked_and_compared_by_keys(tmp_path: Path) -> None:
    finished_run(tmp_path, "phi-pairs-1", rate=1e-4, losses=(3.0, 2.0))
    finished_run(tmp_path, "phi-pairs-2", rate=2e-4, losses=(3.0, 1.5, 1.0))
    app = TuneplanApp(output=tmp_path)
    async with app.run_test(size=(120, 36)) as pilot:
        await settle(app, pilot)
        await until(app, pilot, lambda: len(app.past_runs) == 2, 20)
        await pilot.press("ctrl+o")
        await until(app, pilot, lambda: isinstance(app.screen, RunsScreen), 10)
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await pilot.press("o")
        assert [run.loss for run in screen.runs] == [1.0, 2.0], "the lowest first"
        await pilot.press("c")
        assert "two or more" in flat(await drawn(app, pilot))
        await pilot.press("space", "down", "space", "c")
        shown = flat(await until(app, pilot, lambda: isinstance(app.screen, CompareScreen), 20))
        for words in ("Learning rate 2e-4 1e-4", "best eval loss 1.0000 2.0000", "Settings that differ"):
            assert words in shown
        chart = app.screen.query(Curves).first()
        assert [curve.name for curve in chart.curves() if curve.name] == ["2", "1"]
        await pilot.press("c", "y", "left", "plus")
        assert chart.view == "memory"
        assert (chart.look.log, chart.look.zoom) == (True, 1)
        await pilot.press("escape")
        await until(app, pilot, lambda: not isinstance(app.screen, CompareScreen), 10)
