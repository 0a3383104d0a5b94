"""Step 5: the run. Curves, numbers, memory, log and sample; pause, resume and stop."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import RichLog, Static

from planner.contract.units import format_bytes
from planner.tui import figures, live, run_texts
from planner.tui.live import RunSnapshot
from planner.tui.screens.base import DIGITS, WizardScreen
from planner.tui.widgets.charts import Curves

PHASE_STYLES = {"paused": "bold $text-warning", "stopping": "bold $text-warning", "failed": "bold $text-error"}
BAR_WIDTH = 9
SPINNER = "◐◓◑◒"
DRAW_EVERY = 0.2
"""Seconds between two pictures at the least."""
FOLLOWED = "Started elsewhere, so it can't be paused here: s stops it with a checkpoint, then r resumes it here."


class LiveScreen(WizardScreen):
    """Shows the run's snapshot as it grows."""

    PLACE = 4
    HELP_TEXT = (
        "The run. The trainer is a process of its own: p pauses it after the step and lets it go on, s stops it "
        "after the step with a checkpoint. c shows the next curve (loss, memory, tokens/s, learning rate, gradient "
        "norm; where there is room several stand side by side), l changes between "
        "log and sample where both have no room. Leaving with q asks whether the run shall go on.\n\nThe peak in "
        "tensors is the most bytes that the run's numbers took so far, predicted and measured; the percentage says "
        "how far off the prediction is. device (process, on a CPU) is everything: tensors, spare blocks and libraries."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *DIGITS,
        Binding("p", "pause", "Pause/resume", id="live.pause", tooltip="Pause after the step, or go on"),
        Binding("s", "stop", "Stop", id="live.stop", tooltip="Stop after the step, with a checkpoint"),
        Binding("c", "curve", "Curve", id="live.curve", tooltip="Loss, memory, speed, rate, norm"),
        Binding("l", "log", "Log/sample", id="live.log", tooltip="Show the log or the latest sample"),
        Binding("escape", "ignore", "Back", show=False, id="live.noback", tooltip="There is no way back from a run"),
    ]

    def body(self) -> ComposeResult:
        yield Static("", id="status", markup=False)
        with Horizontal(classes="panes", id="upper"):
            with Grid(id="charts"):
                yield Curves(id="curves")
                for name, view in (("memory", "memory"), ("speed", "tokens/s"), ("norm", "gradient norm")):
                    yield Curves(view, id=f"curve-{name}", classes="more")
            with Vertical(id="numbers", classes="pane"):
                yield Static("", id="numbers-text", markup=False)
        with Horizontal(classes="panes", id="lower"):
            yield RichLog(id="log", classes="pane", max_lines=live.LOG_LINES, wrap=True, min_width=0)
            with VerticalScroll(id="sample", classes="pane"):
                yield Static("", id="sample-text", markup=False)

    def on_mount(self) -> None:
        self._logged: tuple[str, ...] = ()
        self._sampled: object = None
        self._due, self._drawn = False, 0.0
        self.query_one("#numbers").border_title = "Numbers"
        self.query_one("#log").border_title = "Log"
        self.query_one("#sample").border_title = "Samples"
        self.watch(self.app, "run_snapshot", self._show)
        self.set_interval(1.0, self._tick)

    def _show(self) -> None:
        """Draws at once, or a little later where it has just been drawn: steps may be shorter than a picture takes."""
        if self._due:
            return
        wait = DRAW_EVERY - (time.monotonic() - self._drawn)
        if wait <= 0:
            self._draw()
        else:
            self._due = True
            self.set_timer(wait, self._draw)

    def _draw(self) -> None:
        self._due, self._drawn = False, time.monotonic()
        run: RunSnapshot | None = self.wizard_app.run_snapshot
        if run is None or not self.is_current:
            return
        self._tick()
        for chart in self.query(Curves):
            if chart.display:
                chart.run = run
        self.query_one("#numbers-text", Static).update(numbers_text(run))
        if run.samples != self._sampled:
            self._sampled = run.samples
            self.query_one("#sample-text", Static).update(samples_text(run))
        self._write_log(run.log)

    def _tick(self) -> None:
        """The clock goes on between events."""
        run = self.wizard_app.run_snapshot
        if run is not None and self.is_current:
            self.query_one("#status", Static).update(status_line(run, self.size.width - 2, time.time()))

    def _write_log(self, lines: tuple[str, ...]) -> None:
        log = self.query_one("#log", RichLog)
        known = self._logged
        if lines[: len(known)] == known:
            fresh = lines[len(known) :]
        else:
            log.clear()
            fresh = lines
        self._logged = lines
        for line in fresh:
            log.write(Text(line))

    def on_resize(self) -> None:
        """Lines are wrapped when they are written, so another width writes them again."""
        super().on_resize()
        self.query_one("#log", RichLog).clear()
        self._logged = ()
        self.call_after_refresh(self._show)

    def on_screen_resume(self) -> None:
        """A new run may have begun meanwhile."""
        self._drawn = 0.0
        self.set_focus(self.query_one("#log", RichLog))
        self.query_one("#log").border_subtitle = live.near_path(self.wizard_app.run_folder)
        self.say("" if self.wizard_app.may_pause else FOLLOWED)
        self.refresh_bindings()
        self._show()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Pausing is offered where the trainer listens to this wizard."""
        return action != "pause" or self.wizard_app.may_pause

    def action_pause(self) -> None:
        """Pauses a run that goes on, resumes a paused one."""
        self.wizard_app.pause_or_resume()

    def action_stop(self) -> None:
        """Stops the run after its step."""
        self.wizard_app.stop_run()

    def action_curve(self) -> None:
        """The next curve."""
        self.query_one(Curves).next_view()

    def action_log(self) -> None:
        """Log or sample, where the terminal has room for one of them."""
        self.toggle_class("show-sample")

    def action_ignore(self) -> None:
        """Says what to do instead."""
        self.say("s stops the run, q leaves and asks whether it shall go on")


def samples_text(run: RunSnapshot) -> Content:
    """What the model wrote at each evaluation, the newest first."""
    if not run.samples:
        return Content.styled("none yet: each evaluation writes one", "dim")
    parts: list[str | tuple[str, str]] = []
    for step, text in reversed(run.samples):
        parts += [(f"step {step}\n", "bold $accent"), f"{text}\n\n"]
    return Content.assemble(*parts)


def status_line(run: RunSnapshot, width: int, now: float) -> Content:
    """Phase, step, a progress bar and the time so far in one line; a sign that moves says that it is alive."""
    label = f" {run.phase.upper()} "
    where = f" {run.doing}" if run.phase != "running" or run.doing != "training" else ""
    steps = f" step {run.step}/{run.total_steps}" if run.total_steps else ""
    clock = run_texts.elapsed(run, now)
    alive = SPINNER[int(now) % len(SPINNER)] if run.phase in ("starting", "running", "stopping") else ""
    steps += f" {alive} {clock}" if clock else f" {alive}"
    room = max(0, min(40, width - len(label) - len(where) - len(steps) - 2))
    done = figures.filled(run.step, run.total_steps, room)
    return Content.assemble(
        (label, PHASE_STYLES.get(run.phase, "bold $text-success") + " reverse"),
        steps,
        " ",
        ("█" * done, "$success"),
        ("░" * (room - done), "dim"),
        (where, "dim"),
    )


def numbers_text(run: RunSnapshot) -> Content:
    """Every figure, and predicted beside measured memory as bars on one scale."""
    parts: list[str | tuple[str, str]] = []
    for name, text in run_texts.figures(run):
        parts += [(f"{name:<14}", "dim"), (f"{text}\n", "bold")]
    parts += [(f"{'peak in tensors':<18}", "dim"), (f"{run_texts.deviation_text(run)}\n", "bold")]
    lines = run_texts.memory_lines(run)
    full = max((size or 0 for _, size in lines), default=0)
    for name, size in lines:
        cells = figures.filled(size or 0, full, BAR_WIDTH)
        text = format_bytes(size) if size else "–"
        color = "$accent" if name == "predicted" else "$success"
        parts += [(f"{name:<10}", "dim"), ("█" * cells, color), f" {text}\n"]
    parts += [(f"{run_texts.holder(run):<8}", "dim"), run_texts.device_text(run)]
    return Content.assemble(*parts)
