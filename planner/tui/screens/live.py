"""Step 5: the run. Curves, numbers, memory, log and sample; pause, resume and stop."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.widgets import RichLog, Static

from planner.contract.control import Command
from planner.contract.units import format_bytes
from planner.tui import figures, live, run_texts
from planner.tui.curves import MEASURED, PLANNED
from planner.tui.live import AskedSample, RunSnapshot
from planner.tui.screens.adjust import AdjustScreen
from planner.tui.screens.base import DIGITS, WizardScreen
from planner.tui.widgets.charts import MORE_CURVES, ChartKeys, Curves
from planner.tui.widgets.hanging import MARK, Hanging

PHASE_STYLES = {"paused": "bold $text-warning", "stopping": "bold $text-warning", "failed": "bold $text-error"}
BAR_WIDTH = 9
SPINNER = "◐◓◑◒"
DRAW_EVERY = 0.2
"""Seconds between two pictures at the least."""
FOLLOWED = "Started elsewhere: it is watched and told from here; q leaves it going."
AGAIN = "x again stops the run after this step, with a checkpoint (r goes on from it); any other key lets it go on."


class LiveScreen(ChartKeys, WizardScreen):
    """Shows the run's snapshot as it grows."""

    PLACE = 4
    HELP_TEXT = (
        "The run. The trainer is a process of its own: p pauses it after the step and lets it go on, x (twice) stops "
        "it after the step with a checkpoint, s saves a checkpoint and goes on, e evaluates now, a adjusts the "
        "learning rate and the pace of the log. c shows the next curve (loss, memory, tokens/s, learning rate, "
        "gradient norm; where there is room several stand side by side), l changes between "
        "log and sample where both have no room. Leaving with q asks whether the run shall go on.\n\nThe peak in "
        "tensors is the most bytes that the run's numbers took so far, predicted and measured; the percentage says "
        "how far off the prediction is. device (process, on a CPU) is everything: tensors, spare blocks and libraries."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *DIGITS,
        Binding("p", "pause", "Pause", id="live.pause", tooltip="Pause after the step, or go on"),
        Binding("e", "evaluate", "Evaluate", id="live.evaluate", tooltip="Evaluate after the step"),
        Binding("s", "save", "Save", id="live.save", tooltip="Save a checkpoint after the step"),
        Binding("a", "adjust", "Adjust", id="live.adjust", tooltip="Change the learning rate or the log's pace"),
        Binding("x", "stop", "Stop", id="live.stop", tooltip="Stop after the step, with a checkpoint; asked twice"),
        Binding("l", "log", "Log", id="live.log", tooltip="Show the log or the latest sample"),
        Binding("escape", "ignore", "Back", show=False, id="live.noback", tooltip="There is no way back from a run"),
    ]

    def body(self) -> ComposeResult:
        yield Static("", id="status", markup=False)
        with Grid(classes="panes", id="run"):
            with Grid(id="charts"):
                yield Curves(id="curves")
                for name, view in MORE_CURVES:
                    yield Curves(view, id=f"curve-{name}", classes="more")
            with Vertical(id="numbers", classes="pane"):
                yield Static("", id="numbers-text", markup=False)
            with VerticalScroll(id="sample", classes="pane"):
                yield Hanging("", id="sample-text", markup=False)
            yield RichLog(id="log", classes="pane", max_lines=live.LOG_LINES, wrap=True, min_width=0)

    def on_mount(self) -> None:
        self._logged: tuple[str, ...] = ()
        self._sampled: object = None
        self._due, self._drawn = False, 0.0
        self._sure = False
        """Whether the next `x` stops the run."""
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
        self.set_class(bool(run.loads or run.heats), "-sensed")
        for chart in self.query(Curves):
            if chart.display:
                chart.run = run
        numbers = self.query_one("#numbers")
        self.query_one("#numbers-text", Static).update(numbers_text(run, numbers.size.height))
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
            log.write(log_line(line))

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
        self.say(FOLLOWED if self.wizard_app.attached else "")
        self._sure = False
        self.refresh_bindings()
        self._show()

    def on_key(self, event: Key) -> None:
        """Any key but `x` takes back what `x` asked."""
        if self._sure and event.key != "x":
            self._sure = False
            self.say()

    def action_pause(self) -> None:
        """Pauses a run that goes on, resumes a paused one."""
        self.wizard_app.pause_or_resume()

    def action_evaluate(self) -> None:
        """Passes the validation set through after the step."""
        self.wizard_app.tell_run(Command(command="evaluate"), "evaluating after this step")

    def action_save(self) -> None:
        """Writes a checkpoint after the step."""
        self.wizard_app.tell_run(Command(command="checkpoint"), "saving after this step")

    def action_adjust(self) -> None:
        """Asks for another learning rate or pace of the log."""
        run = self.wizard_app.run_snapshot
        if run is not None and not run.over:
            self.app.push_screen(AdjustScreen(run.peak_rate, run.logging_steps), self._adjusted)

    def _adjusted(self, commands: tuple[Command, ...] | None) -> None:
        for command in commands or ():
            self.wizard_app.tell_run(command, f"{command.command.replace('_', ' ')} {command.value:g} after this step")

    def action_stop(self) -> None:
        """Stops the run after its step, once it was asked for twice."""
        if self._sure:
            self.say()
            self.wizard_app.stop_run()
        else:
            self.say(AGAIN, error=True)
        self._sure = not self._sure

    def action_log(self) -> None:
        """Log or sample, where the terminal has room for one of them."""
        self.toggle_class("show-sample")

    def action_ignore(self) -> None:
        """Says what to do instead."""
        self.say("x stops the run, q leaves and asks whether it shall go on")


def log_line(line: str) -> Text:
    """A line of the log: its step recedes, what needs a look stands out."""
    text = Text(line)
    if line.startswith("warning: "):
        text.stylize("yellow")
    elif line.startswith("out of memory"):
        text.stylize("bold red")
    elif line.startswith("step ") and ":" in line:
        text.stylize("dim", 0, line.index(":") + 1)
    return text


LONGEST = 400
"""Characters of a sample's prompt and of what is expected that are shown."""


def samples_text(run: RunSnapshot) -> Content:
    """What was asked and expected, and what the model wrote at each evaluation, the newest first."""
    if not run.samples:
        return Content.styled("none yet: each evaluation writes one", "dim")
    parts: list[str | tuple[str, str]] = []
    losses, before = dict(run.evals), AskedSample()
    for (step, text), asked in zip(reversed(run.samples), reversed(run.asked), strict=True):
        if asked != before:
            for name, words in zip(("prompt", "expected"), asked, strict=True):
                cut = f"{words[:LONGEST]} …" if len(words) > LONGEST else words
                parts += [(f"{name:<9}{MARK}", "dim"), f"{cut.strip()}\n"] if words else []
            parts.append("\n")
            before = asked
        right = bool(asked.expected) and text.strip() == asked.expected.strip()
        loss = losses.get(step)
        parts += [
            (f"step {step}", "bold $accent"),
            ("" if loss is None else f"  eval loss {loss:.4f}", "dim"),
            (("  ✓ right" if right else ""), "$success"),
            f"\n{text.strip() or '(nothing)'}\n\n",
        ]
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


LEAST_TELLING = ("epoch", "step time", "learning rate")
"""What is left out first where a card's own figures need the room."""
MEMORY_ROWS = 4


def numbers_text(run: RunSnapshot, height: int) -> Content:
    """Every figure that has room in `height` rows, and predicted beside measured memory as bars on one scale."""
    parts: list[str | tuple[str, str]] = []
    rows = run_texts.figures(run)
    for least in LEAST_TELLING:
        if len(rows) + MEMORY_ROWS > height > 0:
            rows = [row for row in rows if row[0] != least]
    for name, text in rows:
        parts += [(f"{name:<14}", "dim"), (f"{text}\n", "bold")]
    parts += [(f"{'peak in tensors':<18}", "dim"), (f"{run_texts.deviation_text(run)}\n", "bold")]
    lines = run_texts.memory_lines(run)
    full = max((size or 0 for _, size in lines), default=0)
    for name, size in lines:
        cells = figures.filled(size or 0, full, BAR_WIDTH)
        text = format_bytes(size) if size else "–"
        color = PLANNED if name == "predicted" else MEASURED
        parts += [(f"{name:<10}", "dim"), ("█" * cells, color), f" {text}\n"]
    parts += [(f"{run_texts.holder(run):<8}", "dim"), run_texts.device_text(run)]
    return Content.assemble(*parts)
