"""The runs of the output folder: listed, sorted, opened, and compared with one another."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from planner.tui.comparing import MOST, Compared, sort_key
from planner.tui.curves import RUN_COLORS
from planner.tui.history import PastRun
from planner.tui.widgets.charts import ChartKeys, Curves

ORDERS = ("time", "loss", "name")
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
            yield OptionList(compact=True, markup=False)

    def on_mount(self) -> None:
        self._fill(0)
        self.set_focus(self.query_one(OptionList))

    def _fill(self, place: int) -> None:
        listing = self.query_one(OptionList)
        self.runs.sort(key=lambda run: sort_key(self.order, run))
        listing.set_options([Option(self._line(run), id=str(number)) for number, run in enumerate(self.runs)])
        listing.highlighted = place

    def _line(self, run: PastRun) -> Content:
        if run not in self.marked:
            return Content.assemble("  ", run.line)
        return Content.assemble(("● ", RUN_COLORS[self.marked.index(run)]), run.line)

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
            for name, view in (("memory", "tokens/s"), ("speed", "memory"), ("norm", "learning rate")):
                yield Curves(view, id=f"curve-{name}", classes="more")
        with VerticalScroll(id="table", classes="pane"):
            yield Static(table_text(self.found), id="table-text", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        for chart in self.query(Curves):
            chart.runs = self.found.runs
        self.query_one("#table").border_title = "What differs"
        self.set_focus(self.query_one("#table"))

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
