"""A list that narrows as one types: the filter keeps the focus, the arrows move in the list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option


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
    """Entries (id, text) filtered by every word typed; posts `Highlighted` and `Chosen` with the id."""

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
        self._entries: tuple[tuple[str, str, str], ...] = ()

    def compose(self) -> ComposeResult:
        yield FilterInput(placeholder=self.placeholder, compact=True, select_on_focus=False)
        yield OptionList(compact=True, markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False

    @property
    def text(self) -> str:
        """What stands in the filter."""
        return self.query_one(FilterInput).value.strip()

    @property
    def current(self) -> str | None:
        """Id of the entry under the cursor."""
        option = self.query_one(OptionList).highlighted_option
        return option.id if option else None

    def fill(self, entries: Iterable[tuple[str, str, str]], select: str | None = None) -> None:
        """Entries as (id, text of the row, words that also match)."""
        self._entries = tuple(entries)
        self._show(select or self.current)

    def clear(self) -> None:
        """Empties the filter."""
        with self.prevent(Input.Changed):
            self.query_one(FilterInput).value = ""

    def focus_filter(self) -> None:
        """Puts the cursor into the filter."""
        self.query_one(FilterInput).focus()

    def _show(self, select: str | None) -> None:
        words = self.text.lower().split()
        found = [
            (key, row) for key, row, more in self._entries if all(w in f"{key} {row} {more}".lower() for w in words)
        ]
        listing = self.query_one(OptionList)
        listing.set_options(Option(Content(row), id=key) for key, row in found)
        keys = [key for key, _ in found]
        listing.highlighted = keys.index(select) if select in keys else (0 if keys else None)
        if not keys:
            self.post_message(self.Highlighted(None))

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        event.stop()
        typed = self.text.lower()
        # A name that was typed whole is meant, wherever it stands among those that only begin like it.
        exact = (key for key, _, more in self._entries if typed in (key.lower(), *more.lower().split()))
        self._show(next(exact, self.current))

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.post_message(self.Highlighted(event.option_id))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Chosen(self.current, self.text))

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Chosen(event.option_id, self.text))

    def action_move(self, how: str) -> None:
        """Moves the list's cursor while the filter keeps the focus."""
        getattr(self.query_one(OptionList), f"action_{how}")()
