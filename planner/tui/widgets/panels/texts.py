"""Panels that are one text: advice with its sources, the peak in full, and the data's lengths with the cut."""

from __future__ import annotations

import re
from pathlib import Path

from textual.content import Content
from textual.message import Message

from planner.contract.records import CheckReport
from planner.contract.units import format_bytes, format_count
from planner.data.dataset import DatasetProfile
from planner.tui import figures
from planner.tui.theme import color_of
from planner.tui.widgets.hanging import MARK
from planner.tui.widgets.panels.base import TextPanel
from planner.tui.work import WizardAnswer

BINS = 8


class AdvicePanel(TextPanel):
    """Every advised value with its rule and source."""

    NAME, TITLE, JUMP = "advice", "Advice", "a"


class FullPanel(TextPanel):
    """Every component, instant and total."""

    NAME, TITLE, TAB, JUMP = "full", "The peak in full", "Full", "f"


class DataPanel(TextPanel):
    """Lengths in tokens, and what the maximal length cuts."""

    NAME, TITLE, JUMP = "data", "Data", "d"

    class Widened(Message):
        """It has another width: its bars follow."""

    def on_resize(self) -> None:
        """Told, since it may come into sight long after the screen has its size."""
        self.post_message(self.Widened())

    def wanted(self, width: int) -> int:
        """Its lines, border included; one line where there is no data."""
        return BINS + 4


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
        value = figures.setting(advice.name, advice.value)
        rule = figures.in_labels(advice.rule)
        parts += [(f"{advice.name.replace('_', ' ')} ", "bold"), (f"{value}\n", "bold $accent"), f"  {MARK}{rule}\n"]
        parts += [(f"  {MARK}{short_source(advice.source)}\n", "dim")]
    if not parts:
        return Content.styled(found.error or "no advice yet", "dim")
    return Content.assemble(*parts, ("\nThe sources' addresses: plan … --advice, docs/advice.md", "dim"))


def short_source(source: str) -> str:
    """Who says it and when, without the addresses."""
    return re.sub(r",?\s*\bhttps?://[^\s;,)]+", "", source).strip(" ,;")


def lengths_text(data: DatasetProfile | None, max_length: int, width: int, bins: int = BINS) -> Content:
    """The histogram of lengths with the cut in it."""
    if data is None:
        return Content.styled("No data chosen: esc goes back to pick a file.", "dim")
    about = "" if data.exact else "about "
    cut = data.share_truncated(max_length)
    said = (
        f"{max_length:,} cuts {cut:.1%} of the examples, {data.share_tokens_lost(max_length):.1%} of the tokens"
        if cut
        else f"{max_length:,} cuts nothing: the longest has {about}{data.longest:,}"
    )
    parts: list[str | tuple[str, str]] = [
        (Path(data.path).name, "bold"),
        f"  {data.examples:,} examples, {about}{data.tokens:,} tokens\n",
        (f"{said}\n", "$text-warning" if cut else "dim"),
    ]
    edges = data.spread(bins)
    for (label, count, cells), (_, edge, _) in zip(figures.histogram(edges, max(8, width - 22)), edges, strict=True):
        color = "$primary" if edge <= max_length or not cut else "$error"
        parts += [(f"{label:>13} ", "dim"), ("█" * cells or ("▏" if count else ""), color), f" {count:,}\n"]
    return Content.assemble(*parts)
