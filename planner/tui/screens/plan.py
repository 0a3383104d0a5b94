"""Step 4: the plan. Settings at the left; memory, speed, tiers, reasons and advice follow every key at the right."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from planner.contract.errors import TuneplanError
from planner.handover.commands import plan_command
from planner.tui import figures, live
from planner.tui import state as states
from planner.tui.fields import BY_KEY
from planner.tui.screens.base import WizardScreen
from planner.tui.state import Act, Doubt, WizardState
from planner.tui.widgets.field_list import FieldList
from planner.tui.widgets.figures_pane import FiguresPane
from planner.tui.widgets.memory import MemoryPane
from planner.tui.work import Evaluation, WizardAnswer, error_line

UNDO_DEPTH = 100
KEYS: dict[Act, str] = {"train": "t", "save": "s"}
OLDER = "older settings' figures; computing …"


class PlanScreen(WizardScreen):
    """Edits the choices and shows what they cost."""

    PLACE = 3
    HELP_TEXT = (
        "The plan: at the left what will be done, at the right whether it fits (the bar is the device's memory), how "
        "tightly, how fast and why. It can be trained as it stands: t starts it, s writes it to a file.\n\n"
        "↑ ↓ choose a setting, ← → change it, digits or Enter type a value; every figure follows at once, u takes a "
        "change back. • marks what you set yourself: a new recommendation leaves it alone.\n\nThe tiers train the "
        "same thing (same effective batch) at different headroom: g takes the next one. v shows the next view (tiers, "
        "why and remedies, memory, advice); Tab goes into it: Enter there takes a tier or a remedy."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "tier", "Tier", id="plan.tier", tooltip="Take the next tier: high, balanced, low, safe"),
        Binding("v", "view", "View", id="plan.view", tooltip="Next view: tiers, why, memory, advice"),
        Binding("u", "undo", "Undo", id="plan.undo", tooltip="Take back the last change: a value, a tier, a remedy"),
        Binding("s", "save", "Save", id="plan.save", tooltip="Write the plan file"),
        Binding("t", "train", "Train", id="plan.train", tooltip="Write the plan file and start the training"),
        Binding("r", "reset", "Reset", show=False, id="plan.reset", tooltip="Forget your own values, take the advice"),
    ]

    def body(self) -> ComposeResult:
        with Horizontal(classes="panes"):
            yield FieldList(id="settings")
            with Vertical(id="figures"):
                yield MemoryPane(id="memory-pane")
                yield FiguresPane(id="tabs")

    def on_mount(self) -> None:
        self._before_edit: WizardState | None = None
        self._refused = ""
        """Why what stands in the edit line cannot be taken; empty where it can."""
        self._confirm: tuple[Act, Doubt] | None = None
        """The doubt that was told and may be passed over by asking again."""
        self._waiting: Act | None = None
        """What was asked for before the answers about these settings were there."""
        self._asked_about = self.wizard_app.wizard
        """The settings that it was asked for."""
        self._before: list[WizardState] = []
        """The states before each change made here, the last one at the end."""
        self.watch(self.app, "wizard", self._show_rows)
        self.watch(self.app, "evaluation", self._show_evaluation)
        self.watch(self.app, "recommendation", self._show_recommendation)
        self.watch(self.app, "judged", self._show_age)
        self.watch(self.app, "settled", self._show_age)
        self.query_one(FieldList).focus_rows()

    # ------------------------------------------------------------------------------------------------------ showing

    def _show_rows(self) -> None:
        settings = self.query_one(FieldList)
        settings.show(states.rows(self.wizard_app.wizard))
        self._confirm = None
        if self._waiting is not None and not states.only_advised(self._asked_about, self.wizard_app.wizard):
            key = KEYS[self._waiting]
            self._waiting = None
            self.say(f"the settings have changed meanwhile: look at them, then press {key} again", error=True)
        self._explain(settings.current)
        self._show_recommendation()

    def _explain(self, key: str | None) -> None:
        if key is not None:
            text = states.hint(self.wizard_app.wizard, key, self.wizard_app.recommendation)
            self.query_one(FieldList).explain(text)

    def _show_evaluation(self) -> None:
        evaluation: Evaluation | None = self.wizard_app.evaluation
        self.query_one(MemoryPane).evaluation = evaluation
        if evaluation is None:
            return
        self.query_one(FiguresPane).show_evaluation(evaluation)

    def _show_age(self) -> None:
        """Dims figures of older settings and names them so; what waited for the new ones then goes on."""
        app = self.wizard_app
        memory, tabs = self.query_one(MemoryPane), self.query_one(FiguresPane)
        memory.set_class(not app.judged, "older")
        memory.border_subtitle = "" if app.judged else OLDER
        tabs.set_class(not app.settled, "older")
        if app.settled and self._waiting is not None:
            act, self._waiting = self._waiting, None
            self._go(act)

    def on_screen_suspend(self) -> None:
        """Whoever leaves the plan no longer waits for it."""
        self._waiting = self._confirm = None

    def _show_recommendation(self) -> None:
        found: WizardAnswer | None = self.wizard_app.recommendation
        if found is not None:
            self.query_one(FiguresPane).show_recommendation(found, self.wizard_app.wizard.choices)

    # ------------------------------------------------------------------------------------------------------ editing

    def _try(self, change: states.Change) -> str:
        """Applies a change; what can't be is said under the list and returned."""
        before = self.wizard_app.wizard
        try:
            changed = change(before)
        except TuneplanError as error:
            said = error_line(error)
            self.query_one(FieldList).explain(said, error=True)
            return said
        self.say()
        if self._before_edit is None:
            self._remember(before, changed)
        self.wizard_app.update(changed)
        return ""

    def _remember(self, before: WizardState, after: WizardState) -> None:
        """Keeps the state before a change for `u`."""

        def values(state: WizardState) -> tuple[object, ...]:
            return (state.choices, state.hyperparameters, state.data, state.hardware)

        if values(after) != values(before):
            self._before = [*self._before, before][-UNDO_DEPTH:]

    @on(FieldList.Stepped)
    def _stepped(self, event: FieldList.Stepped) -> None:
        self._try(lambda state: states.step(state, event.key, event.direction))

    @on(FieldList.EditBegun)
    def _begun(self) -> None:
        self._before_edit = self.wizard_app.wizard
        settings = self.query_one(FieldList)
        if settings.editing and settings.typed:
            self._typed(FieldList.Changed(settings.editing, settings.typed))

    @on(FieldList.Changed)
    def _typed(self, event: FieldList.Changed) -> None:
        self._refused = ""
        if not event.text.strip() and not BY_KEY[event.key].none:
            return
        self._refused = self._try(lambda state: states.type_text(state, event.key, event.text))

    @on(FieldList.EditEnded)
    def _ended(self, event: FieldList.EditEnded) -> None:
        refused = self._refused if event.kept else ""
        if (refused or not event.kept) and self._before_edit is not None:
            # A number is taken digit by digit: of a refused one no beginning may stay.
            self.wizard_app.update(self._before_edit)
        elif self._before_edit is not None:
            self._remember(self._before_edit, self.wizard_app.wizard)
        self._before_edit, self._refused = None, ""
        if refused:
            self.query_one(FieldList).explain(refused, error=True)
        else:
            self._explain(event.key)

    @on(FieldList.Moved)
    def _moved(self, event: FieldList.Moved) -> None:
        self._explain(event.key)

    @on(FiguresPane.TierTaken)
    def _tier_taken(self, event: FiguresPane.TierTaken) -> None:
        if not self._try(lambda state: states.take_settings(state, event.report.settings)):
            self.say(f"tier {event.report.tier} taken; u takes it back")

    @on(FiguresPane.RemedyTaken)
    def _remedy_taken(self, event: FiguresPane.RemedyTaken) -> None:
        if not self._try(lambda state: states.take_remedy(state, event.change)):
            self.say(f"taken: {figures.change_text(event.change)}; u takes it back")

    # ------------------------------------------------------------------------------------------------------ actions

    def action_tier(self) -> None:
        """Takes the tier after the one that the settings equal; the recommended one first."""
        found = self.wizard_app.recommendation
        if found is None or not found.tiers:
            self.say((found.error if found else None) or "the tiers are still being computed", error=True)
            return
        tier = states.next_tier(self.wizard_app.wizard, found.tiers, found.recommended)
        self._tier_taken(FiguresPane.TierTaken(tier))
        self.query_one(FiguresPane).show_tab("tiers")

    def action_view(self) -> None:
        """The next tab."""
        self.query_one(FiguresPane).next_tab()

    def action_reset(self) -> None:
        """Forgets the person's own values and takes the recommendation again."""
        self._try(states.reset)
        self.say("your own values are forgotten; u brings them back")

    def action_undo(self) -> None:
        """Takes back the last change made here, as long as it was for the same device, model and data."""
        now = self.wizard_app.wizard
        while self._before:
            before = self._before.pop()
            if (before.model_name, before.data.path) == (now.model_name, now.data.path):
                self.wizard_app.update(states.back_to(before, now))
                self.say("taken back")
                return
        self.say("there is nothing to take back")

    def action_save(self) -> None:
        """Writes the plan file; one that does not fit has to be asked for twice."""
        self._go("save")

    def action_train(self) -> None:
        """Writes the plan file and starts the trainer; a doubtful start has to be asked for twice."""
        self._go("train")

    def _go(self, act: Act) -> None:
        """Saves or trains what stands on the screen, once it is judged and nothing speaks against it."""
        app, key = self.wizard_app, KEYS[act]
        if not app.settled:
            self._waiting, self._asked_about = act, self.wizard_app.wizard
            self.say(f"computing whether it fits; {key} waits for that")
            return
        doubt = app.doubt(act)
        if doubt is not None and (not doubt.may_go_on or self._confirm != (act, doubt)):
            self._confirm = (act, doubt) if doubt.may_go_on else None
            again = f" Press {key} again to {act} all the same." if doubt.may_go_on else ""
            self.say(doubt.text + again, error=True)
            return
        self._confirm = None
        try:
            if act == "train":
                app.start_training()
            else:
                path = live.near_path(app.save_plan())
                self.say(f"saved; start it later with: {plan_command('train', path)}")
        except TuneplanError as error:
            self.say(error_line(error), error=True)
