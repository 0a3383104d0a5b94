"""The end of a run: what came of it, or why it failed and how to go on."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from planner.tui import run_texts
from planner.tui.screens.base import DIGITS, WizardScreen
from planner.tui.screens.talk import TalkScreen
from planner.tui.widgets.charts import MORE_CURVES, ChartKeys, Curves
from planner.tui.widgets.hanging import MARK, Hanging


class EndScreen(ChartKeys, WizardScreen):
    """Adapter, losses, predicted against measured, and the next command; after a failure, how to resume."""

    PLACE = 4
    HELP_TEXT = (
        "The run has ended. The adapter is in PEFT's format and loads with plain PEFT. The observation holds predicted "
        "and measured peaks; later plans on this machine learn from it. p talks to the model, "
        "its base beside it, ^o compares runs. r resumes a run that stopped or failed from "
        "its last checkpoint, n goes back to the plan for another run."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *DIGITS,
        Binding("r", "resume", "Resume", id="end.resume", tooltip="Go on from the last checkpoint"),
        Binding("p", "talk", "Prompt", id="end.talk", tooltip="Talk to what was trained, its base beside it"),
        Binding("n", "app.step_back", "New run", id="end.new", tooltip="Back to the plan"),
        Binding("ctrl+o", "app.runs", "Runs", key_display="^o", id="end.runs", tooltip="To compare it with others"),
        Binding("escape", "app.step_back", "Plan", show=False, id="end.back", tooltip="Back to the plan"),
    ]

    def body(self) -> ComposeResult:
        with VerticalScroll(id="outcome", classes="pane"):
            yield Hanging("", id="outcome-text", markup=False)
        with Grid(id="charts"):
            yield Curves(id="curves")
            for name, view in MORE_CURVES:
                yield Curves(view, id=f"curve-{name}", classes="more")

    def on_mount(self) -> None:
        self.watch(self.app, "run_snapshot", self._show)

    def on_screen_resume(self) -> None:
        """Shows the run that has just ended."""
        self.set_focus(self.query_one("#outcome"))
        self._show()
        self.refresh_bindings()

    def _show(self) -> None:
        run = self.wizard_app.run_snapshot
        if run is None or not run.over:
            return
        failed = run.phase == "failed"
        self.query_one("#outcome").border_title = "The run failed" if failed else Content(f"The run is {run.doing}")
        self.query_one("#outcome").set_class(failed, "failed")
        parts: list[str | tuple[str, str]] = []
        if failed:
            parts += [(f"{run.failure}\n\n", "bold $text-error")]
            for line in run.log[-4:-1]:
                parts += [(f"{line}\n", "dim")]
            parts.append("\n" if len(run.log) > 1 else "")
        else:
            for name, text in run_texts.outcome(run):
                parts += [(f"{name:<17}{MARK}", "dim"), (f"{text}\n", "bold")]
            if said := run_texts.again(run):
                parts += [("\nnext time", "dim"), f"        {MARK}{said}\n"]
        for title, command in self.wizard_app.next_commands():
            parts += [(f"\n{title}\n", "dim"), (f"  {command}\n", "bold $accent")]
        self.query_one("#outcome-text", Static).update(Content.assemble(*parts))
        self.set_class(bool(run.loads or run.heats), "-sensed")
        for curves in self.query(Curves):
            curves.run = run
        self.query_one("#charts").display = bool(run.train or run.evals)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Resume is offered where there is something to resume."""
        if action == "resume":
            return self.wizard_app.may_resume
        if action == "talk":
            run = self.wizard_app.run_snapshot
            return run is not None and run.result is not None and bool(run.result.adapter_path)
        return True

    def action_talk(self) -> None:
        """A line to talk to the model."""
        self.app.push_screen(TalkScreen(self.wizard_app.run_folder))

    def action_resume(self) -> None:
        """Starts the trainer again from its last checkpoint."""
        self.wizard_app.resume_run()
