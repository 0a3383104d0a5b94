"""Tiers and remedies: lists of which Enter takes a line, with what they rest on below."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from planner.contract.choices import TrainingChoices
from planner.contract.records import CheckReport
from planner.tui import figures
from planner.tui.figures import TIER_HEADER
from planner.tui.widgets.hanging import MARK, Hanging
from planner.tui.widgets.panels.base import BoxPanel
from planner.tui.widgets.panels.verdict import VERDICT_STYLES
from planner.tui.widgets.quiet_list import QuietList
from planner.tui.work import Evaluation, WizardAnswer

MOST_LINES = 16
"""Lines that the reasons and remedies get where there is room."""


class TakeList(QuietList):
    """Lines of which Enter takes one."""

    BINDING_GROUP_TITLE = "View"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Take", key_display="⏎", id="view.take", tooltip="Take the line under the cursor"),
        Binding("j", "cursor_down", "Down", show=False, id="view.down", tooltip="The line below"),
        Binding("k", "cursor_up", "Up", show=False, id="view.up", tooltip="The line above"),
    ]


class TiersPanel(BoxPanel):
    """Tiers as distinct points; posts which one was taken."""

    NAME, TITLE, JUMP = "tiers", "Tiers", "i"

    class Taken(Message):
        """A tier was chosen."""

        def __init__(self, report: CheckReport) -> None:
            self.report = report
            super().__init__()

    def compose(self) -> ComposeResult:
        yield Static("", classes="header", markup=False)
        yield TakeList(compact=True, markup=False, id="tier-list")
        with VerticalScroll(id="notes-scroll", can_focus=False):
            yield Hanging("", id="notes", markup=False)

    def on_mount(self) -> None:
        super().on_mount()
        self._found: WizardAnswer | None = None
        self._now: TrainingChoices | None = None
        self._shown: object = None

    def wanted(self, width: int) -> int:
        """Tiers, header and four lines of notes."""
        tiers = 0 if self._found is None else len(self._found.tiers)
        return max(tiers, 1) + 3 + 4

    def on_resize(self) -> None:
        """Wider lines have bars."""
        self._draw()

    def show(self, found: WizardAnswer, settings: TrainingChoices) -> None:
        """Tiers, with the one that equals the current settings marked."""
        self._found, self._now = found, settings
        self._draw()

    def _draw(self) -> None:
        found = self._found
        if found is None:
            return
        width = self.size.width - 2
        shown = (found, [tier.settings == self._now for tier in found.tiers], width)
        if shown == self._shown:
            return
        self._shown = shown
        listing = self.query_one("#tier-list", OptionList)
        before = listing.highlighted
        room = max([len(TIER_HEADER[1]), *(len(figures.tier_line(tier)[1]) for tier in found.tiers)]) + 1
        bar = max(0, min(30, width - 33 - room)) if width >= 44 + room else 0
        listing.set_options(
            Option(
                tier_row(tier, (tier.tier == found.recommended, tier.settings == self._now), room, bar), id=tier.tier
            )
            for tier in found.tiers
        )
        listing.display = self.query_one(".header").display = bool(found.tiers)
        if found.tiers:
            names = [tier.tier for tier in found.tiers]
            default = names.index(found.recommended) if found.recommended in names else 0
            listing.highlighted = default if before is None else min(before, len(names) - 1)
        self.query_one(".header", Static).update(tier_header(room))
        self.query_one("#notes", Static).update(notes_text(found))

    @on(OptionList.OptionSelected, "#tier-list")
    def _tier(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        assert self._found is not None
        self.post_message(self.Taken(self._found.tiers[event.option_index]))

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()


class WhyPanel(BoxPanel):
    """Reasons and remedies; posts which remedy was taken."""

    NAME, TITLE, JUMP = "why", "Why", "w"

    class Taken(Message):
        """A remedy was chosen; `change` is its fields."""

        def __init__(self, change: dict[str, object]) -> None:
            self.change = change
            super().__init__()

    def compose(self) -> ComposeResult:
        yield Static(figures.REMEDY_HEADER, classes="header", markup=False)
        yield TakeList(compact=True, markup=False, id="remedy-list")
        with VerticalScroll(id="reasons-scroll"):
            yield Hanging("", id="reasons", markup=False)

    def wanted(self, width: int) -> int:
        """Remedies and reasons, as far as they make sense at a glance."""
        said = sum(-(-len(line) // max(20, width)) for line in self._said)
        listed = len(self._remedies) + 1 if self._remedies else 0
        return min(said + listed, MOST_LINES) + 2

    def on_mount(self) -> None:
        super().on_mount()
        self._said: list[Content] = []
        self._remedies: list[dict[str, object]] = []
        self._fill([], [])

    def show(self, evaluation: Evaluation, *, looking: bool = False) -> None:
        """Reasons and remedies of the current configuration; `looking`: the remedies are still being sought."""
        reasons = self.query_one("#reasons", Static)
        report = evaluation.report
        if report is None:
            reasons.update(evaluation.error or "")
            self._fill([], [])
            return
        said = [Content(f"· {MARK}{figures.in_labels(reason)}") for reason in report.reasons]
        if looking:
            said.insert(0, Content.styled("looking for what would help …", "dim"))
        self._said = said
        reasons.update(Content("\n").join(said))
        lines = [figures.remedy_line(r.change, r.saves_bytes, r.costs_seconds_per_step) for r in report.remedies]
        marks = [VERDICT_STYLES[remedy.verdict] for remedy in report.remedies]
        texts = [Content.assemble(("● ", mark), line[1:]) for mark, line in zip(marks, lines, strict=True)]
        self._fill(texts, [dict(remedy.change) for remedy in report.remedies])

    def _fill(self, lines: list[Content], changes: list[dict[str, object]]) -> None:
        self._remedies = changes
        listing = self.query_one("#remedy-list", OptionList)
        listing.set_options(Option(line, id=str(place)) for place, line in enumerate(lines))
        listing.display = self.query_one(".header").display = bool(lines)
        if lines:
            listing.highlighted = 0
            focused = self.screen.focused
            if focused is not None and focused is not listing and self in focused.ancestors:
                self.screen.set_focus(listing)  # whoever came here for the remedies came before them

    @on(OptionList.OptionSelected, "#remedy-list")
    def _remedy(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Taken(self._remedies[event.option_index]))

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()


def tier_header(room: int) -> Content:
    """Names of the tiers' columns; that of the shapes is `room` cells wide."""
    name, shape, peak, speed = TIER_HEADER
    return Content(f" {name:<8} {shape:<{room}}{peak:>7} {speed:>6}")


def notes_text(found: WizardAnswer) -> Content:
    """What the tiers rest on and what their marks mean; where none fits, why, and where help stands."""
    if found.error:
        more = ""
        if found.start is not None:
            more = (
                "\n\nThe settings show the least that was tried. w shows what would help, the bar what it is made of."
            )
        return Content(found.error + more)
    lines = [f"· {MARK}{figures.in_labels(note)}" for note in found.notes]
    if len({tier.settings for tier in found.tiers}) == 1:
        lines.insert(0, f"· {MARK}One configuration is both the fastest and the smallest: all tiers are the same.")
    lines.insert(
        0,
        "▸ is what the settings are now, ★ what is recommended"
        + (", ! is tight." if any(tier.verdict == "tight" for tier in found.tiers) else "."),
    )
    return Content("\n").join([Content(line) for line in lines])


def tier_row(tier: CheckReport, marks: tuple[bool, bool], room: int, bar: int) -> Content:
    """One tier in one line: name, shape in `room` cells, peak, speed, and the peak as a bar of `bar` cells against the
    budget. `marks`: whether it is recommended, and whether the settings are it now.
    """
    recommended, current = marks
    name, shape, peak, speed = figures.tier_line(tier)
    memory = tier.memory
    cells = figures.filled(memory.device_peak_bytes, memory.budget_bytes, bar)
    return Content.assemble(
        ("▸" if current else " ", "$accent"),
        (f"{name:<8}", "bold"),
        ("★" if recommended else " ", "$warning"),
        f"{shape:<{room}}",
        f"{peak:>7}{'!' if tier.verdict == 'tight' else ' '}",
        f"{speed:>6}" + ("  " if bar else ""),
        ("━" * cells, VERDICT_STYLES[tier.verdict]),
        ("━" * (bar - cells), "$border-blurred"),
    )
