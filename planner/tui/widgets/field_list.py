"""The settings of a plan as rows; left and right change a value, typing edits it in the line below."""

from __future__ import annotations

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.visual import VisualType
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from planner.tui import figures
from planner.tui.field import Field
from planner.tui.widgets.quiet_list import QuietList

LABEL_WIDTH = 21
MOST_HINT = 320
"""Characters of what is wrong that have room under the settings of a small terminal."""


class Rows(QuietList):
    """The rows themselves; headings are disabled options."""

    BINDING_GROUP_TITLE = "Settings"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "left,minus,h",
            "step(-1)",
            "Change",
            show=True,
            key_display="←→",
            id="field.less",
            tooltip="The value before or after",
        ),
        Binding("right,plus,l", "step(1)", "Next value", show=False, id="field.more", tooltip="Value after"),
        Binding("enter", "select", "Type", show=True, key_display="⏎", id="field.type", tooltip="Type a value"),
        Binding("j", "cursor_down", "Down", show=False, id="field.down", tooltip="The row below"),
        Binding("k", "cursor_up", "Up", show=False, id="field.up", tooltip="The row above"),
    ]

    class Stepped(Message):
        """Left or right was pressed on a row."""

        def __init__(self, key: str, direction: int) -> None:
            self.key = key
            self.direction = direction
            super().__init__()

    class Typed(Message):
        """A character that begins a value was pressed on a row."""

        def __init__(self, key: str, text: str) -> None:
            self.key = key
            self.text = text
            super().__init__()

    def action_step(self, direction: int) -> None:
        """Asks for the value before or after."""
        option = self.highlighted_option
        if option and option.id:
            self.post_message(self.Stepped(option.id, direction))

    def on_key(self, event: events.Key) -> None:
        """A digit or point starts an edit with itself."""
        option = self.highlighted_option
        if option and option.id and event.character and event.character in "0123456789.":
            event.stop()
            self.post_message(self.Typed(option.id, event.character))


class FieldList(Vertical):
    """Rows, the edit line, and what the row under the cursor means."""

    class Changed(Message):
        """A value was typed so far: the whole text, possibly not yet valid."""

        def __init__(self, key: str, text: str) -> None:
            self.key = key
            self.text = text
            super().__init__()

    class Stepped(Message):
        """The value before (-1) or after (+1) was asked for."""

        def __init__(self, key: str, direction: int) -> None:
            self.key = key
            self.direction = direction
            super().__init__()

    class EditBegun(Message):
        """The edit line was opened."""

        def __init__(self, key: str) -> None:
            self.key = key
            super().__init__()

    class EditEnded(Message):
        """The edit line was closed; `kept` is False after Escape."""

        def __init__(self, key: str, kept: bool) -> None:
            self.key = key
            self.kept = kept
            super().__init__()

    class Moved(Message):
        """Another row is under the cursor."""

        def __init__(self, key: str) -> None:
            self.key = key
            super().__init__()

    def compose(self) -> ComposeResult:
        yield Rows(compact=True, markup=False, id="rows")
        yield EditLine(compact=True, id="edit", select_on_focus=False)
        yield Static("", id="hint", markup=False)

    def on_mount(self) -> None:
        self._fields: dict[str, Field] = {}
        self._rows: list[tuple[Field, str, bool]] = []
        self._editing: str | None = None
        self.border_title = "Settings"

    def on_resize(self) -> None:
        """The row under the cursor stays in sight."""
        self.call_after_refresh(self.query_one(Rows).scroll_to_highlight)

    @property
    def current(self) -> str | None:
        """Field under the cursor."""
        option = self.query_one(Rows).highlighted_option
        return option.id if option else None

    @property
    def editing(self) -> str | None:
        """Field whose value is being typed."""
        return self._editing

    @property
    def typed(self) -> str:
        """What stands in the edit line."""
        return self.query_one(EditLine).value

    def show(self, rows: list[tuple[Field, str, bool]]) -> None:
        """Rows as (field, value text, whether the person set it)."""
        listing = self.query_one(Rows)
        fields = {field.key: field for field, _, _ in rows}
        if list(fields) != list(self._fields):
            self._rebuild(rows)
        else:
            for row, before in zip(rows, self._rows, strict=True):
                if row != before:
                    listing.replace_option_prompt(row[0].key, _row(*row))
        self._fields, self._rows = fields, rows

    def _rebuild(self, rows: list[tuple[Field, str, bool]]) -> None:
        listing = self.query_one(Rows)
        before, scroll = self.current, listing.scroll_y
        options: list[Option] = []
        group = ""
        for field, value, edited in rows:
            if field.group != group:
                group = field.group
                options.append(Option(Content.styled(group, "bold underline"), disabled=True))
            options.append(Option(_row(field, value, edited), id=field.key))
        listing.set_options(options)
        keys = [option.id for option in options]
        listing.highlighted = keys.index(before) if before is not None and before in keys else 1
        listing.scroll_to(y=scroll, animate=False)

    def explain(self, text: str | Content, error: bool = False) -> None:
        """The lines under the list: what the row means, or what is wrong with what was typed."""
        hint = self.query_one("#hint", Static)
        shown = figures.clipped(text, MOST_HINT) if error and isinstance(text, str) else text
        if not _same(shown, hint.content):  # what is new is laid out, and all of the screen with it
            hint.update(shown)
        hint.set_class(error, "error")

    def focus_rows(self) -> None:
        """Puts the cursor into the list."""
        self.screen.set_focus(self.query_one(Rows))

    # ---------------------------------------------------------------------------------------------------- editing

    def begin(self, key: str, text: str) -> None:
        """Opens the edit line with a text."""
        self._editing = key
        line = self.query_one(EditLine)
        with line.prevent(Input.Changed):
            line.value = text
        line.placeholder = self._fields[key].label
        self.add_class("editing")
        self.screen.set_focus(line)
        line.action_end()
        self.post_message(self.EditBegun(key))

    def end(self, kept: bool) -> None:
        """Closes the edit line."""
        if self._editing is None:
            return
        key, self._editing = self._editing, None
        self.remove_class("editing")
        self.focus_rows()
        self.post_message(self.EditEnded(key, kept))

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        key = event.option_id or ""
        field = self._fields[key]
        if field.kind in ("choice", "switch"):
            self.post_message(self.Stepped(key, 1))
        else:
            self.begin(key, "")

    @on(Rows.Stepped)
    def _stepped(self, event: Rows.Stepped) -> None:
        event.stop()
        self.post_message(self.Stepped(event.key, event.direction))

    @on(Rows.Typed)
    def _typed(self, event: Rows.Typed) -> None:
        event.stop()
        if self._editing is not None:
            # Typed faster than the focus moved: it belongs to the line that is open already.
            line = self.query_one(EditLine)
            line.value += event.text
            line.action_end()
        elif self._fields[event.key].kind not in ("choice", "switch"):
            self.begin(event.key, event.text)

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_id:
            self.post_message(self.Moved(event.option_id))

    @on(Input.Changed, "#edit")
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._editing is not None:
            self.post_message(self.Changed(self._editing, event.value))

    @on(Input.Submitted, "#edit")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.end(kept=True)


class EditLine(Input):
    """The line in which a value is typed: enter keeps it, escape brings the old one back, arrows move on."""

    BINDING_GROUP_TITLE = "Edit"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep", id="edit.keep", tooltip="Keep the value"),
        Binding("escape", "leave(False)", "Undo", id="edit.undo", tooltip="Bring the old value back"),
        Binding("up", "go('cursor_up')", "Row above", show=False, id="edit.up", tooltip="Keep and go up"),
        Binding("down", "go('cursor_down')", "Row below", show=False, id="edit.down", tooltip="Keep and go down"),
    ]

    @property
    def _list(self) -> FieldList:
        return next(node for node in self.ancestors if isinstance(node, FieldList))

    def action_leave(self, kept: bool) -> None:
        """Closes the line."""
        self._list.end(kept)

    def action_go(self, how: str) -> None:
        """Keeps the value and moves to the next row."""
        self._list.end(True)
        getattr(self._list.query_one(Rows), f"action_{how}")()

    def on_blur(self) -> None:
        """Leaving by Tab or mouse keeps what was typed."""
        self._list.end(True)


def _row(field: Field, value: str, edited: bool) -> Content:
    mark = "•" if edited else " "
    return Content.assemble((mark, "$accent"), field.label[: LABEL_WIDTH - 1].ljust(LABEL_WIDTH - 1), (value, "bold"))


def _same(one: VisualType, other: VisualType) -> bool:
    """Whether two texts look alike."""
    if isinstance(one, Content) and isinstance(other, Content):
        return one.is_same(other)
    return isinstance(one, str) and one == other
