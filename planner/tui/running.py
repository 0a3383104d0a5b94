"""The part of the app that owns a run: writes the plan, starts the trainer, follows its events, pauses and stops it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from textual import work
from textual.reactive import reactive

from planner.contract import process
from planner.contract.errors import InvalidInput, RunFailed, TuneplanError
from planner.contract.words import one_line
from planner.handover.commands import plan_command
from planner.tui import comparing, doubts, history, live, messages, run_texts
from planner.tui import work as questions
from planner.tui.doubts import Act, Doubt
from planner.tui.history import FollowedRun, PastRun
from planner.tui.in_order import InOrder
from planner.tui.live import RunSnapshot
from planner.tui.ringing import notification
from planner.tui.screens.runs import CompareScreen
from planner.tui.state import WizardState

if TYPE_CHECKING:
    from planner.contract.control import Command
    from planner.contract.records import Plan
    from planner.handover.trainer_process import Run
    from planner.tui.work import Evaluation, WizardAnswer


LONG = 60
"""Seconds from which on a run's end is rung."""
GONE = "its folder is gone: it was deleted or moved while the run wrote into it"


class RunControl(InOrder):
    """One run at a time. The trainer outlives the wizard where the person wants that."""

    run_snapshot: reactive[RunSnapshot | None] = reactive(None, init=False)

    wizard: reactive[WizardState]
    judged: reactive[bool] = reactive(False, init=False)
    """Whether the figures are those of the present settings."""
    settled: reactive[bool] = reactive(False, init=False)
    """Whether every answer about the present settings is there: the figures, the tiers, this machine, the data."""
    _evaluated_for: WizardState | None = None
    _recommended_for: WizardState | None = None
    evaluation: reactive[Evaluation | None]
    recommendation: reactive[WizardAnswer | None]
    output: Path

    exit_code = 0
    run_folder = ""
    _run: Run | FollowedRun | None = None
    _quit_when_over = False
    _plan_path: Path | None = None

    @property
    def running(self) -> bool:
        """Whether a trainer that this wizard started has not ended yet."""
        return self._run is not None and self.run_snapshot is not None and not self.run_snapshot.over

    # ----------------------------------------------------------------------------------------------------- starting

    def doubt(self, act: Act = "train") -> Doubt | None:
        """What speaks against starting, or saving, what stands on the screen."""
        now = self.evaluation if self.settled else None
        return doubts.doubt(self.wizard, now.report if now else None, now.error if now else None, act)

    def _plan(self) -> Plan:
        """The plan of what stands on the screen, with the figures that stand beside it."""
        if not self.settled or self.evaluation is None:
            raise InvalidInput("the plan is still being computed")
        return questions.plan_of(self.wizard, self.evaluation)

    def save_plan(self) -> Path:
        """Writes the plan file beside the runs, without starting anything."""
        from planner.handover import plans

        name = questions.run_folder(self.wizard, self.output).name
        return plans.save(self._plan(), self.output / f"{name}.yaml")

    def start_training(self) -> None:
        """Writes the plan into a folder of its own and starts the trainer on it."""
        from planner.handover import plans

        if self.running:
            return
        plan = self._plan()
        folder = questions.run_folder(self.wizard, self.output)
        self._plan_path = plans.save(plan, folder / "plan.yaml")
        self.run_folder = str(folder)
        self._begin(plan, resume=False)

    def resume_run(self) -> None:
        """Starts the trainer again on the same plan and folder, from its last checkpoint."""
        from planner.handover import plans

        if self._plan_path is not None and not self.running:
            self._begin(plans.load(self._plan_path), resume=True)

    def _begin(self, plan: Plan, *, resume: bool) -> None:
        from planner.handover import trainer_process

        assert self._plan_path is not None
        self.exit_code = 0
        self.run_snapshot = live.begin(plan, self.run_snapshot if resume else None)
        self._run = trainer_process.start(
            self._plan_path, output=self.run_folder, resume="auto" if resume else None, device=self._device(plan)
        )
        self.switch_screen("live")
        self._follow(self._run)

    def _device(self, plan: Plan) -> str | None:
        """What the trainer is told: this machine's CPU by name where the person chose it for another device's plan."""
        return "cpu" if self.wizard.this_machine == "cpu" and plan.gpu != "cpu" else None

    def _device_words(self) -> tuple[str, ...]:
        """The same for a command line that goes on with the run."""
        from planner.handover import plans

        if self._plan_path is None:
            return ()
        with contextlib.suppress(TuneplanError):
            device = self._device(plans.load(self._plan_path))
            return ("--device", device) if device else ()
        return ()

    def _follow(self, run: Run | FollowedRun) -> None:
        """Listens to the trainer in a thread that doesn't keep the wizard from leaving while the run goes on."""
        threading.Thread(target=self._listen, args=(run,), name="run", daemon=True).start()

    def _listen(self, run: Run | FollowedRun) -> None:
        """Turns what the trainer writes into messages until it ends."""
        try:
            for event in run:
                self.post_message(messages.RunEvent(event))
            code = run.wait()
        except Exception as error:
            self.post_message(messages.RunEnded(None, error=questions.error_line(error)))
            return
        self.post_message(messages.RunEnded(code, run.stderr_tail))

    # ------------------------------------------------------------------------------------------------- earlier runs

    @work(thread=True, group="past", exit_on_error=False)
    def look_for_runs(self) -> None:
        """Asks which runs there are in the output folder."""
        self.post_message(messages.RunsFound(history.every(self.output)))

    @work(thread=True, group="past", exit_on_error=False)
    def read_run(self, past: PastRun) -> None:
        """Reads an earlier run's events."""
        try:
            snapshot, trainer = history.reopen(past)
        except TuneplanError as error:
            self.post_message(messages.RunReopened(past, error=questions.error_line(error)))
            return
        self.post_message(messages.RunReopened(past, snapshot, trainer))

    @work(thread=True, group="past", exit_on_error=False)
    def compare_runs(self, runs: tuple[PastRun, ...]) -> None:
        """Reads several runs' events."""
        try:
            self.post_message(messages.RunsCompared(comparing.compare(runs)))
        except TuneplanError as error:
            self.post_message(messages.RunsCompared(None, questions.error_line(error)))

    def on_runs_compared(self, message: messages.RunsCompared) -> None:
        """Several runs were read."""
        if message.found is not None:
            self.push_screen(CompareScreen(message.found))
        else:
            self.notify(message.error or "these runs can't be read", severity="error", markup=False)

    def on_run_reopened(self, message: messages.RunReopened) -> None:
        """An earlier run was read: one that goes on is followed, one that ended early may be resumed."""
        if self.running:
            return
        if message.snapshot is None:
            self.notify(message.error or "this run can't be read", severity="error", markup=False)
            return
        self.exit_code = 0
        self.run_folder = str(message.past.folder)
        self._plan_path = message.past.folder / "plan.yaml"
        self.run_snapshot = message.snapshot
        self._run = message.trainer
        if message.trainer is None:
            self._show_step("end")
            return
        self._show_step("live")
        self._follow(message.trainer)

    def _show_step(self, name: str) -> None:
        """Shows a step, closing whatever dialog stands over the one before."""
        while len(self.screen_stack) > 2:
            self.pop_screen()
        if self.screen_stack:
            self.switch_screen(name)

    @property
    def attached(self) -> bool:
        """Whether someone else started the run that is watched."""
        return isinstance(self._run, FollowedRun)

    # ---------------------------------------------------------------------------------------------------- following

    def on_run_event(self, message: messages.RunEvent) -> None:
        """The trainer said something."""
        if self.run_snapshot is not None and self._run is not None:
            self.run_snapshot = live.reduce(self.run_snapshot, message.event)

    def on_run_ended(self, message: messages.RunEnded) -> None:
        """The trainer has ended, one way or another."""
        if self.run_snapshot is None or self._run is None:
            return
        gone = not self.run_snapshot.over and not Path(self.run_folder).is_dir()
        if message.error is not None or gone:
            self.run_snapshot = live.fail(self.run_snapshot, message.error or GONE)
        else:
            self.run_snapshot = live.ended(self.run_snapshot, message.exit_code, message.tail)
        failed = process.exit_code(message.exit_code or 0) or RunFailed.exit_code
        self.exit_code = failed if self.run_snapshot.phase == "failed" else 0
        self._run = None
        if (self.run_snapshot.heard or 0) - (self.run_snapshot.began or 0) >= LONG:
            self.ring(f"the run is {self.run_snapshot.doing}: {Path(self.run_folder).name}")
        self.look_for_runs()
        if self._quit_when_over:
            self.exit(
                self.exit_code, message=Text(one_line(f"The run is {self.run_snapshot.doing}: {self.run_folder}"))
            )
        else:
            self._show_step("end")

    def ring(self, text: str) -> None:
        """Bell and the terminal's notification: whoever waited may have looked elsewhere."""
        self.bell()
        if self._driver is not None and not self.is_headless:
            self._driver.write(notification(text, os.environ))

    # -------------------------------------------------------------------------------------------------- controlling

    def pause_or_resume(self) -> None:
        """Pauses after the step; a paused run goes on."""
        if self._run is None or self.run_snapshot is None:
            return
        if self.run_snapshot.phase == "paused":
            self._command(self._run.resume)
        else:
            self._command(self._run.pause)
            self.run_snapshot = live.note(self.run_snapshot, self.run_snapshot.phase, "pausing after this step")

    def tell_run(self, command: Command, doing: str) -> None:
        """Something that the trainer is to do after its step; `doing` is said until it has."""
        if self._run is not None and self.run_snapshot is not None:
            run = self._run
            self._command(lambda: run.tell(command))
            self.run_snapshot = live.note(self.run_snapshot, self.run_snapshot.phase, doing)

    def stop_run(self) -> None:
        """Stops after the step, with a checkpoint."""
        if self._run is not None and self.run_snapshot is not None:
            self._command(self._run.stop)
            self.run_snapshot = live.note(self.run_snapshot, "stopping", "stopping after this step")

    def stop_and_quit(self) -> None:
        """Stops the run and leaves once it has ended."""
        self._quit_when_over = True
        if self.running:
            self.stop_run()
        else:
            self.exit(self.exit_code)

    def leave_run(self) -> None:
        """Lets the trainer go on alone: it is a process on its own and keeps its events in the run folder.

        One that was paused from here goes on.
        """
        if self._run is not None:
            self._command(self._run.leave)
        self._run = None

    def _command(self, does: Callable[[], None]) -> None:
        """Tells the trainer something; one that is gone will be noticed by its end."""
        try:
            does()
        except TuneplanError as error:
            self.notify(questions.error_line(error), severity="error", markup=False)
        except OSError:
            pass

    # ------------------------------------------------------------------------------------------------------- ending

    @property
    def may_resume(self) -> bool:
        """Whether the run that ended left something to go on from."""
        run = self.run_snapshot
        if run is None or not run.over or self._plan_path is None:
            return False
        stopped = run.result is not None and run.result.reason == "stopped"
        return (run.phase == "failed" or stopped) and run.checkpoint is not None

    @property
    def parting(self) -> Text | None:
        """What stays in the terminal after the wizard: what came of the run that is over; None without one."""
        run = self.run_snapshot
        if run is None or not run.over:
            return None
        rows = [("run", live.near_path(self.run_folder))]
        rows += [("failed", run.failure or "")] if run.phase == "failed" else run_texts.outcome(run)
        lines = [f"{one_line(name):<16} {one_line(text)}".rstrip() for name, text in rows]
        return Text("\n".join([*lines, *(one_line(command) for _, command in self.next_commands())]))

    def next_commands(self) -> list[tuple[str, str]]:
        """What to type after the run: (why, command)."""
        run = self.run_snapshot
        if run is None:
            return []
        found: list[tuple[str, str]] = []
        plan, folder = live.near_path(self._plan_path), live.near_path(self.run_folder)
        if run.result is not None and run.result.adapter_path:
            words = plan_command("generate", folder, "--prompt")
            found.append(("generate with it:", f"{words} '…'"))
            found.append(
                (
                    "hand it on (a folder with its card; also gguf, ollama, mlx, vllm, hub):",
                    plan_command("publish", folder, "--to", "folder"),
                )
            )
            found.append(("the whole run as one HTML page:", plan_command("report", folder)))
        if self.may_resume:
            words = plan_command("train", plan, "--output", folder, "--resume", *self._device_words())
            found.append(("go on from the last checkpoint, here with r, or later with:", words))
        elif run.phase == "failed" and self._plan_path is not None and self._plan_path.is_file():
            words = plan_command("train", plan, "--output", folder, *self._device_words())
            found.append(("no checkpoint was saved; n goes back to the plan, the same again starts with:", words))
        return found
