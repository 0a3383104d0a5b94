"""What became of another trainer's file, key by key."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.exchange.foreign import Foreign


def foreign_view(console: Console, foreign: Foreign) -> None:
    """Prints what was read and assumed, one key a line, and names the rest."""
    console.print()
    beside = f", with {', '.join(foreign.files)}" if foreign.files else ""
    console.print(Text(f"Read from {foreign.where} ({foreign.tool}{beside})", style="bold"))
    console.print(Text(f"The figure is that of {foreign.stack}."), style="dim")
    for how, title in (("read", "read"), ("assumed", "assumed")):
        notes = foreign.of(how)  # type: ignore[arg-type]
        if not notes:
            continue
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for number, note in enumerate(notes):
            key = Text(note.key + (f" (line {note.line})" if note.line else ""))
            table.add_row(title if not number else "", key, Text(note.text))
        console.print(table)
    for how, title in (("ignored", "moves no memory"), ("unknown", "not known, not used")):
        notes = foreign.of(how)  # type: ignore[arg-type]
        if notes:
            console.print(Text(f"{title}: {', '.join(dict.fromkeys(note.key for note in notes))}", style="dim"))
