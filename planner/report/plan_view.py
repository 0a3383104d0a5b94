"""The answer to `plan`: tiers at a glance in 80 columns, then the recommended one, its advice, and how to start it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.contract.records import CheckReport
from planner.contract.units import format_bytes, format_count, format_duration
from planner.decide.reasons import runs_inside
from planner.decide.search import Recommendation
from planner.report import words
from planner.report.memory_view import breakdown, instants_line, speed_line

BAR_WIDTH = 12


def plan_view(console: Console, answer: Recommendation, start: list[str], *, details: bool = True) -> None:
    """Prints a recommendation; `start` are the command lines that begin the run, none where it begins by itself."""
    best = answer.recommended
    _heading(console, answer)
    console.print()
    console.print(tiers_table(console, answer))
    console.print()
    for note in answer.notes:
        console.print(note, style="dim")
    if details:
        console.print()
        console.print(Text(f"Memory of {best.tier} at its peak ({best.memory.binding_instant})", style="bold"))
        console.print(breakdown(console, best.memory))
        low, high = best.memory.interval_bytes
        inside = runs_inside(best.calibration)
        console.print(f"{inside} runs: {format_bytes(low)} to {format_bytes(high)} on the device.", style="dim")
        console.print(instants_line(best.memory))
        console.print(speed_line(best))
        console.print()
        console.print(Text("Advice", style="bold"))
        console.print(advice_table(answer))
        console.print("Sources with addresses: --json, docs/advice.md", style="dim")
    if start:
        console.print()
        console.print(Text("Start it", style="bold"))
    for line in start:
        # Not wrapped: a command must survive copying.
        console.print(Text(f"  {line}", style="cyan"), soft_wrap=True)


def _heading(console: Console, answer: Recommendation) -> None:
    best = answer.recommended
    settings = best.settings
    console.print(
        Text.assemble(
            (best.model.id, "bold"),
            f" ({format_count(best.model.parameters)} parameters) on ",
            (str(best.hardware["title"]), "bold"),
            f", budget {format_bytes(best.memory.budget_bytes)}",
        )
    )
    console.print(
        f"{words.method_text(settings)}: {format_count(best.model.trainable_parameters)} trained", style="dim"
    )
    shared = [f"effective batch {answer.effective_batch_size}"]
    shared += [f"length {settings['max_length']}"] if _same(answer, "max_length") else []
    shared += [str(settings["precision"]), str(settings["optimizer"])]
    shared += [f"loss {settings['loss']}"] if _same(answer, "loss") else []
    shared += [f"attention {settings['attention']}"] if settings["attention"] != "sdpa" else []
    shared += [f"stack {settings['stack']}"]
    console.print(" · ".join(shared), style="dim")


def _same(answer: Recommendation, name: str) -> bool:
    return len({str(option.settings[name]) for option in answer.options}) == 1


def tiers_table(console: Console, answer: Recommendation) -> Table:
    """One line per tier, one for all where they are equal; what all share stands in the heading instead."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    with_length, with_loss = not _same(answer, "max_length"), not _same(answer, "loss")
    with_epoch = any(option.speed is not None and option.speed.epoch_seconds is not None for option in answer.options)
    table.add_column("  tier", no_wrap=True)
    table.add_column("batch", no_wrap=True)
    if with_length:
        table.add_column("length", justify="right", no_wrap=True)
    table.add_column("recompute", no_wrap=True)
    if with_loss:
        table.add_column("loss", no_wrap=True)
    table.add_column("peak of budget", no_wrap=True)
    table.add_column("binds", no_wrap=True)
    table.add_column("tok/s", justify="right", no_wrap=True)
    table.add_column("epoch" if with_epoch else "step", justify="right", no_wrap=True)
    bar_width = BAR_WIDTH - 4 * (with_length or with_loss)
    one = all(option.settings == answer.options[0].settings for option in answer.options)
    for option in answer.options[:1] if one else answer.options:
        marked = one or option.tier == answer.recommended.tier
        name = "all tiers" if one else str(option.tier)
        cells: list[str | Text] = [_tier_name(console, name, marked), words.batch_text(option.settings)]
        if with_length:
            cells.append(str(option.settings["max_length"]))
        cells.append(words.checkpoint_text(option.settings))
        if with_loss:
            cells.append(str(option.settings["loss"]))
        cells += [_peak(console, option, bar_width), option.memory.binding_instant, *_speed(option, with_epoch)]
        table.add_row(*cells, style="bold" if marked else None)
    return table


def _tier_name(console: Console, name: str, marked: bool) -> str:
    mark = "›" if words.blocks(console)[0] != "#" else ">"
    return f"{mark if marked else ' '} {name}"


def _peak(console: Console, option: CheckReport, width: int) -> Text:
    memory = option.memory
    share = memory.device_peak_bytes / max(1, memory.budget_bytes)
    return Text.assemble(
        words.bar(console, share, width, words.memory_style(memory)),
        f" {format_bytes(memory.device_peak_bytes):>9} {share:4.0%}",
    )


def _speed(option: CheckReport, with_epoch: bool) -> list[str]:
    speed = option.speed
    if speed is None:
        return ["?", "?"]
    seconds = speed.epoch_seconds if with_epoch else speed.step_seconds
    return [f"{speed.tokens_per_second:,.0f}", "?" if seconds is None else format_duration(seconds)]


def advice_table(answer: Recommendation) -> Table:
    """Each value with its rule and, shortened, the rule's source."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for entry in answer.advice:
        why = Text.assemble(entry.rule, (f" [{words.short_source(entry.source)}]", "dim"))
        table.add_row(entry.name, Text(words.value_text(entry.value), style="cyan"), why)
    return table
