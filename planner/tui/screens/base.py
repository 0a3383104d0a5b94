"""What all steps of the wizard share: the line at the top, the footer, one line for errors, and the keys."""

from __future__ import annotations

from typing import ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from planner.tui import figures
from planner.tui.widgets.filter_list import FilterList
from planner.tui.widgets.hanging import MARK, Hanging
from planner.tui.widgets.key_line import KeyLine
from planner.tui.widgets.steps import StepBar
from planner.tui.wizard import Wizard

DIGITS = tuple(
    Binding(str(place + 1), f"app.step({place})", f"Step {place + 1}", show=False, id=f"step.digit{place + 1}",
            tooltip="To this step")
    for place in range(5)
)  # fmt: skip
"""On screens where nothing is typed a digit goes to a step."""


MOST_SAID = 480
"""Characters that have room above the footer of a small terminal."""
WIDE = 110
"""Columns from which there is room for more than the step itself; as in the stylesheet, like the next."""
VAST = 150
"""Columns from which lists show more of each entry, and a step's facts stand in two columns."""


class WizardScreen(Screen[None]):
    """A step; `PLACE` is its number in the line at the top, `HELP_TEXT` what `?` says before the keys."""

    PLACE: ClassVar[int] = 0
    HELP_TEXT: ClassVar[str] = ""
    MINIMUM: ClassVar[tuple[int, int]] = (72, 20)
    """Columns and rows below which a notice stands over the step."""
    _told = "", False
    """What `say` shows, and whether it is an error."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.step_back", "Back", id="wizard.back", tooltip="To the step before"),
        Binding("question_mark", "app.help", "Help", key_display="?", id="wizard.help", tooltip="Keys and words"),
        Binding("q", "app.request_quit", "Quit", id="wizard.quit", tooltip="Leave; asks while a run goes on"),
    ]

    @property
    def wizard_app(self) -> Wizard:
        """The app, typed."""
        return cast(Wizard, self.app)

    def compose(self) -> ComposeResult:
        yield StepBar(self.PLACE)
        yield from self.body()
        yield Static("", id="message", markup=False)
        yield Static("", id="too-small", markup=False)
        yield KeyLine(compact=True, show_command_palette=False)

    def body(self) -> ComposeResult:
        """The panes between the line at the top and the footer."""
        yield from ()

    def on_resize(self) -> None:
        """A wide terminal has room to name the command palette's key; a tiny one is told so."""
        width, height = self.size
        self.set_class(width >= VAST, "-vast")
        self.query_one(KeyLine).widen(width >= WIDE)
        notice = self.query_one("#too-small", Static)
        notice.display = width < self.MINIMUM[0] or height < self.MINIMUM[1]
        if notice.display:
            notice.update(too_small(width, height, self.MINIMUM))

    def say(self, text: str = "", *, error: bool = False) -> None:
        """One line above the footer; empty hides it."""
        if (text, error) == self._told:
            return  # every key says nothing, and would lay the whole screen out anew
        self._told = text, error
        line = self.query_one("#message", Static)
        line.update(figures.clipped(text, MOST_SAID))
        line.set_class(bool(text), "shown")
        line.set_class(error, "error")


def too_small(width: int, height: int, minimum: tuple[int, int]) -> str:
    """What to do about a terminal that can't show a step."""
    return (
        f"{width}×{height} is too small for the wizard: it needs {minimum[0]} columns and {minimum[1]} rows, 80×24 is "
        "comfortable. Enlarge the window or shrink its font (nothing is lost, a run goes on); ctrl+q leaves. "
        "`plan --gpu NAME --model NAME` prints a plan in any terminal."
    )


class ListScreen(WizardScreen):
    """A step that chooses from a list: the list on the left, facts of what is under the cursor on the right."""

    LIST: ClassVar[tuple[str, str]] = ("", "")
    """The list's id and the hint in its filter."""

    def body(self) -> ComposeResult:
        name, hint = self.LIST
        with Horizontal(classes="panes"):
            yield FilterList(hint, id=name)
            with VerticalScroll(id="facts", classes="pane"):
                yield Hanging("", id="facts-text", markup=False)

    def name_panes(self, listing: str, facts: str) -> None:
        """Names both panes."""
        self.query_one(FilterList).border_title = listing
        self.query_one("#facts").border_title = facts

    def show_facts(self, text: Content) -> None:
        """Fills the right pane, from its top."""
        self.query_one("#facts-text", Static).update(text)
        self.query_one("#facts").scroll_home(animate=False)

    def action_choose(self) -> None:
        """Takes what is under the cursor, wherever the focus is: as if it had been chosen in the list."""
        listing = self.query_one(FilterList)
        listing.post_message(FilterList.Chosen(listing.current, listing.text))


def facts_of(title: str, rows: list[tuple[str, str]], *, width: int) -> list[Content | str | tuple[str, str]]:
    """A title and a table of names and values, as parts of a `Content`."""
    parts: list[Content | str | tuple[str, str]] = [(title, "bold"), "\n"]
    for name, text in rows:
        parts += [(f"{name:<{width}}{MARK}", "dim"), text, "\n"]
    return parts
