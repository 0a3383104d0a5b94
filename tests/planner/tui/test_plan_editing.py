"""The plan's settings, changed and typed by keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Static

from planner.tui import state
from planner.tui.app import TuneplanApp
from planner.tui.widgets.field_list import FieldList, Rows
from tests.support.tui_support import flat, planned, settle, type_text


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


async def test_what_is_said_already_is_not_written_anew(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN the line above the footer, which moves the whole screen WHEN it stays as it is THEN it is left alone."""
    written: list[str | None] = []
    update = Static.update
    monkeypatch.setattr(
        Static, "update", lambda self, *told, **more: written.append(self.id) or update(self, *told, **more)
    )
    app = planned(pairs)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        written.clear()
        await pilot.press("left")
        await settle(app, pilot)
        assert written
        assert "message" not in written
        await pilot.press("right", "right", "right")
        assert "raise the effective batch first" in flat(await settle(app, pilot))
        assert written.count("message") == 1
        await pilot.press("left")
        assert "raise the effective batch first" not in flat(await settle(app, pilot))
        assert written.count("message") == 2


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
