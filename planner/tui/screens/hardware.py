"""Step 1: the device, found by itself and changeable."""

from __future__ import annotations

import re
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content

from planner.contract.errors import TuneplanError
from planner.contract.spec import HardwareProfile
from planner.contract.units import format_bytes, format_quantity, format_rate
from planner.report.finding import ListEntry
from planner.tui.makers import device_order, maker_of, same_but_memory
from planner.tui.screens.base import VAST, ListScreen, facts_of
from planner.tui.widgets.filter_list import FilterList
from planner.tui.widgets.hanging import MARK
from planner.tui.work import error_line

WELCOME = (
    "Says what fits, how fast and why before anything is downloaded; then trains it. "
    "Enter takes the marked device (★ this machine), ? explains each step."
)


class HardwareScreen(ListScreen):
    """A filterable list of devices and the facts of the one under the cursor."""

    PLACE = 0
    LIST = ("devices", "type to filter: a10g, 4090, m3 …")
    HELP_TEXT = (
        "The device that the training will run on. This machine's own is found by itself and stands first; any other "
        "may be planned for. Type to narrow the list, ↑ ↓ to move, Enter to choose. Tab goes to the facts, where ↑ ↓ "
        "scroll.\n\nbudget: the bytes a run may use = total − what other processes hold − the reserve that stays free."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Choose", key_display="⏎", id="hardware.choose", tooltip="Take this device"),
        Binding("ctrl+o", "app.runs", "Runs", key_display="^o", id="hardware.runs",
                tooltip="Runs: to open, to follow, to compare"),
    ]  # fmt: skip

    def on_mount(self) -> None:
        self.name_panes("Hardware: what will train?", "Facts")
        self.say(WELCOME)
        self._moved = False
        """Whether the cursor was moved by hand since the last letter."""
        self._before = ""
        self.watch(self.app, "wizard", self._fill)
        self.query_one(FilterList).focus_filter()

    def _fill(self) -> None:
        wizard = self.wizard_app.wizard
        wide = self.size.width >= VAST
        entries = []
        for profile in sorted(self.wizard_app.profiles, key=device_order):
            here = profile.name == wizard.this_machine
            size = f"{profile.total_bytes / 2**30:.0f} GiB"
            entry = ListEntry(
                key=profile.name,
                row=f"{profile.name:<18}{size:>8}{rates(profile) if wide else ''}",
                more=f"{profile.title} {' '.join(profile.aliases)}",
                names=tuple(alias.lower() for alias in profile.aliases),
                group="This machine" if here else maker_of(profile),
                mark="★ " if here else "  ",
                style="$warning",
            )
            entries.append((here, entry))
        entries.sort(key=lambda entry: not entry[0])
        chosen = wizard.hardware.name if wizard.hardware else wizard.this_machine
        if entries == getattr(self, "_shown", None):
            return
        self._shown = entries
        self.query_one(FilterList).fill([entry for _, entry in entries], select=chosen)
        self.query_one("#devices").border_subtitle = "★ this machine" if wizard.this_machine else "looking …"

    def on_resize(self) -> None:
        """Where there is room, the devices' rates stand beside them."""
        super().on_resize()
        self._fill()

    @on(FilterList.Highlighted)
    def _highlighted(self, event: FilterList.Highlighted) -> None:
        typed = self.query_one(FilterList).text
        if typed:
            self.say()
        # Whoever moved the cursor has looked at what there is.
        self._moved = typed == self._before
        self._before = typed
        profile = self._profile(event.key)
        text = facts_text(profile, self._used(profile)) if profile else Content.styled("no such device is known", "dim")
        if profile and profile.name == self.wizard_app.wizard.this_machine and self.wizard_app.wizard.note:
            text = Content.assemble(text, "\n\n", self.wizard_app.wizard.note)
        self.show_facts(text)

    @on(FilterList.Chosen)
    def _chosen(self, event: FilterList.Chosen) -> None:
        profile = self._profile(event.key)
        several = self._meant(event.text) if not self._moved else []
        if len(several) > 1:
            self._moved = True
            more = "" if len(several) <= 6 else f" and {len(several) - 6} more"
            names = ", ".join(several[:6]) + more
            self.say(f"“{event.text}” may be {names}: ↑ ↓ choose, Enter takes the marked one.")
            return
        if profile is None:
            try:
                profile = self.wizard_app.find_hardware(event.text)
            except TuneplanError as error:
                self.say(error_line(error), error=True)
                return
        self.say()
        self.wizard_app.choose_hardware(profile)
        self.wizard_app.go_on()

    def _meant(self, typed: str) -> list[str]:
        """The devices that what was typed may mean; those that differ in memory too where it says no memory."""
        alike = [entry.key for entry in self.query_one(FilterList).alike()]
        if len(alike) == 1 and typed and not re.search(r"\d+ ?gb?$|-\d+gb", typed.lower()):
            return same_but_memory(alike[0], [profile.name for profile in self.wizard_app.profiles])
        return alike if typed else []

    def _profile(self, key: str | None) -> HardwareProfile | None:
        return next((profile for profile in self.wizard_app.profiles if profile.name == key), None)

    def _used(self, profile: HardwareProfile | None) -> int:
        wizard = self.wizard_app.wizard
        return wizard.used_by_others_bytes if profile and profile.name == wizard.this_machine else 0


def rates(profile: HardwareProfile) -> str:
    """Bandwidth and the highest rate of computing, for a list that is wide enough to show them."""
    bandwidth = format_rate(profile.bandwidth_bytes_per_second, "B")
    name = "bf16" if "bf16" in profile.flops_per_second else "fp16"
    rate = profile.flops_per_second.get(name) or profile.flops_per_second.get("fp32")
    return f"{bandwidth:>13}" + (f"{format_rate(rate, 'FLOP'):>15}" if rate else "")


def facts_text(profile: HardwareProfile, used_by_others_bytes: int = 0) -> Content:
    """Everything known of a device, each fact with its source and date."""
    reserve = profile.reserve_bytes
    rows = [
        ("total", format_bytes(profile.total_bytes)),
        ("reserve", format_bytes(reserve)),
        ("held by others", format_bytes(used_by_others_bytes) if used_by_others_bytes else "nothing known"),
        ("budget", format_bytes(max(0, profile.budget_bytes - used_by_others_bytes))),
        ("bandwidth", format_rate(profile.bandwidth_bytes_per_second, "B")),
        ("dtypes", " ".join(profile.dtypes)),
    ]
    rows += [(f"peak {name}", format_rate(rate, "FLOP")) for name, rate in profile.flops_per_second.items()]
    if profile.compute_capability:
        rows.append(("capability", ".".join(str(part) for part in profile.compute_capability)))
    rows.append(("context", format_bytes(profile.context_bytes)))
    rows.append(("memory", "shared with the CPU" if profile.unified_memory else "the device's own"))
    if profile.aliases:
        rows.append(("also", ", ".join(profile.aliases)))
    parts = facts_of(profile.title, rows, width=15)
    if profile.facts:
        parts += ["\n", ("Sources\n", "bold underline")]
        for name, fact in profile.facts.items():
            value = format_quantity(fact.value, fact.unit)
            parts += [f"{name} ", (f"{value}\n", "bold"), (f"  {MARK}{fact.source}, {fact.date}\n", "dim")]
    return Content.assemble(*parts)
