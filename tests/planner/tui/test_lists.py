"""The lists: what was typed finds what is meant, families and makers in their order."""

from __future__ import annotations

import pytest

from planner.calibration import attach
from planner.decide.fits import fit_of
from planner.devices.profiles import all_profiles
from planner.models import catalogue, order
from planner.models.sources import load_model
from planner.report import finding
from planner.report.finding import ListEntry
from planner.tui import makers
from planner.tui.app import TuneplanApp
from planner.tui.screens.hardware import HardwareScreen
from planner.tui.screens.model import ModelScreen
from planner.tui.widgets.filter_list import FilterList
from tests.support.tui_support import flat, settle, type_text


@pytest.fixture(scope="module")
def models() -> list[ListEntry]:
    return TuneplanApp().model_entries()


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("llama 3", "llama-3"),
        ("3.2", "llama-3.2"),
        ("mistral", "mistral-7b"),
        ("qwen 8b instruct", ""),
        ("qwen3 8b", "qwen3-8b"),
        ("microsoft/phi-2", "phi-2"),
        ("lama3", "llama-3"),
        ("PHI 2", "phi-2"),
    ],
)
def test_what_was_typed_finds_what_is_meant(models: list[ListEntry], typed: str, first: str) -> None:
    found = finding.found(models, typed)
    if not first:  # there is no instruct model of that size under that name: nothing else is offered for it
        assert all("qwen" in f"{entry.key} {entry.more}".lower() for entry in found)
        return
    assert found[0].key.lower().startswith(first), [entry.key for entry in found[:4]]


def test_nothing_typed_is_every_family_once_and_the_newest_first(models: list[ListEntry]) -> None:
    groups = [entry.group for entry in models]
    runs = [group for place, group in enumerate(groups) if not place or groups[place - 1] != group]
    assert len(runs) == len(set(runs)), "a family stands in one place"
    assert {entry.key for entry in models} == {name for name, *_ in catalogue.models()}
    llamas = [order.version_of(entry.key) for entry in models if entry.group == "Llama" and "B" in entry.row]
    assert llamas == sorted(llamas, reverse=True)
    assert order.OTHERS not in groups, "every model of the catalogue has a family"


def test_every_device_has_a_heading() -> None:
    assert {makers.maker_of(profile) for profile in all_profiles()} <= set(makers.MAKERS)


@pytest.mark.parametrize(
    ("model", "gpu", "wanted"),
    [("phi-2", "a10g", "fits"), ("llama-3.3-70b", "a10g", "no"), ("llama-3.1-8b", "rtx-4060-ti-16gb", "qlora"),
     ("flan-t5-small", "t4", "fits"), ("youtu-llm-2b", "a10g", "unknown"), ("deepseek-r1", "h100-80gb", "no")],
)  # fmt: skip
def test_what_of_a_model_fits(model: str, gpu: str, wanted: str) -> None:
    hardware = attach.find(gpu)
    assert fit_of(load_model(model), hardware, budget_bytes=hardware.budget_bytes) == wanted


async def test_a_name_that_means_several_asks_which() -> None:
    """GIVEN `m3` WHEN Enter is pressed THEN it is asked which one; moved to another, Enter takes that."""
    app = TuneplanApp()
    async with app.run_test(size=(100, 30)) as pilot:
        await settle(app, pilot)
        await type_text(pilot, "m3")
        await pilot.press("enter")
        shown = flat(await settle(app, pilot))
        assert isinstance(app.screen, HardwareScreen)
        assert "“m3” may be" in shown
        assert app.wizard.hardware is None
        await pilot.press("down", "enter")
        await settle(app, pilot)
        assert isinstance(app.screen, ModelScreen)
        assert app.wizard.hardware is not None
        assert app.wizard.hardware.kind == "mps"
        app.go("hardware")
        await settle(app, pilot)
        await pilot.press("ctrl+u")
        await type_text(pilot, "macbook pro m3")
        await pilot.press("enter")
        assert "may be" in flat(await settle(app, pilot))
        await pilot.press("ctrl+u")
        await type_text(pilot, "3060")
        await pilot.press("enter")
        await settle(app, pilot)
        assert app.wizard.hardware.name == "rtx-3060-12gb", "a whole name is meant"


async def test_a_model_to_start_with_is_under_the_cursor_and_shown() -> None:
    """GIVEN headings between the rows WHEN the list opens THEN one that fits is marked and shown."""
    app = TuneplanApp(gpu="a10g")
    async with app.run_test(size=(100, 30)) as pilot:
        shown = await settle(app, pilot)
        listing = app.screen.query_one(FilterList)
        assert listing.current == makers.first_model(app.wizard.hardware)
        assert "parameters" in shown
        await pilot.press("alt+1")
        await settle(app, pilot)
        assert isinstance(app.screen, HardwareScreen)
        await pilot.click("StepBar", offset=(14, 0))
        await settle(app, pilot)
        assert isinstance(app.screen, ModelScreen), "the line at the top can be clicked"
