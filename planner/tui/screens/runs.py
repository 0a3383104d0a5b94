"""The runs of the output folder: listed, sorted, opened, and compared with one another."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from planner.contract.words import one_line
from planner.tui import figures
from planner.tui.comparing import MOST, Compared, sort_key
from planner.tui.curves import RUN_COLORS
from planner.tui.history import PastRun
from planner.tui.screens.base import VAST, WIDE
from planner.tui.widgets.charts import ChartKeys, Curves
from planner.tui.widgets.key_line import KeyLine
from planner.tui.widgets.quiet_list import QuietList

COMPARED = (("memory", "tokens/s"), ("speed", "memory"), ("norm", "learning rate"), ("rate", "gradient norm"))
"""Place and view of the charts beside the loss."""
ORDERS = ("time", "loss", "name")
REST = {"state": 31, "eval loss": 10, "ago": 8}
"""Columns beside a run's name."""
STATE_STYLES = {"going on": "$text-success", "failed": "$text-error", "interrupted": "$text-warning"}
COLUMN, FIRST = 22, 22
"""Columns of one run and of a row's name in the table."""


class RunsScreen(ModalScreen[tuple[PastRun, ...]]):
    """Every run; returns the one that is opened, several that are compared, or none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer", "Back", id="runs.back", tooltip="Back to the step"),
        Binding("space", "mark", "Mark", id="runs.mark", tooltip="Marks the run for the comparison"),
        Binding("c", "compare", "Compare", id="runs.compare", tooltip="Compares the marked runs"),
        Binding("o", "order", "Order", id="runs.order", tooltip="By time, by evaluation loss, by name"),
    ]

    def __init__(self, runs: tuple[PastRun, ...]) -> None:
        super().__init__()
        self.runs = list(runs)
        self.order = ORDERS[0]
        self.marked: list[PastRun] = []
        """In the order in which they were marked."""

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as dialog:
            dialog.border_title = "Runs"
            dialog.border_subtitle = "⏎ opens · space marks · c compares · o order · esc back"
            yield Static("One that goes on is followed; one that ended early can be resumed.", id="runs-said",
                         markup=False)  # fmt: skip
            yield Static("", id="runs-header", markup=False)
            yield QuietList(compact=True, markup=False)

    def on_mount(self) -> None:
        self._fill(0)
        self.set_focus(self.query_one(OptionList))

    def _fill(self, place: int) -> None:
        listing = self.query_one(OptionList)
        self.runs.sort(key=lambda run: sort_key(self.order, run))
        room = max(20, min(self.app.size.width, WIDE) - 4 - 2 - sum(REST.values()))
        names = Content.assemble("  ", ("run".ljust(room), "dim"))
        header = "".join(_column(name, place) for place, name in enumerate(REST))
        self.query_one("#runs-header", Static).update(Content.assemble(names, (header, "dim")))
        lines = [self._line(run, room) for run in self.runs]
        listing.set_options([Option(line, id=str(number)) for number, line in enumerate(lines)])
        listing.highlighted = place

    def _line(self, run: PastRun, room: int) -> Content:
        mark = ("● ", RUN_COLORS[self.marked.index(run)]) if run in self.marked else ("  ", "")
        name = figures.row(one_line(run.folder.name), "", room)[:room]
        styles = (STATE_STYLES.get(run.state, ""), "", "dim")
        cells = [(_column(text, place), style)
                 for place, (text, style) in enumerate(zip(run.cells(time.time()), styles, strict=True))]  # fmt: skip
        return Content.assemble(mark, f"{name:<{room}}", *cells)

    def on_resize(self) -> None:
        """Another width: other columns."""
        place = self.query_one(OptionList).highlighted
        if place is not None:
            self._fill(place)

    def _current(self) -> PastRun | None:
        place = self.query_one(OptionList).highlighted
        return None if place is None else self.runs[place]

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss((self.runs[event.option_index],))

    def action_mark(self) -> None:
        """Marks the run under the cursor, or takes its mark back."""
        run = self._current()
        if run is None:
            return
        if run in self.marked:
            self.marked.remove(run)
        elif len(self.marked) < MOST:
            self.marked.append(run)
        else:
            self.query_one("#runs-said", Static).update(f"{MOST} runs are the most that are compared at once.")
        self._fill(min(self.runs.index(run), len(self.runs) - 1))

    def action_compare(self) -> None:
        """Compares the marked runs, the one under the cursor among them."""
        run = self._current()
        chosen = self.marked if run is None or run in self.marked or len(self.marked) > 1 else [*self.marked, run]
        if len(chosen) < 2:
            self.query_one("#runs-said", Static).update("Space marks the runs to compare; two or more.")
            return
        self.dismiss(tuple(chosen))

    def action_order(self) -> None:
        """Another order of the list."""
        run = self._current()
        self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        self.query_one("#runs-said", Static).update(f"By {self.order}.")
        self.runs.sort(key=lambda each: sort_key(self.order, each))
        self._fill(0 if run is None else self.runs.index(run))

    def action_answer(self) -> None:
        """None was chosen."""
        self.dismiss(())


def _column(text: str, place: int) -> str:
    """A text in its column beside the name; numbers stand at its right."""
    cells = list(REST.values())[place]
    return f" {text[: cells - 1]:<{cells - 1}}" if place == 0 else text.rjust(cells)


class CompareScreen(ChartKeys, ModalScreen[None]):
    """Curves of several runs over one another, and a table of what they came to and where they differ."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back", key_display="esc", id="compare.back", tooltip="Back to the step"),
    ]

    def __init__(self, found: Compared) -> None:
        super().__init__()
        self.found = found

    def compose(self) -> ComposeResult:
        with Grid(id="charts"):
            yield Curves(id="curves")
            for name, view in COMPARED:
                yield Curves(view, id=f"curve-{name}", classes="more")
        with VerticalScroll(id="table", classes="pane"):
            yield Static(table_text(self.found), id="table-text", markup=False)
        yield KeyLine(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        for chart in self.query(Curves):
            chart.runs = self.found.runs
        self.query_one("#table").border_title = "What differs"
        self.set_focus(self.query_one("#table"))

    def on_resize(self) -> None:
        """A wide screen names the charts' keys."""
        self.query_one(KeyLine).widen(self.size.width >= WIDE)
        self.set_class(self.size.width >= VAST, "-vast")

    def action_leave(self) -> None:
        """Back."""
        self.dismiss(None)


def table_text(found: Compared) -> Content:
    """Names, results and the settings that differ, a column for each run."""

    def cut(text: str) -> str:
        return f"{text if len(text) < COLUMN else text[: COLUMN - 2] + '…':<{COLUMN}}"

    parts: list[Any] = [" " * FIRST]
    for (name, _), color in zip(found.runs, RUN_COLORS, strict=False):
        parts.append((cut(name), f"bold {color}"))
    for title, rows in (("Results", found.results), ("Settings that differ", found.settings)):
        parts += ["\n", (title, "bold underline")]
        for name, texts in rows:
            parts += ["\n", (f"{name[: FIRST - 1]:<{FIRST}}", "dim"), *(cut(text) for text in texts)]
    if not found.settings:
        parts += ["\n", ("none: the same plan", "dim")]
    return Content.assemble(*parts)
