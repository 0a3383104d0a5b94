"""Whether it fits: the peak as a bar against the budget, with what it is made of, and how fast it is."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive

from planner.contract.records import CheckReport
from planner.contract.units import format_bytes
from planner.decide.reasons import runs_inside
from planner.tui import figures
from planner.tui.theme import color_of
from planner.tui.widgets.panels.base import Panel
from planner.tui.work import Evaluation

VERDICT_STYLES = {"fits": "$success", "tight": "$warning", "does_not_fit": "$error"}
TALL = 32
"""Rows of the screen from which the legend names every component."""


class VerdictPanel(Panel):
    """Verdict, bar, legend, binding instant, interval and speed of the current configuration."""

    NAME, TITLE = "verdict", "Memory and speed"
    evaluation: reactive[Evaluation | None] = reactive(None, layout=True)

    def on_mount(self) -> None:
        self.name_it()

    def wanted(self, width: int) -> int:
        """The lines of the text."""
        return len(self._lines(max(10, width))) + 2

    def render(self) -> RenderResult:
        return Content("\n").join(self._lines(max(10, self.size.width)))

    def _lines(self, width: int) -> list[Content]:
        evaluation = self.evaluation
        if evaluation is None:
            return [Content.styled("computing …", "dim"), *[Content("")] * 7]
        if evaluation.report is None:
            said = Content(evaluation.error or "").wrap(width) if evaluation.error else []
            return [
                Content.styled(" CAN'T BE PLANNED ", "bold reverse $error"),
                *said,
                *[Content("")] * (7 - len(said)),
            ]
        report = evaluation.report
        tall = self.app.size.height >= TALL
        bar = memory_bar(report, width)
        return [
            self._verdict(report, width),
            *([bar, bar] if tall else [bar]),
            *legend(report, width, every=tall),
            self._peak(report, width),
            Content(figures.speed_line(report)),
            Content(figures.time_line(report, evaluation.whole_run)),
        ]

    def _peak(self, report: CheckReport, width: int) -> Content:
        """Where it peaks, and the interval; without what has no room."""
        memory = report.memory
        interval = figures.byte_range(*memory.interval_bytes)
        inside = f"  {runs_inside(report.calibration)}: "
        before = "peaks in " if len(f"peaks in {memory.binding_instant}{inside}{interval}") <= width else ""
        return Content.assemble((before, "dim"), (memory.binding_instant, "bold"), (inside, "dim"), interval)

    def _verdict(self, report: CheckReport, width: int) -> Content:
        memory = report.memory
        badge = f" {figures.VERDICTS[report.verdict]} "
        size = f" {format_bytes(memory.device_peak_bytes)} of {format_bytes(memory.budget_bytes)}"
        share = f" {memory.device_peak_bytes / max(memory.budget_bytes, 1):.0%}"
        spare = memory.budget_bytes - memory.device_peak_bytes
        left = f"{format_bytes(abs(spare))} {'free' if spare >= 0 else 'too much'}"
        if len(badge) + len(size) + len(share) > width:
            share = ""
        room = width - len(badge) - len(size) - len(share) - len(left)
        return Content.assemble(
            (badge, f"bold reverse {VERDICT_STYLES[report.verdict]}"),
            (size, "bold"),
            (share, "dim"),
            (" " * room + left if room > 1 else "", "dim"),
        )


SPECK = 1e-4
"""Share of the peak below which a component is named in the full list alone."""


def memory_bar(report: CheckReport, width: int) -> Content:
    """The peak's components in one line; `▒` reaches to the interval's upper end, a red line is the budget."""
    bar = figures.memory_bar(report.memory, width)
    parts: list[tuple[str, str]] = [("█" * cells, color_of(name)) for name, cells in bar.segments]
    over = bar.budget_cell < bar.width
    rest = bar.width - bar.used_cells
    likely = max(0, min(bar.upper_cell, bar.width) - bar.used_cells)
    parts.append(("▒" * likely, "dim"))
    parts.append(("░" * (rest - likely), "$border-blurred"))
    content = Content.assemble(*parts)
    if over:
        at = min(bar.budget_cell, width - 1)
        content = Content.assemble(content[:at], ("│", "bold reverse $text-error"), content[at + 1 :])
    return content


def legend(report: CheckReport, width: int, *, every: bool) -> list[Content]:
    """Components and their bytes in columns, the largest first."""
    parts = [part for part in figures.components(report.memory) if part[2] >= SPECK]
    columns = 3 if width >= 72 else 2 if width >= 40 else 1
    shown = parts if every else parts[: 3 * columns]
    column = width // columns
    wide = column >= 32
    cells: list[Content] = []
    for name, size, _ in shown:
        label = name.replace("_", " ") if wide else figures.short_name(name)
        text = format_bytes(size) if wide else figures.short_bytes(size)
        last = len(cells) % columns == columns - 1
        gap = column - 2 - len(label) - len(text) - (0 if last else 1)
        cells.append(
            Content.assemble(("■ ", color_of(name)), label, " " * max(1, gap), (text, "bold"), "" if last else " ")
        )
    return [Content("").join(cells[place : place + columns]) for place in range(0, len(cells), columns)]
