"""A theme that is kept, and keys of one's own: what is taken, and the one line about what can't be."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.contract.errors import InvalidInput
from planner.tui import kept
from planner.tui.app import TuneplanApp, every_key
from planner.tui.screens.modals import HelpScreen
from tests.support.tui_support import settle, until


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    return tmp_path


def test_what_keys_do_has_names(own_home: Path) -> None:
    known = every_key()
    assert {"plan.train", "live.stop", "chart.log", "app.help"} <= known.keys()
    guide = (Path(__file__).parents[3] / "docs" / "wizard.md").read_text()
    assert [name for name in known if f"`{name}`" not in guide] == [], "the guide names all"
    (own_home / kept.KEYS).write_text('plan.train = "f2"\n')
    assert kept.own_keys(known) == {"plan.train": "f2"}


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ('plan.train = "T"', {"plan.train": "T"}),
        ('[plan]\ntrain = ["T", "ctrl+t"]', {"plan.train": "T,ctrl+t"}),
        ('"chart.in" = "+"\n', {"chart.in": "plus"}),
        ('plan.train = "s"\nplan.save = "t"', {"plan.train": "s", "plan.save": "t"}),
        ("", {}),
    ],
)
def test_keys_are_taken(own_home: Path, text: str, taken: dict[str, str]) -> None:
    (own_home / kept.KEYS).write_text(text)
    assert kept.own_keys(every_key()) == taken


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plan.train = ", "can't be read"),
        ('plan.trian = "T"', "did you mean plan.train?"),
        ('x = "T"', "nothing that a key does"),
        ("plan.train = 3", "is no key"),
        ('plan.train = "hyper+t"', "is no key"),
        ('plan.train = ""', "is no key"),
        ("plan.train = []", "no key left"),
        ('plan.train = "s"', "s is plan.train and plan.save"),
        ('plan.train = "q"', "q is plan.train and wizard.quit"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(own_home: Path, text: str, said: str) -> None:
    (own_home / kept.KEYS).write_text(text)
    with pytest.raises(InvalidInput, match=kept.KEYS) as refused:
        TuneplanApp()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_theme_is_kept_and_own_keys_act(own_home: Path) -> None:
    (own_home / kept.KEYS).write_text('app.help = "f9"\n')
    app = TuneplanApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(app, pilot)
        app.theme = "tuneplan-light"
        await pilot.press("f9")
        await until(app, pilot, lambda: isinstance(app.screen, HelpScreen), 10)
    assert TuneplanApp().theme == "tuneplan-light"
    (own_home / kept.THEME).write_text("no such theme")
    assert TuneplanApp().theme == "tuneplan"
