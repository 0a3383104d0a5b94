"""Puts a table into docs/lean.md, between the two comments that mark its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.contract.files import write_named

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "lean.md"


def replace(place: str, table: str, content: dict[str, Any]) -> None:
    """Raises ValueError where the page has no such place."""
    page = PAGE.read_text(encoding="utf-8")
    first, last = f"<!-- throughput {place} -->\n", f"<!-- /throughput {place} -->\n"
    if first not in page or last not in page:
        raise ValueError(f"{PAGE.name} has no place for {place}")
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items() if number)
    counted = f"{content['threads']} thread(s), {content['rounds']} round(s)"
    head = f"{content['date']}, {content['device']}, {counted}; {versions}\n"
    before, rest = page.split(first, 1)
    after = rest.split(last, 1)[1]
    write_named(PAGE, f"{before}{first}{head}\n{table}{last}{after}".encode())
