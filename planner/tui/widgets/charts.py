"""The curves of a run; the one place that knows the plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.reactive import reactive
from textual_plotext import PlotextPlot

from planner.contract.units import GIB, MIB
from planner.tui.live import RunSnapshot

VIEWS = ("loss", "memory", "tokens/s", "learning rate", "gradient norm")
SMOOTH = 24
"""Points from which the loss is drawn smoothed too."""


class Curves(PlotextPlot):
    """Loss (train and evaluation), learning rate or tokens/s over the optimizer steps."""

    run: reactive[RunSnapshot | None] = reactive(None, init=False)
    view: reactive[str] = reactive("loss", init=False)

    def __init__(self, view: str = "loss", **options: Any) -> None:
        super().__init__(**options)
        self.set_reactive(Curves.view, view)

    def watch_run(self) -> None:
        """A new snapshot: draw again."""
        self._draw()

    def watch_view(self) -> None:
        """Another curve was asked for."""
        self._draw()

    def on_mount(self) -> None:
        super().on_mount()
        self.border_title = self.view
        self._draw()

    def next_view(self) -> None:
        """Loss, learning rate, tokens/s, and round again."""
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]

    def _draw(self) -> None:
        run, plot = self.run, self.plt
        plot.clear_data()
        plot.clear_figure()
        self.border_title = self.view
        curves = [] if run is None else self._curves(run)
        for points, label, color, marker in curves:
            if points:
                plot.plot([x for x, _ in points], [y for _, y in points], label=label, color=color, marker=marker)
        if any(points for points, *_ in curves):
            steps = [x for points, *_ in curves for x, _ in points]
            low, high = min(steps), max(steps)
            plot.xlim(low, high if high > low else low + 1)
            values = [y for points, *_ in curves for _, y in points]
            if min(values) == max(values):
                room = 0.05 * abs(values[0]) or 1.0
                plot.ylim(values[0] - room, values[0] + room)
            ticks = sorted({float(int(low + (high - low) * share)) for share in (0, 0.25, 0.5, 0.75, 1)})
            plot.xticks(ticks, [str(int(tick)) for tick in ticks])
        self.border_subtitle = "step" if any(points for points, *_ in curves) else "waiting for the first step"
        self.refresh()

    def _curves(self, run: RunSnapshot) -> list[tuple[tuple[tuple[float, float], ...], str | None, str, str]]:
        if self.view == "loss":
            smooth = smoothed(run.train) if len(run.train) >= SMOOTH else ()
            raw = "gray" if smooth else "cyan"
            return [
                (run.train, "train", raw, "braille"),
                (smooth, "smoothed", "cyan", "braille"),
                (run.evals, "eval", "orange", "dot"),
            ]
        if self.view == "memory":
            unit, name = (GIB, "GiB") if (run.predicted_bytes or 0) >= GIB else (MIB, "MiB")
            measured = tuple((x, y / unit) for x, y in run.memory)
            ends = (measured[0][0], measured[-1][0]) if measured else ()
            planned = tuple((x, run.predicted_bytes / unit) for x in ends) if run.predicted_bytes else ()
            return [(planned, f"predicted {name}", "orange", "braille"), (measured, "measured", "green", "braille")]
        if self.view == "learning rate":
            return [(run.learning_rates, None, "green", "braille")]
        if self.view == "gradient norm":
            return [(run.norms, None, "blue", "braille")]
        planned_speed = run.planned_speed
        ends = (run.speeds[0][0], run.speeds[-1][0]) if run.speeds else ()
        planned = tuple((x, planned_speed) for x in ends) if planned_speed else ()
        return [(planned, "planned", "orange", "braille"), (run.speeds, None, "magenta", "braille")]


def smoothed(points: Sequence[tuple[float, float]], share: float = 0.1) -> tuple[tuple[float, float], ...]:
    """The moving mean that forgets a tenth at each point."""
    found: list[tuple[float, float]] = []
    mean = points[0][1]
    for x, y in points:
        mean += share * (y - mean)
        found.append((x, mean))
    return tuple(found)
