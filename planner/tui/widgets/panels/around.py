"""Peak and tokens per second at other batches and lengths: a map with the plan's own place in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click
from textual.message import Message

from planner.tui import figures
from planner.tui.around import Around, Spot
from planner.tui.widgets.panels.base import Panel

GUTTER, COLUMN = 7, 7
GROUNDS = {"$text-success": "$success", "$text-warning": "$warning", "$text-error": "$error"}


class AroundPanel(Panel, can_focus=True):
    """A cell for each batch and length: peak, and where there is room the speed; Enter takes the one under the cursor.

    Peaks of other places are the search's (reserved bytes by its rule); the plan's own is exact.
    """

    NAME, TITLE, TAB, JUMP = "around", "Batch and length", "Batch", "b"
    BINDING_GROUP_TITLE = "Map"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1, 0)", "Move", key_display="←→↑↓", id="around.left", tooltip="A smaller batch"),
        Binding("right,l", "move(1, 0)", "Larger", show=False, id="around.right", tooltip="A larger batch"),
        Binding("up,k", "move(0, -1)", "Shorter", show=False, id="around.up", tooltip="A shorter length"),
        Binding("down,j", "move(0, 1)", "Longer", show=False, id="around.down", tooltip="A longer length"),
        Binding("enter", "take", "Take", key_display="⏎", id="around.take", tooltip="Take this batch and length"),
    ]

    @dataclass
    class Taken(Message):
        """A batch and a length were chosen."""

        batch: int
        length: int

    def on_mount(self) -> None:
        self.name_it()
        self._around: Around | None = None
        self._cursor: tuple[int, int] | None = None
        """(column, row); None: the plan's own."""

    def show(self, around: Around | None) -> None:
        """Another map."""
        if around is not self._around:
            self._cursor = None
        self._around = around
        self.refresh()

    def _place(self) -> tuple[int, int]:
        assert self._around is not None
        own = (self._around.batches.index(self._around.batch), self._around.lengths.index(self._around.length))
        return own if self._cursor is None else self._cursor

    def action_move(self, across: int, down: int) -> None:
        """The neighbour in a direction."""
        around = self._around
        if around is None:
            return
        column, row = self._place()
        self._cursor = (
            max(0, min(column + across, len(around.batches) - 1)),
            max(0, min(row + down, len(around.lengths) - 1)),
        )
        self.refresh()

    def action_take(self) -> None:
        """Takes what is under the cursor."""
        if self._around is not None:
            column, row = self._place()
            self.post_message(self.Taken(self._around.batches[column], self._around.lengths[row]))

    def on_click(self, event: Click) -> None:
        """The cursor goes under the pointer."""
        offset, around = event.get_content_offset(self), self._around
        if offset is None or around is None:
            return
        columns, rows, each = self._window(around)
        column, row = (offset.x - GUTTER) // COLUMN, (offset.y - 1) // each
        if offset.x >= GUTTER and offset.y >= 1 and column < len(columns) and row < len(rows):
            self._cursor = (columns[column], rows[row])
            self.refresh()

    def _window(self, around: Around) -> tuple[range, range, int]:
        """Columns and rows that are shown around the cursor, and lines a row."""
        column, row = self._place()
        lines = self.size.height - 2
        each = 2 if lines >= 2 * min(len(around.lengths), 5) else 1
        across = min(len(around.batches), max(1, (self.size.width - GUTTER) // COLUMN))
        down = min(len(around.lengths), max(1, lines // each))
        left = max(0, min(column - across // 2, len(around.batches) - across))
        top = max(0, min(row - down // 2, len(around.lengths) - down))
        return range(left, left + across), range(top, top + down), each

    def render(self) -> RenderResult:
        around = self._around
        if around is None:
            return Content.styled("computing …", "dim")
        columns, rows, each = self._window(around)
        head = Content.assemble(
            (f"{'length':>{GUTTER - 1}} ", "dim"),
            *((f"{f'×{around.batches[c]}':>{COLUMN - 1}} ", "bold dim") for c in columns),
        )
        lines = [head]
        for row in rows:
            label = (f"{around.lengths[row]:>{GUTTER - 1}} ", "bold dim")
            lines.append(Content.assemble(label, *(self._peak(around, column, row) for column in columns)))
            if each == 2:
                lines.append(Content.assemble(" " * GUTTER, *(self._speed(around, column, row) for column in columns)))
        lines.append(self._said(around))
        self.border_subtitle = "GiB, tokens/s" if each == 2 else "GiB"
        return Content("\n").join(lines)

    def _peak(self, around: Around, column: int, row: int) -> Content:
        spot = around.spots[row][column]
        text = f"{spot.device_bytes / 2**30:.1f}" if spot.device_bytes < 999.5 * 2**30 else "1000+"
        own = (around.batches[column], around.lengths[row]) == (around.batch, around.length)
        style = fit_style(around, spot)
        here = (column, row) == self._place()
        if own or (here and self.has_focus):
            text, look = f"{'▸' if own else '›'}{text}", f"bold reverse {style}"
        else:
            look = f"{style} on {GROUNDS[style]} {heat(around, spot)}%"
        return Content.assemble((f"{text:>{COLUMN - 1}}", look), " ")

    def _speed(self, around: Around, column: int, row: int) -> Content:
        spot = around.spots[row][column]
        style = fit_style(around, spot)
        text = speed_text(spot.tokens_per_second)
        return Content.assemble((f"{text:>{COLUMN - 1}}", f"dim on {GROUNDS[style]} {heat(around, spot)}%"), " ")

    def _said(self, around: Around) -> Content:
        column, row = self._place()
        spot = around.spots[row][column]
        speed = "" if spot.tokens_per_second is None else f", {spot.tokens_per_second:,.0f} tokens/s"
        word = {"$text-success": "fits", "$text-warning": "tight"}.get(fit_style(around, spot), "too much")
        return Content.assemble(
            (f"{around.batches[column]} × {around.lengths[row]:,}", "bold"),
            f": {figures.short_bytes(spot.device_bytes)} ",
            (word, fit_style(around, spot)),
            (speed, "dim"),
        )


def fit_style(around: Around, spot: Spot) -> str:
    """Green, yellow or red, as the verdicts."""
    if spot.device_bytes > around.budget_bytes:
        return "$text-error"
    return "$text-warning" if spot.upper_bytes > around.budget_bytes else "$text-success"


def heat(around: Around, spot: Spot) -> int:
    """How strongly the ground is coloured, in percent: the more of the budget, the more."""
    return 8 + round(22 * min(1.0, spot.device_bytes / max(around.budget_bytes, 1)))


def speed_text(tokens_per_second: float | None) -> str:
    """Five characters at most."""
    if tokens_per_second is None:
        return "–"
    if tokens_per_second < 1000:
        return f"{tokens_per_second:.0f}"
    return f"{tokens_per_second / 1000:.1f}k" if tokens_per_second < 99_950 else f"{tokens_per_second / 1000:.0f}k"
