"""The memory of a plan as a bar against the budget, with what it is made of."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from planner.contract.units import format_bytes
from planner.decide.reasons import runs_inside
from planner.tui import figures
from planner.tui.work import Evaluation

COLORS = {
    "weights": "#5fafff",
    "adapters": "#af87ff",
    "gradients": "#ff87af",
    "optimizer_state": "#d787ff",
    "checkpoints": "#5fd7af",
    "layer_activations": "#87d75f",
    "attention": "#d7d75f",
    "lora_activations": "#ffd787",
    "logits_and_loss": "#ff875f",
    "temporaries": "#d7af87",
    "context": "#8a8a8a",
    "fragmentation": "#626262",
}
OTHERS = ("#00afaf", "#d7875f", "#87afaf", "#afaf5f")
VERDICT_STYLES = {"fits": "bold $text-success", "tight": "bold $text-warning", "does_not_fit": "bold $text-error"}


def color_of(component: str) -> str:
    """One colour for one component on every screen."""
    return COLORS.get(component) or OTHERS[sum(component.encode()) % len(OTHERS)]


class MemoryPane(Widget):
    """Verdict, bar, legend, binding instant, interval and speed of the current configuration."""

    evaluation: reactive[Evaluation | None] = reactive(None, layout=True)

    def on_mount(self) -> None:
        self.border_title = "Memory and speed"

    def render(self) -> RenderResult:
        evaluation = self.evaluation
        if evaluation is None:
            return Content.styled("computing …", "dim")
        if evaluation.report is None:
            return Content.assemble(("CAN'T BE PLANNED\n", "bold $text-error"), evaluation.error or "")
        report = evaluation.report
        memory = report.memory
        width = max(10, self.size.width)
        lines = [
            Content.assemble(
                (figures.VERDICTS[report.verdict], VERDICT_STYLES[report.verdict]),
                f" {format_bytes(memory.device_peak_bytes)} of {format_bytes(memory.budget_bytes)}",
                (f" {memory.device_peak_bytes / max(memory.budget_bytes, 1):.0%}", "dim"),
            ),
            self._bar(width),
            *self._legend(width),
            Content.assemble(
                ("peaks in ", "dim"),
                (memory.binding_instant, "bold"),
                (f"  {runs_inside(report.calibration)}: ", "dim"),
                figures.byte_range(*memory.interval_bytes),
            ),
            Content(figures.speed_line(report)),
            Content(figures.time_line(report, evaluation.whole_run)),
        ]
        return Content("\n").join(lines)

    def _bar(self, width: int) -> Content:
        assert self.evaluation is not None
        assert self.evaluation.report is not None
        bar = figures.memory_bar(self.evaluation.report.memory, width)
        parts: list[tuple[str, str]] = [("█" * cells, color_of(name)) for name, cells in bar.segments]
        over = bar.budget_cell < bar.width
        rest = bar.width - bar.used_cells
        likely = max(0, min(bar.upper_cell, bar.width) - bar.used_cells)
        parts.append(("▒" * likely, "dim"))
        parts.append(("░" * (rest - likely), "dim"))
        content = Content.assemble(*parts)
        if over:
            at = min(bar.budget_cell, width - 1)
            content = Content.assemble(content[:at], ("│", "bold reverse $text-error"), content[at + 1 :])
        return content

    def _legend(self, width: int) -> list[Content]:
        assert self.evaluation is not None
        assert self.evaluation.report is not None
        parts = figures.components(self.evaluation.report.memory)
        tall = self.app.size.height >= 32
        columns = 2 if width >= 40 else 1
        shown = parts if tall else parts[: 3 * columns]
        column = width // columns
        wide = column >= 32
        cells: list[Content] = []
        for name, size, _ in shown:
            label = name.replace("_", " ") if wide else figures.short_name(name)
            text = format_bytes(size) if wide else figures.short_bytes(size)
            gap = column - 3 - len(label) - len(text)
            cells.append(Content.assemble(("■ ", color_of(name)), label, " " * max(1, gap), text, " "))
        return [Content("").join(cells[place : place + columns]) for place in range(0, len(cells), columns)]
