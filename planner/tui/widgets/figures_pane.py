"""The tabs under the memory bar: tiers, why and remedies, memory in full, advice."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static, TabbedContent, TabPane, Tabs
from textual.widgets.option_list import Option

from planner.contract.choices import TrainingChoices
from planner.contract.records import CheckReport
from planner.contract.units import format_bytes, format_count
from planner.tui import figures
from planner.tui.widgets.memory import color_of
from planner.tui.work import Evaluation, WizardAnswer

TABS = ("tiers", "why", "memory", "advice")


class TakeList(OptionList):
    """Tiers or remedies; the footer says that Enter takes one."""

    BINDING_GROUP_TITLE = "View"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Take", key_display="⏎", id="view.take", tooltip="Take the line under the cursor")
    ]


class FiguresPane(Vertical):
    """Shows an evaluation and a recommendation; posts which tier or remedy was taken."""

    class TierTaken(Message):
        """A tier was chosen."""

        def __init__(self, report: CheckReport) -> None:
            self.report = report
            super().__init__()

    class RemedyTaken(Message):
        """A remedy was chosen; `change` is its fields."""

        def __init__(self, change: dict[str, object]) -> None:
            self.change = change
            super().__init__()

    def compose(self) -> ComposeResult:
        with TabbedContent(initial="tiers"):
            with TabPane("Tiers", id="tiers"):
                yield Static(tier_header(), id="tier-header", classes="header")
                yield TakeList(compact=True, markup=False, id="tier-list")
                with VerticalScroll(id="notes-scroll"):
                    yield Static("", id="notes", markup=False)
            with TabPane("Why", id="why"):
                yield Static(figures.REMEDY_HEADER, id="remedy-header", classes="header", markup=False)
                yield TakeList(compact=True, markup=False, id="remedy-list")
                with VerticalScroll(id="reasons-scroll"):
                    yield Static("", id="reasons", markup=False)
            with TabPane("Memory", id="memory"), VerticalScroll():
                yield Static("", id="breakdown", markup=False)
            with TabPane("Advice", id="advice"), VerticalScroll():
                yield Static("", id="advice-text", markup=False)

    def on_mount(self) -> None:
        self._tiers: tuple[CheckReport, ...] = ()
        self._remedies: list[dict[str, object]] = []
        # `v` changes the view from anywhere: one stop less on the way to what is in it.
        self.query_one(Tabs).can_focus = False

    def next_tab(self) -> None:
        """The tab to the right, and round again."""
        active = self.query_one(TabbedContent).active
        self.show_tab(TABS[(TABS.index(active) + 1) % len(TABS)])

    def show_tab(self, name: str) -> None:
        """One tab by name. A focus inside the tab that goes would bring it back, so it moves on to the new one."""
        tabs = self.query_one(TabbedContent)
        focused = self.screen.focused
        inside = focused is not None and tabs.active != name and tabs.active_pane in focused.ancestors
        if inside:
            self.screen.set_focus(None)
        tabs.active = name
        if inside:
            self.call_after_refresh(self._focus_view)

    def _focus_view(self) -> None:
        """Puts the focus on the first thing in the view that can take it."""
        pane = self.query_one(TabbedContent).active_pane
        first = next((w for w in pane.query("*") if w.focusable and w.display), None) if pane is not None else None
        if first is not None:
            first.focus()

    # ------------------------------------------------------------------------------------------------------ showing

    def show_evaluation(self, evaluation: Evaluation) -> None:
        """Reasons, remedies and the full breakdown of the current configuration."""
        reasons = self.query_one("#reasons", Static)
        remedies = self.query_one("#remedy-list", OptionList)
        report = evaluation.report
        if report is None:
            reasons.update(evaluation.error or "")
            self._fill_remedies(remedies, [], [])
            self.query_one("#breakdown", Static).update("")
            return
        reasons.update(Content("\n").join([Content(f"· {figures.in_labels(reason)}") for reason in report.reasons]))
        lines = [figures.remedy_line(r.change, r.saves_bytes, r.costs_seconds_per_step) for r in report.remedies]
        self._fill_remedies(remedies, lines, [dict(remedy.change) for remedy in report.remedies])
        self.query_one("#breakdown", Static).update(breakdown(report))

    def _fill_remedies(self, listing: OptionList, lines: list[str], changes: list[dict[str, object]]) -> None:
        self._remedies = changes
        listing.set_options(Option(line, id=str(place)) for place, line in enumerate(lines))
        listing.display = self.query_one("#remedy-header").display = bool(lines)
        if lines:
            listing.highlighted = 0

    def show_recommendation(self, found: WizardAnswer, settings: TrainingChoices) -> None:
        """Tiers with the one that equals the current settings marked, and the advice."""
        listing = self.query_one("#tier-list", OptionList)
        before = listing.highlighted
        self._tiers = found.tiers
        listing.set_options(
            Option(tier_row(tier, tier.tier == found.recommended, tier.settings == settings), id=tier.tier)
            for tier in found.tiers
        )
        listing.display = self.query_one("#tier-header").display = bool(found.tiers)
        if found.tiers:
            names = [tier.tier for tier in found.tiers]
            default = names.index(found.recommended) if found.recommended in names else 0
            listing.highlighted = default if before is None else min(before, len(names) - 1)
        self.query_one("#notes", Static).update(notes_text(found))
        self.query_one("#advice-text", Static).update(advice_text(found))

    # ------------------------------------------------------------------------------------------------------- taking

    @on(OptionList.OptionSelected, "#tier-list")
    def _tier(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.TierTaken(self._tiers[event.option_index]))

    @on(OptionList.OptionSelected, "#remedy-list")
    def _remedy(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.RemedyTaken(self._remedies[event.option_index]))

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()


def tier_header() -> Content:
    """Names of the tiers' columns."""
    name, shape, peak, speed = figures.TIER_HEADER
    return Content(f" {name:<8}  {shape:<14}{peak:>7} {speed:>7}")


def notes_text(found: WizardAnswer) -> Content:
    """What the tiers rest on and what their marks mean; where none fits, why, and where help stands."""
    if found.error:
        more = ""
        if found.start is not None:
            more = (
                "\n\nThe settings show the least that was tried. v shows what would help, the bar what it is made of."
            )
        return Content(found.error + more)
    lines = [f"· {figures.in_labels(note)}" for note in found.notes]
    if len({tier.settings for tier in found.tiers}) == 1:
        lines.insert(0, "· One configuration is both the fastest and the smallest: all tiers are the same.")
    lines.append(
        "▸ is what the settings are now, ★ what is recommended"
        + (", ! is tight." if any(tier.verdict == "tight" for tier in found.tiers) else ".")
    )
    return Content("\n").join([Content(line) for line in lines])


def tier_row(tier: CheckReport, recommended: bool, current: bool) -> Content:
    """One tier in one line: name, shape, peak, speed."""
    name, shape, peak, speed = figures.tier_line(tier)
    mark = "▸" if current else " "
    star = "★" if recommended else " "
    tight = "!" if tier.verdict == "tight" else " "
    return Content.assemble(
        (mark, "$accent"),
        (f"{name:<8}", "bold"),
        (star, "$warning"),
        f" {shape:<14}",
        f"{peak:>7}{tight}",
        f"{speed:>7}",
    )


def breakdown(report: CheckReport) -> Content:
    """Every component of the peak, every instant, and the totals, in the words of the reports."""
    memory = report.memory
    parts: list[str | tuple[str, str]] = [("Device peak by component\n", "bold underline")]
    for name, size, share in figures.components(memory):
        parts += [("■ ", color_of(name)), f"{name.replace('_', ' '):<19}{format_bytes(size):>10}{share:>6.0%}\n"]
    parts += [("\nAllocated by instant\n", "bold underline")]
    for name, size, binding in figures.instants(memory):
        parts += [f"{'▸' if binding else ' '} {name:<19}{format_bytes(size):>10}", ("  binds\n" if binding else "\n")]
    parts += [("\nPeaks\n", "bold underline")]
    for name, size in (
        ("allocated", memory.allocated_peak_bytes),
        ("reserved", memory.reserved_peak_bytes),
        ("device", memory.device_peak_bytes),
        ("budget", memory.budget_bytes),
    ):
        parts.append(f"  {name:<19}{format_bytes(size):>10}\n")
    model = report.model
    parts += [
        ("\nParameters\n", "bold underline"),
        f"  {'all':<19}{format_count(model.parameters):>10}\n",
        f"  {'trained':<19}{format_count(model.trainable_parameters):>10}",
        f"{model.trainable_parameters / max(model.parameters, 1):>7.2%}",
    ]
    return Content.assemble(*parts)


def advice_text(found: WizardAnswer) -> Content:
    """Every advised value with its rule and the rule's source."""
    parts: list[str | tuple[str, str]] = []
    for advice in found.advice:
        value = figures.word(advice.value)
        rule = figures.in_labels(advice.rule)
        parts += [(f"{advice.name.replace('_', ' ')} ", "bold"), (f"{value}\n", "bold $accent"), f"  {rule}\n"]
        parts += [(f"  {advice.source}\n", "dim")]
    return Content.assemble(*parts) if parts else Content.styled(found.error or "no advice yet", "dim")
