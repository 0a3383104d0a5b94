"""What `plan max` and `plan compare` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.contract.units import format_bytes, format_duration
from planner.decide.compare import ComparedRow
from planner.decide.limits import Limit
from planner.decide.question import Question
from planner.decide.run_time import EXAMPLES
from planner.report import words

NAME_WIDTH = 28
"""Characters of a name that are shown."""
HEADINGS = {
    "length": "The longest sequences",
    "batch": "The largest micro-batch",
    "rank": "The largest rank",
    "model": "The largest models of the catalogue",
}

TITLES = ("device", "method", "batch", "length", "peak", "of it", "tok/s", "time", "kWh", "money")
NUMBERS_FROM = TITLES.index("peak")
FALLS = ("of it", "length", "method", "kWh", "tok/s")
"""Columns of the comparison in the order in which a narrow terminal loses them."""


def limits_view(console: Console, question: Question, what: str, found: Sequence[Limit]) -> None:
    """Each limit with its configuration; every one of them was judged as `plan check` judges."""
    subject = "" if what == "model" else f" of {question.model.id}"
    console.print(Text(f"{HEADINGS[what]}{subject} on {question.hardware.title}", style="bold"))
    if not found:
        console.print("Nothing fits, however small; plan check says what would help.")
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(what, no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    for title in ("method", "batch", "length", "recompute"):
        table.add_column(title, no_wrap=True)
    for title in ("peak", "of it", "tok/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for limit in found:
        report, settings = limit.report, limit.report.settings
        value = f"{limit.value:,}" if isinstance(limit.value, int) else limit.value
        share = report.memory.device_peak_bytes / max(1, report.memory.budget_bytes)
        table.add_row(
            Text(value, style="bold"),
            settings.method,
            words.batch_text(settings),
            f"{settings.max_length:,}",
            words.checkpoint_text(settings),
            format_bytes(report.memory.device_peak_bytes),
            f"{share:.0%}",
            "?" if report.speed is None else f"{report.speed.tokens_per_second:,.0f}",
        )
    console.print(table)
    for limit in found:
        if limit.bound:
            console.print(f"Not memory ends it: {limit.bound}.", style="dim")


def compare_view(console: Console, question: Question, rows: Sequence[ComparedRow]) -> None:
    """One line per device and number of them, then what was changed, why something doesn't fit, whose prices."""
    basis = "the data's epochs" if question.data is not None else f"the advised epochs of {EXAMPLES:,} full examples"
    console.print(Text(f"{question.model.id} on {len({row.gpu for row in rows})} devices", style="bold"))
    console.print(f"hours: {basis}, loading and evaluation left out", style="dim")
    console.print()
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    cells = [_cells(row) for row in rows]
    places = _places(cells, console.width)
    for place in places:
        table.add_column(TITLES[place], justify="left" if place < NUMBERS_FROM else "right", no_wrap=True)
    for line in cells:
        table.add_row(*(line[place] for place in places))
    console.print(table)
    longest = max((row.report.settings.max_length for row in rows if row.report is not None), default=0)
    shorter = [row for row in rows if row.report is not None and row.report.settings.max_length < longest]
    if shorter:
        names = ", ".join(f"{_name(row)} {row.report.settings.max_length:,}" for row in shorter if row.report)
        console.print(
            f"Shorter rows than the {longest:,} of the others, so less done in its time: {names}", style="dim"
        )
    if TITLES.index("kWh") in places and any(row.energy_kwh is not None for row in rows):
        console.print("kWh: at most; the boards' power limit all the time, the host not counted", style="dim")
    for row in rows:
        if row.why_not:
            console.print(f"{_name(row)}: {row.why_not}", style="dim")
    _prices(console, rows)


def _places(cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Which columns there is room for."""
    kept = list(range(len(TITLES)))

    def wide() -> int:
        return sum(max(len(text) for text in (TITLES[n], *(line[n] for line in cells))) + 1 for n in kept)

    for title in FALLS:
        if wide() <= width:
            break
        kept.remove(TITLES.index(title))
    return kept


def _name(row: ComparedRow) -> str:
    return row.gpu if row.num_gpus == 1 else f"{row.num_gpus} × {row.gpu}"


def _cells(row: ComparedRow) -> list[str]:
    if row.report is None:
        return [_name(row), "", "none fits", *[""] * (len(TITLES) - 3)]
    report, settings = row.report, row.report.settings
    share = report.memory.device_peak_bytes / max(1, report.memory.budget_bytes)
    hours = row.hours
    money = "" if row.cost is None or row.price is None else f"{row.cost:,.2f} {row.price.currency}"
    return [
        _name(row) + ("*" if any(item.named for item in row.changed) else ""),
        settings.method,
        words.batch_text(settings),
        f"{settings.max_length:,}",
        format_bytes(report.memory.device_peak_bytes),
        f"{share:.0%}",
        "?" if report.speed is None else f"{report.speed.tokens_per_second:,.0f}",
        "?" if hours is None else format_duration(hours * 3600),
        "?" if row.energy_kwh is None else f"{row.energy_kwh:.2g}" if row.energy_kwh < 10 else f"{row.energy_kwh:,.0f}",
        money or "?",
    ]


def _prices(console: Console, rows: Sequence[ComparedRow]) -> None:
    """Whose prices these are, and of which day."""
    if any(item.named for row in rows for item in row.changed):
        console.print("* not as asked: nothing else fits there", style="dim")
    known = {row.gpu: row.price for row in rows if row.price is not None}
    for gpu, price in known.items():
        product = f" ({price.product})" if price.product else ""
        console.print(
            f"{gpu}: {price.amount:g} {price.currency} an hour, {price.provider}{product}, {price.date}", style="dim"
        )
    lacking = sorted({row.gpu for row in rows} - set(known))
    if lacking:
        console.print(f"No price is known for {', '.join(lacking)}; --prices FILE gives your own.", style="dim")
