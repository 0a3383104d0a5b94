"""Colours: each component has one of its own in every theme, Textual's among them."""

from __future__ import annotations

import pytest

from planner.tui.app import TuneplanApp
from planner.tui.theme import COMPONENTS, SIXTEEN, THEMES, component_variables, usual_theme
from tests.support.tui_support import settle


def test_sixteen_colours_tell_the_components_apart() -> None:
    from textual.theme import BUILTIN_THEMES

    for name in SIXTEEN:
        found = component_variables(BUILTIN_THEMES[name])
        assert len(set(found.values())) == len(COMPONENTS)


@pytest.mark.parametrize(("name", "ground"), [("ansi-dark", "ansi_black"), ("ansi-light", "ansi_bright_white")])
async def test_nothing_has_the_colour_of_its_ground(name: str, ground: str) -> None:
    app = TuneplanApp(gpu="a10g", model="phi-2")
    async with app.run_test(size=(80, 24)):
        app.theme = name
        variables = app.get_css_variables()
        drawn = [value for key, value in variables.items() if key.startswith("mem-")]
        seen = (variables["border-blurred"], variables["block-cursor-blurred-background"])
        assert {ground, "ansi_default"}.isdisjoint({*drawn, *seen})


@pytest.mark.parametrize("theme", [THEMES[0].name, THEMES[1].name, "nord", "solarized-light", *SIXTEEN])
async def test_the_bar_has_a_colour_for_each_component(theme: str) -> None:
    """GIVEN any theme THEN the memory bar is drawn in as many colours as it has parts, not in the text's own."""
    app = TuneplanApp(gpu="a10g", model="phi-2")
    async with app.run_test(size=(120, 36)) as pilot:
        app.theme = theme
        app.go("plan")
        await settle(app, pilot)
        lines = app.screen._compositor.render_strips(app.size)
        colors = {segment.style.color for segment in lines[3] if segment.style and "█" in segment.text}
        assert len(colors) >= 4


@pytest.mark.parametrize(("term", "wanted"), [("xterm-16color", SIXTEEN[0]), ("xterm-256color", THEMES[0].name)])
def test_a_terminal_of_sixteen_colours_gets_its_own(term: str, wanted: str) -> None:
    from rich.console import Console

    assert usual_theme(Console(force_terminal=True, _environ={"TERM": term}).color_system) == wanted
