"""The curves of a run; the one place that knows the plotting library."""

from __future__ import annotations

from textual.reactive import reactive
from textual_plotext import PlotextPlot

from planner.tui.live import RunSnapshot

VIEWS = ("loss", "learning rate", "tokens/s")


class Curves(PlotextPlot):
    """Loss (train and evaluation), learning rate or tokens/s over the optimizer steps."""

    run: reactive[RunSnapshot | None] = reactive(None, init=False)
    view: reactive[str] = reactive("loss", init=False)

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
            return [(run.train, "train", "cyan", "braille"), (run.evals, "eval", "orange", "dot")]
        if self.view == "learning rate":
            return [(run.learning_rates, None, "green", "braille")]
        return [(run.speeds, None, "magenta", "braille")]
