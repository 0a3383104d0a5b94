"""A chart of curves over the optimizer steps: logarithmic where wanted, zoomed, with a cursor that reads values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.reactive import reactive
from textual.screen import Screen
from textual.widget import Widget

from planner.tui import plot
from planner.tui.curves import DEVICE, LEAST, MOST_ZOOM, VIEWS, Look, compared, curves_of, title
from planner.tui.live import RunSnapshot
from planner.tui.plot import Curve

MORE_CURVES = (
    *(("memory", "memory"), ("speed", "tokens/s"), ("norm", "gradient norm")),
    *(("rate", "learning rate"), ("device", DEVICE)),
)
"""Name and view of the charts that stand beside the first where there is room; in their order."""
GUTTER = 9
"""Columns for the values at the left."""


class Curves(Widget):
    """One view of a run, or of several over one another."""

    run: reactive[RunSnapshot | None] = reactive(None)
    runs: reactive[tuple[tuple[str, RunSnapshot], ...]] = reactive(())
    """Several named runs, where they are compared."""
    view: reactive[str] = reactive("loss")
    look: reactive[Look] = reactive(Look())

    def __init__(self, view: str = "loss", **options: Any) -> None:
        super().__init__(**options)
        self.set_reactive(Curves.view, view)

    def next_view(self) -> None:
        """Loss, memory, tokens/s, learning rate, gradient norm, the device where it tells, and round again."""
        shown = [run for _, run in self.runs] or ([] if self.run is None else [self.run])
        views = (*VIEWS, DEVICE) if any(run.loads or run.heats for run in shown) else VIEWS
        self.view = views[(views.index(self.view) + 1) % len(views)] if self.view in views else views[0]

    def curves(self) -> list[Curve]:
        """What is drawn."""
        if self.runs:
            return compared(self.view, self.runs)
        return [] if self.run is None else curves_of(self.view, self.run)

    def on_mount(self) -> None:
        """Its first title."""
        self._headline()

    def watch_run(self) -> None:
        """Another snapshot."""
        self._headline()

    def watch_runs(self) -> None:
        """Other runs."""
        self._headline()

    def watch_view(self) -> None:
        """Another view."""
        self._headline()

    def watch_look(self) -> None:
        """Another look."""
        self._headline()

    def _headline(self) -> None:
        """What stands in the border: the colours' meanings, and what the cursor reads."""
        curves = self.curves()
        self.border_title = self._meanings(curves)
        log = self.look.log and all(y > 0 for curve in curves for _, y in curve.points)
        named = self._readings(curves) or ("step, log scale" if log else "step")
        self.border_subtitle = named if curves else "waiting for the first step"

    def render(self) -> RenderResult:
        curves = self.curves()
        width, height = self.size.width - GUTTER, self.size.height - 1
        steps = [x for curve in curves for x, _ in curve.points]
        if not steps or width < 8 or height < 2:
            return Content("")
        seen = plot.window(
            curves, log=self.look.log, part=self.look.part(min(steps), max(steps)), least=LEAST.get(self.view, 0.0)
        )
        assert seen is not None
        cells = plot.draw(curves, seen, width, height)
        cursor = self._column(seen, width)
        values = dict(plot.ticks(seen, height))
        parts: list[Content | str | tuple[str, str]] = []
        for number, row in enumerate(cells):
            parts.append((f"{values.get(number, ''):>{GUTTER - 2}} ", "dim"))
            parts.append(("┤" if number in values else "│", "dim"))
            parts += _runs(row, cursor)
            parts.append("\n")
        parts.append((" " * (GUTTER - 1) + "└" + _under(plot.step_ticks(seen, width), width), "dim"))
        return Content.assemble(*parts)

    def _meanings(self, curves: Sequence[Curve]) -> Content:
        """The view's name and what each colour means."""
        repeats = bool(self.runs) and self.has_class("more")  # the first chart names the runs for all
        named = [curve for curve in curves if curve.name and not repeats]
        parts: list[str | tuple[str, str]] = [title(self.view, None if self.runs else self.run)]
        for curve in named:
            parts += ["  ", ("● " if curve.marks else "━ ", curve.color), (curve.name, "dim")]
        return Content.assemble(*parts)

    def _readings(self, curves: Sequence[Curve]) -> Content | None:
        """What the curves say at the cursor."""
        if self.look.cursor is None:
            return None
        parts: list[str | tuple[str, str]] = [f"step {self.look.cursor:,.0f}"]
        for curve in curves:
            point = plot.at(curve.points, self.look.cursor)
            if point is not None:
                parts += [" ", (plot.short(point[1]), f"bold {curve.color}")]
        return Content.assemble(*parts)

    def _column(self, seen: plot.Seen, width: int) -> int | None:
        cursor = self.look.cursor
        if cursor is None or not seen.first <= cursor <= seen.last:
            return None
        return round((cursor - seen.first) / (seen.last - seen.first) * (width - 1))


def _runs(row: Sequence[plot.Cell], cursor: int | None) -> list[tuple[str, str]]:
    """Neighbours of one colour together; the cursor is a line behind the curves."""
    found: list[tuple[str, str]] = []
    for column, (character, color) in enumerate(row):
        if column == cursor and character == " ":
            character, color = "┊", "$foreground 40%"
        if found and found[-1][1] == color:
            found[-1] = (found[-1][0] + character, color)
        else:
            found.append((character, color))
    return found


def _under(steps: Sequence[tuple[int, str]], width: int) -> str:
    line = ["─"] * width
    for left, text in steps:
        line[left : left + len(text)] = text
    return "".join(line[:width])


class ChartKeys(Screen[Any]):
    """The keys with which a screen's charts are looked at, all of them alike."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "curve", "Curve", id="chart.curve", tooltip="Loss, memory, speed, rate, norm"),
        Binding("y", "log_scale", "Log scale", show=False, id="chart.log",
                tooltip="Values on a logarithmic scale, or plain"),
        Binding("plus,equals_sign", "zoom(1)", "Zoom in", show=False, key_display="+", id="chart.in",
                tooltip="Half as many steps: the newest, or those around the cursor"),
        Binding("minus", "zoom(-1)", "Zoom out", show=False, key_display="-", id="chart.out",
                tooltip="Twice as many steps"),
        Binding("left,h", "cursor(-1)", "Cursor", show=False, key_display="←→", id="chart.left",
                tooltip="Reads the curves' values, step by step"),
        Binding("right", "cursor(1)", "Later", show=False, id="chart.right", tooltip="The step after"),
        Binding("0", "whole", "Whole", show=False, id="chart.whole", tooltip="Every step again, no cursor"),
    ]  # fmt: skip

    def _look(self, look: Look) -> None:
        for chart in self.query(Curves):
            chart.look = look

    @property
    def look(self) -> Look:
        """How the charts are looked at."""
        return self.query(Curves).first().look

    def action_curve(self) -> None:
        """The next curve."""
        self.query(Curves).first().next_view()

    def action_log_scale(self) -> None:
        """Values on a logarithmic scale, or on a plain one again."""
        self._look(replace(self.look, log=not self.look.log))

    def action_zoom(self, by: int) -> None:
        """Half or twice as many steps."""
        self._look(replace(self.look, zoom=max(0, min(MOST_ZOOM, self.look.zoom + by))))

    def action_whole(self) -> None:
        """Every step, no cursor."""
        self._look(Look(log=self.look.log))

    def action_cursor(self, by: int) -> None:
        """To the point before or after; from the newest on."""
        first = self.query(Curves).first()
        steps = sorted({x for curve in first.curves() for x, _ in curve.points})
        if not steps:
            return
        seen = max(1, len(steps) // 2**self.look.zoom)
        stride = max(1, seen // max(1, first.size.width - GUTTER))
        now = steps[-1] if self.look.cursor is None else self.look.cursor
        place = min(range(len(steps)), key=lambda index: abs(steps[index] - now))
        place = place if self.look.cursor is None else max(0, min(len(steps) - 1, place + by * stride))
        self._look(replace(self.look, cursor=steps[place]))
