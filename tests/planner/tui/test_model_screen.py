"""The step that chooses the model: paths, their errors, and what follows from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.tui.app import TuneplanApp
from planner.tui.screens.data import DataScreen
from planner.tui.screens.model import ModelScreen
from planner.tui.screens.plan import PlanScreen
from tests.support.tui_support import flat, settle, type_text


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
