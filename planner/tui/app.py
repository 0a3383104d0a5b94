"""The wizard: hardware, model, data, plan, run. Holds the snapshots and hands them to the screens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.spec import HardwareProfile
from planner.contract.units import format_count
from planner.contract.words import one_line
from planner.handover.commands import plan_command
from planner.models.order import family_of, model_order
from planner.report.finding import ListEntry
from planner.tui import figures, kept, live, messages
from planner.tui.choosing import ORDER, Choosing
from planner.tui.history import PastRun
from planner.tui.opening import Opening, opened
from planner.tui.palette import Likely, in_own_words, likely_first
from planner.tui.screens.base import WizardScreen
from planner.tui.screens.data import DataScreen
from planner.tui.screens.end import EndScreen
from planner.tui.screens.hardware import HardwareScreen
from planner.tui.screens.live import LiveScreen
from planner.tui.screens.modals import HelpScreen, QuitScreen
from planner.tui.screens.model import ModelScreen
from planner.tui.screens.plan import PlanScreen
from planner.tui.screens.runs import RunsScreen
from planner.tui.shield import Shield
from planner.tui.theme import THEMES, component_variables, fit_mark, legible, usual_theme


class TuneplanApp(Choosing):
    """Every start value may be given; what is given is chosen already, and the wizard opens at the first open step."""

    TITLE = "tuneplan"
    COMMANDS = {Likely}  # noqa: RUF012
    CSS_PATH = Path(__file__).with_name("wizard.tcss")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-tall")]  # noqa: RUF012
    SCREENS: ClassVar[dict[str, Callable[[], Screen[Any]]]] = {
        "hardware": HardwareScreen,
        "model": ModelScreen,
        "data": DataScreen,
        "plan": PlanScreen,
        "live": LiveScreen,
        "end": EndScreen,
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "Help", show=False, id="app.help", tooltip="Keys and words"),
        Binding("ctrl+q,ctrl+c", "request_quit", "Quit", show=False, priority=True, id="app.quit",
                tooltip="Leave; asks while a run goes on"),
        *(
            Binding(f"alt+{place + 1}", f"step({place})", f"Step {place + 1}", show=False, id=f"app.step{place + 1}",
                    tooltip="To this step; on a run's screens the digit alone")
            for place in range(5)
        ),
        Binding("ctrl+o", "runs", "Runs", show=False, key_display="^o", id="app.runs",
                tooltip="Runs: to open, to follow, to compare"),
    ]  # fmt: skip

    def __init__(
        self,
        *,
        output: str | Path = "runs",
        start_folder: str | Path = ".",
        attach: PastRun | None = None,
        **given: Any,
    ) -> None:
        """Raises `TuneplanError` for a start value that is wrong.

        `output`: folder that gets one folder per run; `start_folder`: where the directory tree opens; `attach`: a
        run to show at once; `given`: the fields of `Opening`.
        """
        super().__init__()
        self.output = Path(output)
        self.start_folder = str(Path(start_folder).absolute())
        self.profiles: tuple[HardwareProfile, ...] = ()
        self.past_runs: tuple[PastRun, ...] = ()
        """Runs in the output folder."""
        self._opens_with = attach
        self._runs_said = attach is not None
        for theme in THEMES:
            self.register_theme(theme)
        own = kept.kept_theme()
        usual = usual_theme(self.console.color_system)
        self.theme = own if own is not None and own in self.available_themes else usual
        self.set_keymap(kept.own_keys(every_key()))
        self._shield = Shield()
        start = opened(Opening(**{name: value for name, value in given.items() if value is not None}))
        self.set_reactive(Choosing.wizard, start)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """The components' colours, also in the themes of others."""
        return component_variables(self.current_theme)

    def get_css_variables(self) -> dict[str, str]:
        """The theme's, borders legible."""
        return legible(self.current_theme, super().get_css_variables())

    # ------------------------------------------------------------------------------------------------------- start

    def on_mount(self) -> None:
        from planner.devices.profiles import all_profiles

        self.profiles = all_profiles()
        self.theme_changed_signal.subscribe(self, lambda chosen: kept.keep_theme(chosen.name))
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.terminate)
        self.look_at_machine()
        self.look_for_runs()
        self.push_screen(self.first_open)
        if self._opens_with is not None:
            self.read_run(self._opens_with)
        self.update(self.wizard)

    def model_entries(self, wide: bool = False) -> list[ListEntry]:
        """By family, the newest first, a chosen one of elsewhere before them; `wide`: whole names, and the hub's."""
        from planner.models import catalogue

        published = {entry.name: entry for entry in catalogue.entries()}
        found = []
        room = 46 if wide else 30
        for name, hub_id, spellings in catalogue.models():
            known = catalogue.look_up(hub_id)
            facts = published.get(known.name) if known else None
            count = facts.parameters if facts else None
            mark, style = fit_mark(self.fits.get(name))
            licence = "" if facts is None or facts.licence == catalogue.UNKNOWN else facts.licence
            weights, size = (f"{2 * count / 1e9:.1f} GB", format_count(count)) if count else ("", "")
            rest = f"{licence:<14}{hub_id}" if wide else licence
            entry = ListEntry(
                key=name,
                row=f"{figures.row(name, size, room)}{weights:>10}  {rest}".rstrip(),
                more=" ".join((hub_id, *spellings)),
                names=(hub_id.lower(), *spellings),
                group=family_of(name),
                mark=f"{mark} ",
                style=style,
            )
            found.append((model_order(name, count), entry))
        rows = [entry for _, entry in sorted(found, key=lambda item: item[0])]
        chosen = self.wizard
        if chosen.model is not None and chosen.model_name not in [entry.key for entry in rows]:
            size = format_count(chosen.model.parameters)
            row = figures.row(chosen.short_model_name, size, room)
            rows.insert(0, ListEntry(key=chosen.model_name, row=row, more="chosen", group="Chosen", mark="  "))
        return rows

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The first step has none before it; earlier runs are offered where there are any."""
        if action == "runs":
            return bool(self.past_runs) and not self.running
        if action == "step_back":
            step = next((screen for screen in reversed(self.screen_stack) if isinstance(screen, WizardScreen)), None)
            return step is None or step.PLACE > 0
        return True

    def action_step(self, place: int) -> None:
        """To a step by its number; the run, where there is one, is the last."""
        if self.running:
            self.say("a run goes on: x stops it, q leaves and asks whether it shall go on")
        elif place < len(ORDER):
            self.go(ORDER[place])
        elif self.run_snapshot is not None:
            self.go("end" if self.run_snapshot.over else "live")
        else:
            self.say("nothing has been trained yet: t on the plan starts it")

    def action_step_back(self) -> None:
        """The step before; on the first one nothing happens."""
        place = self.shown.PLACE if isinstance(self.shown, WizardScreen) else 0
        if place == len(ORDER) and not (self.wizard.hardware and self.wizard.model):
            self.go(self.first_open)  # an earlier run was opened before anything was planned
        elif place > 0:
            self.go(ORDER[place - 1])

    # ------------------------------------------------------------------------------------------------------ answers

    def on_runs_found(self, message: messages.RunsFound) -> None:
        """Earlier runs: those that are not finished are said once, all are kept behind a key."""
        self.past_runs = message.runs
        if self.shown is not None:
            self.shown.refresh_bindings()
        self._runs_said, said = True, self._runs_said
        first = next((run for run in message.runs if run.state in ("going on", "interrupted")), None)
        if first is not None and not said:
            does = "still goes on" if first.state == "going on" else "was interrupted"
            self.say(f"{first.folder.name} {does}: ^o shows the runs.")

    def action_runs(self) -> None:
        """Shows the runs, to open one or compare several."""
        self.push_screen(RunsScreen(self.past_runs), self._run_chosen)

    def _run_chosen(self, chosen: tuple[PastRun, ...] | None) -> None:
        if not chosen:
            return
        self.say(f"reading {chosen[0].folder.name if len(chosen) == 1 else f'{len(chosen)} runs'} …")
        if len(chosen) == 1:
            self.read_run(chosen[0])
        else:
            self.compare_runs(chosen)

    # ---------------------------------------------------------------------------------------------- help, quitting

    def action_help(self) -> None:
        """What this step is for, and its keys."""
        screen = self.shown
        if not isinstance(screen, WizardScreen):
            return
        keys: dict[str, tuple[str, str, str]] = {}
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.id and binding.description:
                shown = self.get_key_display(binding)
                keys.setdefault(binding.action, (shown, binding.description, binding.tooltip))
        self.push_screen(HelpScreen(screen.HELP_TEXT, list(keys.values())))

    def action_request_quit(self) -> None:
        """Leaves; while a run goes on it asks what shall become of it."""
        if not self.running:
            self.exit(self.exit_code, message=self.parting)
        elif not isinstance(self.shown, QuitScreen):
            self.push_screen(QuitScreen(self.run_folder), self._quit_answered)

    def terminate(self) -> None:
        """SIGTERM: gives the terminal back in order; a run goes on, as it does when the terminal is closed."""
        message = None
        if self.running:
            self.leave_run()
            message = self.goes_on
        self.exit(128 + signal.SIGTERM, message=message)

    @property
    def goes_on(self) -> Text:
        """Said when the wizard leaves a run: where it is, and how it is seen again."""
        again = plan_command("ui", live.near_path(self.run_folder))
        said = f"The run goes on in {one_line(self.run_folder)}; this shows it again:\n{one_line(again)}"
        return Text(said, no_wrap=True, overflow="ignore")  # a command that is broken can't be pasted

    async def action_quit(self) -> None:
        """The palette's Quit asks as well."""
        self.action_request_quit()

    def action_help_quit(self) -> None:
        """Ctrl-C in a place that binds it itself."""
        self.action_request_quit()

    def _quit_answered(self, answer: str | None) -> None:
        if answer == "leave":
            self.leave_run()
            self.exit(0, message=self.goes_on)
        elif answer == "stop":
            self.stop_and_quit()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every step and every action of the step by name, in the command palette."""
        if isinstance(screen, WizardScreen):
            for active in likely_first(screen.active_bindings.values()):
                binding = active.binding
                if binding.tooltip and binding.id and binding.id.split(".")[0] in self.SCREENS and active.enabled:
                    said = f"{binding.tooltip} ({self.get_key_display(binding)})"
                    yield SystemCommand(
                        binding.description, said, lambda action=binding.action: self._run_on_screen(action)
                    )
            if not self.running:
                if self.past_runs:
                    yield SystemCommand("Runs", "Opens a run, or compares several", self.action_runs)
                for name in ORDER:
                    yield SystemCommand(f"Go to {name}", f"Shows the step {name}", lambda name=name: self.go(name))
        yield from in_own_words(super().get_system_commands(screen))

    def _run_on_screen(self, action: str) -> None:
        self.call_later(self.run_action, action, self.shown)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own, and the one that keeps escape sequences of others away from the terminal."""
        return [*super().get_line_filters(), self._shield]

    def _fatal_error(self) -> None:
        """A bug: one line on the terminal instead of a traceback, the rest goes to a file."""
        from planner.contract import edge

        error = sys.exc_info()[1]
        if error is not None:
            line, self._return_code = edge.account(error)
            self._exit_renderables.append(Text(f"plan: {line}"))
        self.bell()
        self._close_messages_no_wait()


def every_key() -> dict[str, str]:
    """By name everything that a key can do in the wizard, and its usual keys."""
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        if not name.startswith("planner.tui."):
            continue
        for each in vars(module).values():
            for binding in vars(each).get("BINDINGS", ()) if isinstance(each, type) else ():
                if isinstance(binding, Binding) and binding.id:
                    found.setdefault(binding.id, binding.key)
    return found


def run(plan_defaults: Mapping[str, Any] | None = None) -> int:
    """Opens the wizard in this terminal; `plan_defaults` are `TuneplanApp`'s arguments. Returns the exit code."""
    if os.environ.get("TERM") == "dumb":
        print(
            "plan: this terminal can't place text (TERM=dumb), so the wizard can't be shown; "
            "plan ui --plain asks line by line, plan --gpu auto --model NAME --data FILE prints the same plan",
            file=sys.stderr,
        )
        return InvalidInput.exit_code
    try:
        app = TuneplanApp(**(plan_defaults or {}))
    except TuneplanError as error:
        print(f"plan: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    result = app.run()
    if app.return_code:
        return app.return_code
    return result or 0
