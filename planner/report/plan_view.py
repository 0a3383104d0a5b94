"""The answer to `plan`: the decision on one screen of 80 × 24, and what stands behind it where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.contract.records import CheckReport
from planner.contract.units import counted, format_bytes, format_count
from planner.decide.own_runs import timed_runs
from planner.decide.reasons import runs_inside
from planner.decide.search import Recommendation
from planner.report import words
from planner.report.memory_view import breakdown, instants_line, speed_line
from planner.report.timing import deadline_lines, durations, time_line

BAR_WIDTH = 12
NOTE_LINES = 3
"""Notes that stand in the default answer; the others are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What is printed beside the decision."""

    decision: bool = True
    """Why, time, weakest point and notes; without it only the table and the next command."""
    memory: bool = False
    """The recommended tier's memory, component by component."""
    advice: bool = False
    """Every value with its rule and source."""


DECISION = Shown()


def plan_view(
    console: Console, answer: Recommendation, start: list[str], *, shown: Shown = DECISION, faster: str | None = None
) -> None:
    """Prints a recommendation; `start` are the command lines that begin the run, none where it begins by itself.

    `faster`: what would shorten a run that takes too long.
    """
    _changes(console, answer)
    for line in deadline_lines(answer):
        console.print(line, style="bold yellow" if answer.deadline and answer.deadline.cut else "bold")
    _heading(console, answer)
    console.print()
    console.print(tiers_table(console, answer))
    console.print()
    if shown.decision:
        _decision(console, answer, faster)
    _notes(console, answer, every=shown.memory or shown.advice or not shown.decision)
    if shown.memory:
        _memory(console, answer.recommended)
    if shown.advice:
        console.print()
        console.print(Text("Advice", style="bold"))
        console.print(advice_table(answer))
        console.print("Sources with addresses: --json, docs/advice.md", style="dim")
    if start:
        console.print()
        console.print(Text("Next", style="bold"), Text("(--advice, --memory, --explain show the rest)", style="dim"))
    for line in start:
        # Not wrapped: a command must survive copying.
        console.print(Text(f"  {line}", style="cyan"), soft_wrap=True)


def _changes(console: Console, answer: Recommendation) -> None:
    """What is not as it was asked for comes first."""
    if answer.changed:
        console.print(answer.notes[0], style="bold yellow")


def _decision(console: Console, answer: Recommendation, faster: str | None) -> None:
    for line in answer.why:
        console.print(line)
    console.print(time_line(answer))
    if faster is not None:
        console.print(faster)
    console.print(weakest_point(answer))
    rates = {entry.name: entry for entry in answer.advice}
    length = f"{words.value_text(rates['epochs'].value)} epochs"
    if "max_steps" in rates:
        length = counted(rates["max_steps"].value, "step")
    console.print(
        f"Learning rate {words.value_text(rates['learning_rate'].value)}, {length}; --advice says why and what others "
        "take.",
        style="dim",
    )


def _notes(console: Console, answer: Recommendation, *, every: bool) -> None:
    """Defaults that were taken, and what the data says; the first line of a changed plan stands at the top already."""
    notes = answer.notes[1:] if answer.changed else answer.notes
    for note in notes if every else notes[:NOTE_LINES]:
        console.print(note, style="dim")
    if not every and len(notes) > NOTE_LINES:
        console.print(f"{len(notes) - NOTE_LINES} more notes: --explain", style="dim")


def weakest_point(answer: Recommendation) -> str:
    """What is most likely to go otherwise than planned, and what to do about it."""
    best, rules = answer.recommended, {entry.name: entry.rule for entry in answer.advice}
    if best.verdict == "tight":
        return "Weakest point: it is tight; --goal safest, or plan train --dry-run measures the longest batch first."
    if "too few to learn" in rules.get("epochs", ""):
        return f"Weakest point: {rules['epochs'].split('. ', 1)[-1]}."
    if answer.data is not None and not answer.data.get("exact", True):
        return "Weakest point: tokens are estimated; exact with the model's tokenizer.json beside its config."
    measured = (best.calibration or {}).get("applied") or timed_runs(best)
    if best.speed is not None and not measured:
        low, high = best.speed.interval_tokens_per_second
        return f"Weakest point: speed ({low:,.0f} to {high:,.0f} tokens/s); plan calibrate measures this device."
    if answer.data is None:
        return "Weakest point: the data is not known; --data counts its lengths and steps."
    low, high = best.memory.interval_bytes
    return (
        f"Weakest point: memory, {format_bytes(low)} to {format_bytes(high)} in {runs_inside(best.calibration)} runs."
    )


def _memory(console: Console, best: CheckReport) -> None:
    console.print()
    console.print(Text(f"Memory of {best.tier} at its peak ({best.memory.binding_instant})", style="bold"))
    console.print(breakdown(console, best.memory))
    low, high = best.memory.interval_bytes
    inside = runs_inside(best.calibration)
    console.print(f"{inside} runs: {format_bytes(low)} to {format_bytes(high)} on the device.", style="dim")
    console.print(instants_line(best.memory))
    console.print(speed_line(best))


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
    shared = [f"effective batch {answer.effective_batch_size}", f"length {settings.max_length}"]
    shared += [settings.precision, settings.optimizer]
    shared += [f"loss {settings.loss}"] if _same(answer, "loss") else []
    shared += [f"attention {settings.attention}"] if settings.attention != "sdpa" else []
    shared += ["saved inputs in host memory"] if settings.checkpoint_offload else []
    shared += [f"stack {settings.stack}"]
    console.print(" · ".join(shared), style="dim")


def _same(answer: Recommendation, name: str) -> bool:
    return len({str(getattr(option.settings, name)) for option in answer.options}) == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """One column of the tiers; where the terminal is narrow those of the highest number fall first."""

    title: str
    falls: int
    width: int
    cell: Callable[[int, CheckReport], str | Text]
    right: bool = False


def tiers_table(console: Console, answer: Recommendation) -> Table:
    """One line per distinct tier; what all share stands in the heading instead."""
    columns = _columns(console, answer)
    while sum(column.width + 1 for column in columns) > console.width and any(c.falls for c in columns):
        columns.remove(max(columns, key=lambda column: column.falls))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row, option in enumerate(answer.options):
        marked = option.tier == answer.recommended.tier
        table.add_row(*(column.cell(row, option) for column in columns), style="bold" if marked else None)
    return table


def _columns(console: Console, answer: Recommendation) -> list[_Column]:
    with_epoch = any(option.speed is not None and option.speed.epoch_seconds is not None for option in answer.options)
    speeds = [option.speed for option in answer.options]
    steps = durations([None if speed is None else speed.step_seconds for speed in speeds])
    epochs = durations([None if speed is None else speed.epoch_seconds for speed in speeds])

    def tier(_: int, option: CheckReport) -> str:
        return _tier_name(console, str(option.tier), option.tier == answer.recommended.tier)

    found = [
        _Column(title="  tier", falls=0, width=10, cell=tier),
        _Column(title="batch", falls=0, width=5, cell=lambda _, option: words.batch_text(option.settings)),
        _Column(title="recompute", falls=3, width=9, cell=lambda _, option: words.checkpoint_text(option.settings)),
    ]
    if not _same(answer, "loss"):
        found.append(_Column(title="loss", falls=4, width=7, cell=lambda _, option: option.settings.loss))
    found += [
        _Column(title="", falls=7, width=BAR_WIDTH, cell=lambda _, option: _bar(console, option)),
        _Column(title="peak", falls=0, width=9, cell=lambda _, o: format_bytes(o.memory.device_peak_bytes), right=True),
        _Column(title="of it", falls=5, width=5, cell=lambda _, option: f"{_share(option):.0%}", right=True),
        _Column(title="binds", falls=6, width=9, cell=lambda _, option: option.memory.binding_instant),
        _Column(title="tok/s", falls=2, width=7, cell=lambda _, option: _pace(option), right=True),
        _Column(title="step", falls=0, width=8, cell=lambda row, _: steps[row], right=True),
    ]
    if with_epoch:
        found.append(_Column(title="epoch", falls=1, width=10, cell=lambda row, _: epochs[row], right=True))
    return found


def _tier_name(console: Console, name: str, marked: bool) -> str:
    mark = "›" if words.blocks(console)[0] != "#" else ">"
    return f"{mark if marked else ' '} {name}"


def _share(option: CheckReport) -> float:
    return option.memory.device_peak_bytes / max(1, option.memory.budget_bytes)


def _bar(console: Console, option: CheckReport) -> Text:
    return words.bar(console, _share(option), BAR_WIDTH, words.memory_style(option.memory))


def _pace(option: CheckReport) -> str:
    return "?" if option.speed is None else f"{option.speed.tokens_per_second:,.0f}"


def advice_table(answer: Recommendation) -> Table:
    """Each value with its rule, how far off it may be, what the guides say, and, shortened, its source."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for entry in answer.advice:
        why = Text.assemble(entry.rule, (f" [{words.short_source(entry.source)}]", "dim"))
        for text in filter(None, (entry.spread, entry.guides)):
            why.append(f"\n{text}", style="dim")
        table.add_row(entry.name, Text(words.value_text(entry.value), style="cyan"), why)
    return table
