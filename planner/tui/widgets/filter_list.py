"""A list that narrows as one types: the filter keeps the focus, the arrows move in the list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from planner.report import finding
from planner.report.finding import ListEntry


class LineInput(Input):
    """One line of text that says in the footer what its keys do; `?` stays the help key, no name or path holds one."""

    BINDING_GROUP_TITLE = "Line"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Choose", key_display="⏎", id="line.choose", tooltip="Take what is marked or typed"),
        Binding("tab", "app.focus_next", "Next pane", key_display="⇥", id="line.tab", tooltip="To the next pane"),
        Binding("f1", "app.help", "Help", id="line.help", tooltip="Keys and words"),
        Binding("ctrl+q", "app.request_quit", "Quit", priority=True, id="line.quit", tooltip="Leave the wizard"),
    ]

    async def _on_key(self, event: events.Key) -> None:
        if event.character == "?":
            event.stop()
            event.prevent_default()
            await self.app.run_action("help")
            return
        await super()._on_key(event)


class FilterInput(LineInput):
    """The filter of a list."""


class FilterList(Vertical):
    """Entries ranked by the words typed, under headings while there are none; posts `Highlighted` and `Chosen`."""

    BINDING_GROUP_TITLE = "List"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "move('cursor_down')", "Move", key_display="↑↓", id="list.down", tooltip="Next entry"),
        Binding("up", "move('cursor_up')", "Up", show=False, id="list.up", tooltip="Previous entry"),
        Binding("pagedown", "move('page_down')", "Page down", show=False, id="list.pagedown", tooltip="A page on"),
        Binding("pageup", "move('page_up')", "Page up", show=False, id="list.pageup", tooltip="A page back"),
    ]

    class Highlighted(Message):
        """The entry under the cursor changed; `None` where nothing matches."""

        def __init__(self, key: str | None) -> None:
            self.key = key
            super().__init__()

    class Chosen(Message):
        """Enter was pressed: the entry under the cursor, and what had been typed."""

        def __init__(self, key: str | None, text: str) -> None:
            self.key = key
            self.text = text
            super().__init__()

    def __init__(self, placeholder: str, *, id: str) -> None:
        super().__init__(id=id)
        self.placeholder = placeholder
        self._keys: list[str | None] = []
        self._entries: tuple[ListEntry, ...] = ()

    def compose(self) -> ComposeResult:
        yield FilterInput(placeholder=self.placeholder, compact=True, select_on_focus=False)
        yield OptionList(compact=True, markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False

    def on_resize(self) -> None:
        """The entry under the cursor stays in sight."""
        listing = self.query_one(OptionList)
        self.call_after_refresh(listing.scroll_to_highlight)

    @property
    def text(self) -> str:
        """What stands in the filter."""
        return self.query_one(FilterInput).value.strip()

    @property
    def current(self) -> str | None:
        """Id of the entry under the cursor."""
        option = self.query_one(OptionList).highlighted_option
        return option.id if option else None

    def fill(self, entries: Iterable[ListEntry], select: str | None = None) -> None:
        """Other entries, in the order in which they stand while nothing is typed."""
        self._entries = tuple(entries)
        self._show(select or self.current)

    def mark(self, key: str, mark: str, style: str) -> None:
        """Another mark before one entry."""
        place = next((place for place, entry in enumerate(self._entries) if entry.key == key), None)
        if place is None:
            return
        entry = replace(self._entries[place], mark=mark, style=style)
        self._entries = (*self._entries[:place], entry, *self._entries[place + 1 :])
        if key in self._keys:
            self.query_one(OptionList).replace_option_prompt(key, _row(entry))

    def alike(self) -> list[ListEntry]:
        """What is as near to what was typed as the nearest entry, itself among them."""
        return finding.equals(self._entries, self.text)

    def clear(self) -> None:
        """Empties the filter."""
        with self.prevent(Input.Changed):
            self.query_one(FilterInput).value = ""

    def focus_filter(self) -> None:
        """Puts the cursor into the filter."""
        self.screen.set_focus(self.query_one(FilterInput))

    def _show(self, select: str | None) -> None:
        shown = finding.found(self._entries, self.text)
        options: list[Option] = []
        group = ""
        for entry in shown:
            if not self.text and entry.group != group:
                group = entry.group
                options.append(Option(Content.styled(group, "bold underline"), disabled=True))
            options.append(Option(_row(entry), id=entry.key))
        listing = self.query_one(OptionList)
        listing.set_options(options)
        self._keys = [option.id for option in options]
        first = next((place for place, key in enumerate(self._keys) if key), None)
        listing.highlighted = self._keys.index(select) if select and select in self._keys else first
        if first is None:
            self.post_message(self.Highlighted(None))

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        event.stop()
        self._show(None if self.text else self.current)

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.post_message(self.Highlighted(event.option_id))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Chosen(self.current, self.text))

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()  # a click moves the cursor; Enter takes what is under it

    def action_move(self, how: str) -> None:
        """Moves the list's cursor while the filter keeps the focus."""
        getattr(self.query_one(OptionList), f"action_{how}")()


def _row(entry: ListEntry) -> Content:
    return Content.assemble((entry.mark, entry.style), entry.row) if entry.mark else Content(entry.row)
