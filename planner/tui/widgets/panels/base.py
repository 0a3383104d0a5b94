"""What every panel of the plan is: a border that names it and its jump key."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from planner.tui.widgets.hanging import Hanging


class Panel(Widget):
    """A part of the plan screen; `NAME` is its place in `rooms.PANELS`."""

    NAME: ClassVar[str] = ""
    TITLE: ClassVar[str] = ""
    TAB: ClassVar[str] = ""
    """The title where several panels share a line; the title itself where it is short."""
    JUMP: ClassVar[str] = ""
    """The letter that puts the focus here; marked in the title."""

    def name_it(self) -> None:
        """Writes the title into the border."""
        self.border_title = jump_title(self.TITLE, self.JUMP)
        self.add_class("panel")

    def wanted(self, width: int) -> int:
        """Rows that the panel would fill at this width, its border included; 0 where it takes what it gets."""
        return 0

    def go_in(self) -> None:
        """Puts the focus on the panel or the first thing in it that can take it."""
        first = self if self.can_focus else next((w for w in self.query("*") if w.focusable and w.display), None)
        if first is not None:
            self.screen.set_focus(first)


class TextPanel(Panel, VerticalScroll, can_focus=True):
    """A panel that is one text, scrolled."""

    DEFAULT_CSS = "TextPanel { padding: 0 1; scrollbar-size-vertical: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False, id="text.down", tooltip="Scroll down"),
        Binding("k", "scroll_up", "Up", show=False, id="text.up", tooltip="Scroll up"),
    ]

    def compose(self):  # type: ignore[no-untyped-def]
        """The text."""
        yield Hanging("", markup=False, classes="text")

    def on_mount(self) -> None:
        self.name_it()

    def show(self, text: Content | str) -> None:
        """Another text."""
        self.query_one(".text", Static).update(text)


class BoxPanel(Panel, Vertical):
    """A panel that holds other widgets."""

    def on_mount(self) -> None:
        self.name_it()


def jump_title(title: str, letter: str) -> Content:
    """The title with its jump letter marked; a letter that is not in it stands before it."""
    place = title.lower().find(letter.lower()) if letter else -1
    if not letter:
        return Content(title)
    if place < 0:
        return Content.assemble((letter, "$accent underline"), f" {title}")
    return Content.assemble(title[:place], (title[place : place + 1], "$accent underline"), title[place + 1 :])
