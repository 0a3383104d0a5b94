"""The part of the app that asks: one thread answers what the settings come to, the verdict first.

A newer question ends an older one between its parts; answers to an older one are dropped. What is asked for deeper
than the verdict waits until the keys rest.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from textual import work
from textual.css.query import NoMatches
from textual.reactive import reactive
from textual.screen import Screen
from textual.worker import get_current_worker

from planner.contract.run_folder import PLAN
from planner.tui import importing, messages, reading, state
from planner.tui import work as questions
from planner.tui.around import Surroundings
from planner.tui.running import RunControl
from planner.tui.screens.base import WizardScreen
from planner.tui.state import WizardState
from planner.tui.work import Evaluation, WizardAnswer

if TYPE_CHECKING:
    from planner.contract.spec import HardwareProfile

REST = 0.12
"""Seconds without a key after which tiers, surroundings and remedies are asked for."""

PATIENCE = 0.6
"""Seconds since the last verdict after which one is made whatever the keys do."""

Shown = TypeVar("Shown", bound=WizardScreen)
Known = tuple[questions.SearchAsked | None, WizardAnswer]
"""A search and its answer."""


class Asking(RunControl):
    """Holds the questions and the newest answers."""

    wizard: reactive[WizardState] = reactive(WizardState, init=False)
    evaluation: reactive[Evaluation | None] = reactive(None, init=False)
    recommendation: reactive[WizardAnswer | None] = reactive(None, init=False)
    surroundings: reactive[Surroundings | None] = reactive(None, init=False)
    around_judged: reactive[bool] = reactive(False, init=False)
    """Whether the surroundings are those of the present settings."""
    tiers_judged: reactive[bool] = reactive(False, init=False)
    """Whether the tiers are."""

    profiles: tuple[HardwareProfile, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._answering = False
        self._newer = threading.Event()
        """Set while a newer question waits for the thread."""
        self._shown_at = time.monotonic()
        """When the last verdict was shown."""
        self.fits: dict[str, str] = {}
        """By model of the catalogue, what of it fits the chosen device."""
        self._fits_for: tuple[str, int] | None = None
        self._looking = False
        self._measuring = 0
        """Data sets that are being measured just now."""
        self._surrounded_for: WizardState | None = None
        self._known: Known | None = None
        """The last search and its answer: what does not change it is not searched again."""

    # ------------------------------------------------------------------------------------------------------- asking

    def update(self, new: WizardState) -> None:
        """The next state; figures, tiers and advice follow."""
        before, self.wizard = self.wizard, new
        if new.data.path == before.data.path and new.data.validation_path != before.data.validation_path:
            self.read_data(new.data.path or "")  # what is evaluated on is measured with it
        if new.hardware and new.model:
            self._ask()
        else:
            self.evaluation = Evaluation(error=questions.NEEDS_BOTH)
            self._evaluated_for = self._recommended_for = self._surrounded_for = self.wizard
        self._look_whether_settled()

    @property
    def idle(self) -> bool:
        """Whether every question that was asked has been answered (runs aside)."""
        return not self._answering and not self._newer.is_set() and not self._looking

    def _look_whether_settled(self) -> None:
        """Compares what the figures are about with what the settings are now."""
        self.judged = self._evaluated_for == self.wizard
        self.tiers_judged = self._recommended_for == self.wizard
        self.around_judged = self._surrounded_for == self.wizard
        self.settled = self.judged and self.tiers_judged and not self._measuring and not self._looking

    def _ask(self) -> None:
        """One thread at a time; asked again meanwhile, it is asked once more with the newest state."""
        if self._answering:
            self._newer.set()
            return
        self._answering = True
        self._answer(self.wizard, self._known, burst=0.0)

    @work(thread=True, group="answers", exit_on_error=False)
    def _answer(self, about: WizardState, known: Known | None, burst: float) -> None:
        if burst and self._newer.wait(burst):
            self.post_message(messages.Rested())
            return
        token = questions.WANTED.set(lambda: not self._newer.is_set())
        try:
            self._answer_in_order(about, known)
        except questions.Superseded:
            pass
        finally:
            questions.WANTED.reset(token)
            self.post_message(messages.Rested())

    def _answer_in_order(self, about: WizardState, known: Known | None) -> None:
        """Verdict, tiers, surroundings, remedies; each is shown as soon as it is there."""
        judged = questions.evaluate(about)
        self.post_message(messages.Evaluated(judged, about))
        if self._newer.wait(REST if known is not None else 0):
            return
        wanted = questions.asked(about)
        found = known[1] if known is not None and known[0] == wanted else questions.recommend(about)
        self.post_message(messages.Recommended(found, about, wanted))
        if self._newer.is_set() or questions.adopt(about, found) != about:
            return  # other settings follow from it, and are asked about anew
        self.post_message(messages.Surrounded(questions.surroundings(about, judged), about))
        if not judged.complete:
            self.post_message(messages.Evaluated(questions.with_remedies(about, judged), about))

    def look_what_fits(self) -> None:
        """Asks what of each model of the catalogue fits the chosen device; once for a device and budget."""
        profile = self.wizard.hardware
        about = None if profile is None else (profile.name, self.wizard.budget_bytes)
        if profile is None or about == self._fits_for:
            return
        self._fits_for = about
        self.fits = {}
        self._look_what_fits(profile, self.wizard.budget_bytes)

    @work(thread=True, group="fits", exclusive=True, exit_on_error=False)
    def _look_what_fits(self, profile: HardwareProfile, budget_bytes: int) -> None:
        worker = get_current_worker()
        for found in reading.fits(profile, budget_bytes):
            if worker.is_cancelled:
                return
            self.post_message(messages.FitsFound(profile.name, found))

    def look_at_machine(self) -> None:
        """Asks which device this machine has."""
        self._looking = True
        self._look_at_machine()

    @work(thread=True, group="machine", exit_on_error=False)
    def _look_at_machine(self) -> None:
        self.post_message(messages.HardwareReady(reading.look_at_machine()))

    @work(thread=True, group="model", exit_on_error=False)
    def read_model(self, name: str, final: bool) -> None:
        """Reads a model; `final` means that it was chosen."""
        self.post_message(messages.ModelReady(reading.read_model(name, final=final)))

    @work(thread=True, group="model", exit_on_error=False)
    def read_file(self, path: str, final: bool) -> None:
        """Reads a plan or another trainer's file; `final` means that it was chosen."""
        self.post_message(messages.FileReady(importing.read_file(path, self.wizard, final=final)))

    @work(thread=True, group="model", exit_on_error=False)
    def read_plan_of(self, folder: Path) -> None:
        """Reads the plan of an earlier run."""
        self.post_message(messages.PlanOfRun(importing.read_file(str(folder / PLAN), self.wizard, final=False)))

    def read_data(self, path: str, changes: Mapping[str, Any] | None = None) -> None:
        """Measures a data set, read as `changes` say."""
        self._measuring += 1
        self._look_whether_settled()
        self._read_data(path, self.wizard, changes)

    @work(thread=True, group="data", exit_on_error=False)
    def _read_data(self, path: str, snapshot: WizardState, changes: Mapping[str, Any] | None) -> None:
        self.post_message(messages.DataReady(reading.read_data(path, snapshot, final=False, changes=changes)))

    @work(thread=True, group="data", exit_on_error=False)
    def read_samples(self) -> None:
        """Asks for the first examples of the data that is chosen."""
        chosen = self.wizard
        if chosen.data.path:
            self.post_message(messages.SamplesRead(chosen.data.path, reading.again(chosen.data.path, chosen)))

    @work(thread=True, group="data", exit_on_error=False)
    def read_columns(self, path: str) -> None:
        """Asks for the columns of a data set that could be read."""
        self.post_message(messages.ColumnsRead(path, *reading.columns_of(path, self.wizard)))

    # ------------------------------------------------------------------------------------------------------ answers

    def on_evaluated(self, message: messages.Evaluated) -> None:
        """Figures arrived. Those of an older question are dropped: the newer one's follow."""
        if message.about == self.wizard:
            self._evaluated_for = message.about
            self._shown_at = time.monotonic()
            self.evaluation = message.evaluation
        self._look_whether_settled()

    def on_recommended(self, message: messages.Recommended) -> None:
        """Tiers and advice arrived; once per device, model and data they are taken over."""
        before = self.recommendation
        self._known = (message.asked, message.recommendation)
        if message.about == self.wizard:
            self._recommended_for = message.about
            self.recommendation = message.recommendation
            adopted = questions.adopt(self.wizard, message.recommendation)
            if adopted != self.wizard:
                self.update(adopted)
                if before is not None and before.error and before.start and message.recommendation.tiers:
                    self.say(f"It fits now: tier {message.recommendation.recommended} taken; u takes it back")
        self._look_whether_settled()

    def on_surrounded(self, message: messages.Surrounded) -> None:
        """The pictures around the plan arrived."""
        if message.about == self.wizard:
            self._surrounded_for = message.about
            self.surroundings = message.surroundings
        self._look_whether_settled()

    def on_rested(self) -> None:
        """The thread has ended; what was asked meanwhile is asked now."""
        self._answering = False
        if self._newer.is_set():
            self._newer.clear()
            self._answering = True
            # Keys come faster than answers: the next one waits for a gap, but not for ever.
            waited = time.monotonic() - self._shown_at
            self._answer(self.wizard, self._known, burst=REST if waited < PATIENCE else 0.0)
        self._look_whether_settled()

    def on_hardware_ready(self, message: messages.HardwareReady) -> None:
        """This machine's device is known."""
        found = message.found
        self._looking = False
        self._look_whether_settled()
        if found.profile is None:
            self.say(found.error or "this machine's device was not found", error=True)
            return
        own = found.profile
        others = tuple(profile for profile in self.profiles if profile.name != own.name)
        self.profiles = (own, *others)
        known = replace(
            self.wizard, this_machine=own.name, used_by_others_bytes=found.used_by_others_bytes, note=found.note
        )
        if known.hardware is not None and known.hardware.name == own.name:
            known = replace(known, hardware=own)
        self.update(known)

    def choose_data(self, dataset: Any, settings: Any = None, model: Any = None) -> None:
        """Takes a measured data set with the settings that it was read with, or none."""
        self.update(state.with_dataset(self.wizard, dataset, settings, model))

    @property
    def shown(self) -> Screen[object] | None:
        """The screen on top; None once the wizard is closing, when answers of threads still arrive."""
        stack = self.screen_stack
        return stack[-1] if stack else None

    def tell(self, kind: type[Shown], what: Callable[[Shown], None]) -> None:
        """Tells the screen on top something if it is of that kind. One that is being built or taken down lacks its
        widgets: the former reads what there is once it stands, the latter needs nothing any more.
        """
        screen = self.shown
        if isinstance(screen, kind):
            with contextlib.suppress(NoMatches):
                what(screen)

    def say(self, text: str = "", *, error: bool = False) -> None:
        """One line above the footer of the step that is shown."""
        self.tell(WizardScreen, lambda screen: screen.say(text, error=error))
