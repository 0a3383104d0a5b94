"""Memory over one step: what is alive from loading to the update, moment by moment, against the budget."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click

from planner.contract.units import GIB, MIB
from planner.memory.course import Course
from planner.tui import figures, picture
from planner.tui.theme import color_of, place_of
from planner.tui.widgets.panels.base import Panel
from planner.tui.work import Evaluation

GUTTER = 6
HELD = ("context", "fragmentation")
"""The lowest layers: what is held beside the tensors, by the driver and by the allocator."""
HALF, BROKEN = 0.4, 0.8
"""Where the least of a step is more than this share of the scale, the axis begins at so much of it."""
FAR = 2.5
"""Beyond this multiple of the peak the budget is no longer drawn: the area would be a line."""


class StepPanel(Panel, can_focus=True):
    """A stacked area with a cursor; the lowest layers are what context and allocator hold beside the tensors."""

    NAME, TITLE, TAB, JUMP = "step", "Memory over one step", "Memory", "m"
    BINDING_GROUP_TITLE = "Step"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Moment", key_display="←→", id="step.left", tooltip="The moment before"),
        Binding("right,l", "move(1)", "Later", show=False, id="step.right", tooltip="The moment after"),
        Binding("up,k", "instant(-1)", "Instant", key_display="↑↓", id="step.up", tooltip="The instant before"),
        Binding("down,j", "instant(1)", "Next instant", show=False, id="step.down", tooltip="The instant after"),
        Binding("home,enter", "peak", "Peak", key_display="⏎", id="step.peak", tooltip="To the binding moment"),
    ]

    def on_mount(self) -> None:
        self.name_it()
        self._course: Course | None = None
        self._evaluation: Evaluation | None = None
        self._cursor: int | None = None
        """The event under the cursor; None: the binding one."""

    def show(self, course: Course | None, evaluation: Evaluation | None) -> None:
        """Another step."""
        if course is not self._course:
            self._cursor = None
        self._course, self._evaluation = course, evaluation
        self.refresh()

    # ------------------------------------------------------------------------------------------------------- moving

    def _axis(self) -> picture.Axis | None:
        width = self.size.width - GUTTER
        return None if self._course is None or width < 24 else picture.axis(self._course, width)

    def _event(self) -> int:
        assert self._course is not None
        return int(self._course.totals.argmax()) if self._cursor is None else self._cursor

    def action_move(self, by: int) -> None:
        """A column to the left or right."""
        places = self._axis()
        if places is not None:
            column = picture.column_of(places, self._event())
            self._cursor = places.events[max(0, min(column + by, len(places.events) - 1))]
            self.refresh()

    def action_instant(self, by: int) -> None:
        """The largest moment of the instant before or after."""
        if self._course is None:
            return
        _, first, _ = self._course.instant_at(self._event())
        starts = [start for _, start in self._course.instants]
        place = max(0, min(starts.index(first) + by, len(starts) - 1))
        _, first, stop = self._course.instant_at(starts[place])
        self._cursor = first + int(self._course.totals[first:stop].argmax())
        self.refresh()

    def action_peak(self) -> None:
        """To the moment that sets the peak."""
        self._cursor = None
        self.refresh()

    def on_click(self, event: Click) -> None:
        """The cursor goes under the pointer."""
        places = self._axis()
        offset = event.get_content_offset(self)
        if places is not None and offset is not None and 0 <= offset.x - GUTTER < len(places.events):
            self._cursor = places.events[offset.x - GUTTER]
            self.refresh()

    # ------------------------------------------------------------------------------------------------------ showing

    def render(self) -> RenderResult:
        course, places = self._course, self._axis()
        report = None if self._evaluation is None else self._evaluation.report
        if course is None or places is None or report is None:
            self.border_subtitle = ""
            unknown = self._evaluation is not None and report is None
            return Content.styled("no step to show: it can't be planned" if unknown else "computing …", "dim")
        memory = report.memory
        beside = max(0, memory.device_peak_bytes - int(course.totals.max()))
        context = min(beside, memory.components.get("context", 0))
        held = (context, beside - context)
        peak = memory.device_peak_bytes
        budget_shown = memory.budget_bytes <= FAR * peak
        highest = max(peak, memory.budget_bytes if budget_shown else 0)
        least = beside + int(course.totals[course.instants[1][1] :].min())
        floor = int(BROKEN * least) if least > HALF * highest else 0
        full = (highest - floor) * 1.04
        rows = self.size.height - 2
        order = sorted(range(len(course.components)), key=lambda row: place_of(course.components[row]))
        names = (*HELD, *(course.components[row] for row in order))
        columns = list(places.events)
        live = course.live[np.ix_(order, columns)]
        heights = np.vstack([*(np.full(len(columns), size) for size in held), live]).astype(np.float64)
        heights = picture.above(heights, floor)
        colors = [color_of(name) for name in names]
        cursor = picture.column_of(places, self._event())
        budget_row = rows - 1 - min(rows - 1, int((memory.budget_bytes - floor) / full * rows)) if budget_shown else -1
        lines = []
        for number, row in enumerate(picture.stacked(heights, full, rows)):
            label = self._label(number, rows, (floor, full), budget_row, memory.budget_bytes)
            lines.append(Content.assemble(label, *_line(row, colors, cursor, number == budget_row)))
        lines.append(self._names(places, memory.binding_instant))
        lines.append(self._alive(held, peak))
        where, _, _ = course.instant_at(self._event())
        at = f"peak in {memory.binding_instant}" if self._cursor is None else f"cursor in {where}"
        self.border_subtitle = f"{_unit(full + floor)[1]} · {at}"
        return Content("\n").join(lines)

    def _label(self, row: int, rows: int, scale: tuple[int, float], budget_row: int, budget: int) -> tuple[str, str]:
        """The value at the left of a row, as precise as neighbours need; `≈` where the axis begins above zero."""
        floor, full = scale
        unit, every = _unit(full + floor)[0], max(2, rows // 5)
        digits = 2 if full * every / rows < 0.1 * unit and full + floor < 100 * unit else 1
        if row == budget_row:
            return _in_gutter(budget / unit, digits), "$text-error"
        if floor and row == rows - 1:
            return _in_gutter(floor / unit, digits, "≈"), "dim"
        if row % every == 0 and abs(row - budget_row) > 1 and not (floor and row > rows - 1 - every):
            return _in_gutter((floor + full * (rows - row - 0.5) / rows) / unit, digits), "dim"
        return " " * GUTTER, ""

    def _names(self, places: picture.Axis, binding: str) -> Content:
        parts: list[str | tuple[str, str]] = [" " * GUTTER]
        for place, (name, _, width) in enumerate(places.instants):
            text = ("│" if place else "") + name
            shown = text if len(text) <= width else text[: width - 1] + "…" if width > 3 else text[:width]
            parts.append((shown.ljust(width), "bold" if name == binding else "dim"))
        return Content.assemble(*parts)

    def _alive(self, held: tuple[int, ...], peak: int) -> Content:
        """What is alive under the cursor: the largest parts that have room in one line."""
        course, event = self._course, self._event()
        assert course is not None
        sizes = {
            **dict(zip(HELD, held, strict=True)),
            **dict(zip(course.components, course.live[:, event].tolist(), strict=True)),
        }
        total = sum(sizes.values())
        mark = "▼" if total >= peak else "┃"
        parts: list[str | tuple[str, str]] = [(f"{mark} {figures.short_bytes(total)}", "bold")]
        room = self.size.width - len(f"{mark} {figures.short_bytes(total)}")
        for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
            text = f"{figures.short_name(name)} {figures.short_bytes(size)}"
            if not size or room < len(text) + 3:
                break
            room -= len(text) + 3
            parts += [(" ■ ", color_of(name)), text]
        return Content.assemble(*parts)


def _in_gutter(value: float, digits: int, sign: str = "") -> str:
    """A value at the left of the picture, with fewer digits where it would not have room."""
    texts = [f"{sign}{value:.{number}f}" for number in range(digits, -1, -1)]
    return f"{next((text for text in texts if len(text) < GUTTER), texts[-1]):>{GUTTER - 1}} "


def _unit(highest: float) -> tuple[int, str]:
    """The unit of the axis, in bytes and by name."""
    return (GIB, "GiB") if highest >= GIB else (MIB, "MiB")


def _line(row: list[picture.Glyph], colors: list[str], cursor: int, budget: bool) -> list[tuple[str, str]]:
    """One row of the area; the budget's line goes over it, the cursor through it."""
    parts: list[tuple[str, str]] = []
    before, at, after = row[:cursor], row[cursor], row[cursor + 1 :]
    for stretch, here in ((before, False), ([at], True), (after, False)):
        for cell, count in picture.runs(stretch):
            parts.append(_cells(cell, count, colors, here, budget))
    return parts


def _cells(cell: picture.Glyph, count: int, colors: list[str], cursor: bool, budget: bool) -> tuple[str, str]:
    behind = colors[cell.above] if cell.above != picture.NOTHING else ""
    if cell.below == picture.NOTHING:
        if cursor:
            return "┆", "$text"
        return ("╌" * count, "$text-error") if budget else (" " * count, "")
    if cursor:
        return "┃", f"$text on {colors[cell.below] if cell.eighths >= 4 or not behind else behind}"
    if budget:
        return "╌" * count, f"$text-error on {colors[cell.below]}"
    style = colors[cell.below] + (f" on {behind}" if behind else "")
    return picture.EIGHTHS[cell.eighths] * count, style
