"""What stands in a memory report: components as bars, instants, and a configuration's judgement with its remedies."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.contract.records import CheckReport, MemoryReport, Remedy
from planner.contract.units import format_bytes, format_count, format_duration
from planner.decide.reasons import component_text
from planner.report import words

THEN = {"fits": ("fits", "green"), "tight": ("tight", "yellow"), "does_not_fit": ("too large", "red")}
"""What a remedy leads to, with its colour."""
SMALL_SHARE = 0.002
"""Components under this share of the peak are summed into one line."""


def breakdown(console: Console, memory: MemoryReport) -> Table:
    """The components of the peak, largest first, against the budget; they sum to the device peak."""
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    rest = 0
    for name, size in sorted(memory.components.items(), key=lambda item: -item[1]):
        if size < SMALL_SHARE * memory.device_peak_bytes:
            rest += size
            continue
        _component(console, table, component_text(name), size, memory, "cyan")
    if rest:
        _component(console, table, "the rest", rest, memory, "cyan")
    _component(console, table, "device peak", memory.device_peak_bytes, memory, words.memory_style(memory))
    return table


def _component(console: Console, table: Table, name: str, size: int, memory: MemoryReport, style: str) -> None:
    share = size / max(1, memory.budget_bytes)
    table.add_row(name, format_bytes(size), f"{share:.1%}", words.bar(console, share, 30, style))


def instants_line(memory: MemoryReport) -> Text:
    """Allocated bytes at each instant's peak, the binding one marked."""
    text = Text("Tensors at each instant: ")
    for number, (name, size) in enumerate(memory.instants.items()):
        style = "bold" if name == memory.binding_instant else "dim"
        text.append(f"{', ' if number else ''}{name} {format_bytes(size)}", style=style)
    return text


def check_view(console: Console, report: CheckReport) -> None:
    """Prints one configuration's judgement."""
    settings, memory = report.settings, report.memory
    style = words.VERDICT_STYLE[report.verdict]
    console.print(
        Text.assemble(
            (f"{words.VERDICT_TEXT[report.verdict].capitalize()}", f"bold {style}"),
            f": {report.model.id} on {report.hardware['title']}, batch {words.batch_text(settings)}, "
            f"length {settings.max_length}",
        )
    )
    console.print(configuration_line(report), style="dim")
    share = memory.device_peak_bytes / max(1, memory.budget_bytes)
    console.print(
        Text.assemble(
            words.bar(console, share, 40, words.memory_style(memory)),
            f" {format_bytes(memory.device_peak_bytes)} of {format_bytes(memory.budget_bytes)} ({share:.0%})",
        )
    )
    console.print()
    console.print(breakdown(console, memory))
    console.print()
    for sentence in report.reasons:
        console.print(sentence)
    console.print(instants_line(memory))
    console.print(speed_line(report))
    if report.remedies:
        console.print()
        console.print(Text("What would help", style="bold"))
        console.print(remedies_table(report))


def configuration_line(report: CheckReport) -> str:
    """The settings that matter, in one line."""
    settings = report.settings
    return (
        f"{words.method_text(settings)}; {settings.precision}, {settings.optimizer}, recompute "
        f"{words.checkpoint_text(settings)}, loss {settings.loss}, attention {settings.attention}, "
        f"stack {settings.stack}; {format_count(report.model.trainable_parameters)} of "
        f"{format_count(report.model.parameters)} parameters trained"
    )


def speed_line(report: CheckReport) -> str:
    """Speed with its interval, or that none is modelled."""
    speed = report.speed
    if speed is None:
        return "No speed is modelled for this configuration."
    low, high = speed.interval_tokens_per_second
    text = (
        f"Speed: about {speed.tokens_per_second:,.0f} tokens/s ({low:,.0f} to {high:,.0f}), "
        f"{format_duration(speed.step_seconds)} a step"
    )
    return text + (f", {format_duration(speed.epoch_seconds)} an epoch." if speed.epoch_seconds is not None else ".")


def remedies_table(report: CheckReport) -> Table:
    """Changes with what they free and cost; those that make it fit carry a mark."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("change")
    table.add_column("frees", justify="right", no_wrap=True)
    table.add_column("time a step", justify="right", no_wrap=True)
    table.add_column("then", no_wrap=True)
    for remedy in report.remedies:
        table.add_row(
            words.change_text(remedy.change),
            format_bytes(remedy.saves_bytes),
            _cost(remedy),
            Text(*THEN[remedy.verdict]),
        )
    return table


def _cost(remedy: Remedy) -> str:
    cost = remedy.costs_seconds_per_step
    if cost is None:
        return ""
    if abs(cost) < 0.005:
        return "±0"
    return f"{'+' if cost > 0 else '−'}{format_duration(abs(cost))}"
