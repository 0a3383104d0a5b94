"""Step 4: the plan. Settings at the left; memory, speed, tiers, reasons and advice follow every key at the right."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from planner.contract.errors import TuneplanError
from planner.handover.commands import plan_command
from planner.tui import figures, hints, live
from planner.tui import state as states
from planner.tui.doubts import Act, Doubt
from planner.tui.fields import BY_KEY
from planner.tui.screens.base import WizardScreen
from planner.tui.state import WizardState
from planner.tui.widgets.deck import Deck
from planner.tui.widgets.field_list import FieldList
from planner.tui.widgets.panels.around import AroundPanel
from planner.tui.widgets.panels.lists import TiersPanel, WhyPanel
from planner.tui.widgets.panels.step import StepPanel
from planner.tui.widgets.panels.texts import AdvicePanel, DataPanel, FullPanel, advice_text, breakdown, lengths_text
from planner.tui.widgets.panels.verdict import VerdictPanel
from planner.tui.work import Evaluation, WizardAnswer, error_line

UNDO_DEPTH = 100
WHOLE_BATCH = "The batch is the whole effective batch: raise the effective batch first, or type a number."
KEYS: dict[Act, str] = {"train": "t", "save": "s"}
PANELS = (StepPanel, AroundPanel, TiersPanel, WhyPanel, DataPanel, AdvicePanel, FullPanel)
JUMPS = {"settings": ("e", "Settings"), **{panel.NAME: (panel.JUMP, panel.TITLE) for panel in PANELS}}
"""The letter that goes to each panel, and what stands over it."""
OLDER = "older settings' figures; computing …"


class PlanScreen(WizardScreen):
    """Edits the choices and shows what they cost."""

    PLACE = 3
    HELP_TEXT = (
        "The plan: at the left what will be done, beside it whether it fits (the bar is the device's memory), how "
        "tightly, how fast and why. It can be trained as it stands: t starts it, s writes it to a file.\n\n"
        "↑ ↓ choose a setting, ← → change it, digits or Enter type a value; every figure follows, what is computed "
        "anew is dimmed until it is there; u takes a change back. • marks what you set yourself: a new recommendation "
        "leaves it alone.\n\nEach panel's title marks the letter that goes there: m memory over one step (← → move "
        "its cursor), b batch and length (Enter takes the place under the cursor), i tiers, w why and remedies, a "
        "advice, d data, f the peak in full, e back to the settings. Tab goes round, v shows the next panel where "
        "several share a room, z gives one the whole screen and back. The tiers train the same thing (same effective "
        "batch) at different headroom: g takes the next one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "tier", "Tier", id="plan.tier", tooltip="Take the next tier: high, balanced, low, safe"),
        Binding("v", "view", "View", id="plan.view", tooltip="The next panel where several share a room"),
        Binding("z", "zoom", "Zoom", show=False, id="plan.zoom", tooltip="One panel fills the screen"),
        Binding("u", "undo", "Undo", id="plan.undo", tooltip="Take back the last change: a value, a tier, a remedy"),
        Binding("s", "save", "Save", id="plan.save", tooltip="Write the plan file"),
        Binding("t", "train", "Train", id="plan.train", tooltip="Write the plan file and start the training"),
        Binding("r", "reset", "Reset", show=False, id="plan.reset", tooltip="Forget your own values, take the advice"),
        Binding("escape", "leave", "Back", id="wizard.back", tooltip="Out of the zoom, to the settings, a step back"),
        *(
            Binding(key, f"jump('{name}')", title, show=False, id=f"plan.go_{name}", tooltip=f"To the panel “{title}”")
            for name, (key, title) in JUMPS.items()
        ),
    ]

    def body(self) -> ComposeResult:
        yield Deck(
            FieldList(id="settings"),
            VerdictPanel(id="verdict"),
            StepPanel(id="step"),
            AroundPanel(id="around"),
            TiersPanel(id="tiers"),
            WhyPanel(id="why"),
            DataPanel(id="data"),
            AdvicePanel(id="advice"),
            FullPanel(id="full"),
            id="deck",
        )

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
        self._data_shown: object = None
        self._advice_shown: object = None
        self._verdict_rows = (0, 0)
        self._before: list[WizardState] = []
        """The states before each change made here, the last one at the end."""
        for name, show in (
            ("wizard", self._show_rows),
            ("evaluation", self._show_evaluation),
            ("recommendation", self._show_recommendation),
            ("surroundings", self._show_surroundings),
            ("judged", self._show_age),
            ("tiers_judged", self._show_age),
            ("around_judged", self._show_age),
            ("settled", self._show_age),
        ):
            self.watch(self.app, name, show)
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
        self._show_data()

    def _explain(self, key: str | None) -> None:
        if key is not None:
            text = hints.hint(self.wizard_app.wizard, key, self.wizard_app.recommendation)
            self.query_one(FieldList).explain(text)

    def _show_evaluation(self) -> None:
        evaluation: Evaluation | None = self.wizard_app.evaluation
        self.query_one(VerdictPanel).evaluation = evaluation
        if evaluation is None:
            return
        self.query_one(WhyPanel).show(evaluation, looking=not evaluation.complete)
        report = evaluation.report
        self.query_one(FullPanel).show("" if report is None else breakdown(report))
        self._settle_rooms()

    def _show_surroundings(self) -> None:
        found = self.wizard_app.surroundings
        if found is not None:
            self.query_one(StepPanel).show(found.course, self.wizard_app.evaluation)
            self.query_one(AroundPanel).show(found.around)

    def _show_data(self) -> None:
        wizard = self.wizard_app.wizard
        panel = self.query_one(DataPanel)
        shown = (wizard.dataset, wizard.choices.max_length, panel.size.width)
        if shown != self._data_shown:
            self._data_shown = shown
            panel.show(lengths_text(wizard.dataset, wizard.choices.max_length, max(24, panel.size.width)))

    @on(DataPanel.Widened)
    def _widened(self) -> None:
        self._show_data()

    def on_resize(self) -> None:
        """Histograms are as wide as their panel."""
        super().on_resize()
        self.call_after_refresh(self._show_data)

    def _settle_rooms(self) -> None:
        """The verdict's legend or the reasons have grown or shrunk: the rooms follow."""
        deck = self.query_one(Deck)
        wanted = (self.query_one(VerdictPanel).wanted(76), self.query_one(WhyPanel).wanted(76))
        if wanted != self._verdict_rows:
            self._verdict_rows = wanted
            deck.settle()

    def _show_age(self) -> None:
        """Dims figures of older settings and names them so; what waited for the new ones then goes on."""
        app = self.wizard_app
        verdict = self.query_one(VerdictPanel)
        verdict.set_class(not app.judged, "older")
        verdict.border_subtitle = "" if app.judged else OLDER
        for name, new in (
            ("why", app.judged),
            ("full", app.judged),
            ("tiers", app.tiers_judged),
            ("advice", app.tiers_judged),
            ("step", app.around_judged),
            ("around", app.around_judged),
        ):
            self.query_one(f"#{name}").set_class(not new, "older")
        if app.settled and self._waiting is not None:
            act, self._waiting = self._waiting, None
            self._go(act)

    def on_screen_suspend(self) -> None:
        """Whoever leaves the plan no longer waits for it."""
        self._waiting = self._confirm = None

    def _show_recommendation(self) -> None:
        found: WizardAnswer | None = self.wizard_app.recommendation
        if found is None:
            return
        self.query_one(TiersPanel).show(found, self.wizard_app.wizard.choices)
        if found is not self._advice_shown:
            self._advice_shown = found
            self.query_one(AdvicePanel).show(advice_text(found))
            self.query_one(Deck).settle()

    # ------------------------------------------------------------------------------------------------------ editing

    def _try(self, change: states.Change, told: Callable[[WizardState], str] = lambda changed: "") -> str:
        """Applies a change and says what is `told` of it; what can't be is said under the list and returned."""
        before = self.wizard_app.wizard
        try:
            changed = change(before)
        except TuneplanError as error:
            said = error_line(error)
            self.query_one(FieldList).explain(said, error=True)
            return said
        self.say(told(changed))
        if self._before_edit is None:
            self._remember(before, changed)
        self.wizard_app.update(changed)
        return ""

    def _remember(self, before: WizardState, after: WizardState) -> None:
        """Keeps the state before a change for `u`."""

        def values(state: WizardState) -> tuple[object, ...]:
            aims = (state.scenario, state.goal, state.reserve_bytes, state.seconds)
            return (state.choices, state.hyperparameters, state.data, state.hardware, *aims)

        if values(after) != values(before):
            self._before = [*self._before, before][-UNDO_DEPTH:]

    @on(FieldList.Stepped)
    def _stepped(self, event: FieldList.Stepped) -> None:
        before, larger = self.wizard_app.wizard.choices, event.key == "batch_size" and event.direction > 0

        def told(changed: WizardState) -> str:
            return WHOLE_BATCH if larger and changed.choices == before else ""

        self._try(lambda state: states.step(state, event.key, event.direction), told)

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

    @on(TiersPanel.Taken)
    def _tier_taken(self, event: TiersPanel.Taken) -> None:
        if not self._try(lambda state: states.take_settings(state, event.report.settings)):
            self.say(f"tier {event.report.tier} taken; u takes it back")

    @on(WhyPanel.Taken)
    def _remedy_taken(self, event: WhyPanel.Taken) -> None:
        if not self._try(lambda state: states.take_remedy(state, event.change)):
            self.say(f"taken: {figures.change_text(event.change)}; u takes it back")

    @on(AroundPanel.Taken)
    def _place_taken(self, event: AroundPanel.Taken) -> None:
        def both(state: WizardState) -> WizardState:
            if event.length != state.choices.max_length:
                state = states.change(state, "max_length", event.length)
            return states.change(state, "batch_size", event.batch) if event.batch != state.choices.batch_size else state

        if not self._try(both):
            self.say(f"batch {event.batch} × length {event.length} taken; u takes it back")

    # ------------------------------------------------------------------------------------------------------ actions

    def action_tier(self) -> None:
        """Takes the tier after the one that the settings equal; the recommended one first."""
        found = self.wizard_app.recommendation
        if found is None or not found.tiers:
            self.say((found.error if found else None) or "the tiers are still being computed", error=True)
            return
        tier = hints.next_tier(self.wizard_app.wizard, found.tiers, found.recommended)
        self._tier_taken(TiersPanel.Taken(tier))
        deck = self.query_one(Deck)
        if not deck.zoomed:
            deck.show("tiers")

    def action_view(self) -> None:
        """The next panel of those that share a room."""
        self.query_one(Deck).next_shared()

    def action_zoom(self) -> None:
        """One panel for the whole screen, or all of them again."""
        self.query_one(Deck).zoom()

    def action_jump(self, name: str) -> None:
        """Into a panel."""
        self.query_one(Deck).jump(name)

    def action_leave(self) -> None:
        """Out of the zoom, then back to the settings, then a step back."""
        deck = self.query_one(Deck)
        if deck.zoomed:
            deck.zoom()
        elif deck.focused_panel not in ("", "settings"):
            deck.jump("settings")
        else:
            self.wizard_app.go("data")

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
