"""CSV and its kin: delimiter and quoting are found out, quoted line ends stand inside a cell."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.contract.data import streams
from planner.contract.data.account import Account
from planner.contract.data.columns import NAMES, plain
from planner.contract.data.literals import shown
from planner.contract.data.streams import Invalid, Progress
from planner.contract.errors import InvalidInput

SNIFFED = 256 << 10
"""Bytes of a file by which delimiter and quoting are found."""
_KNOWN = {name for names in NAMES.values() for name in names}


def csv_rows(file: Path, account: Account, progress: Progress | None) -> Iterator[tuple[str, object]]:
    """Rows under the header's names; what has more or fewer cells is `Invalid`."""
    csv.field_size_limit(streams.LONGEST_LINE)
    dialect = _dialect(file)
    number = 0

    def decoded() -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(streams.lines_with_ends(file, progress), 1):
            yield streams.decode(line, f"{file}:{number}")

    reader = csv.reader(decoded(), **dialect)
    header: list[str] | None = None
    while True:
        begins = number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            where = f"{file}:{begins}"
            raise InvalidInput(
                f"{where}: not valid CSV: {str(error).expandtabs(1)} (the row ends at line {number})"
            ) from None
        except Invalid as error:
            raise InvalidInput(str(error)) from None
        if cells is None:
            return
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            continue
        where = f"{file}:{number}"
        if header is None:
            header = _header(cells, where)
        elif cells == header:
            account.unused["line", "header that stands there again"] += 1
        elif len(cells) != len(header):
            what = "fewer" if len(cells) < len(header) else "more"
            yield where, Invalid(f"{where}: {what} cells than the header has columns ({len(cells)}, {len(header)})")
        else:
            yield where, Cells(zip(header, cells, strict=True))


class Cells(dict[str, object]):
    """A row of text cells, in which what is empty is missing."""


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise InvalidInput(f"{where}: the header names the column {shown(twice[0])} twice")
    # Several columns without a name are none that anybody asks for.
    return [name or f"(column {number})" for number, name in enumerate(names, 1)]


def _dialect(file: Path) -> dict[str, Any]:
    """Delimiter and quoting under which the header has known names and the first rows are as wide as it."""
    head = next(streams.utf8_blocks(file), b"")
    cut = len(head) > SNIFFED
    sample = head[:SNIFFED].decode("utf-8", "replace")
    tabs = ".tsv" in [suffix.lower() for suffix in file.suffixes]
    usual: dict[str, object] = {"delimiter": "\t" if tabs else ",", "strict": True}
    best, best_score = usual, (False, 0.0)
    for delimiter in "\t,;|" if tabs else ",;\t|":
        for quoting in _quotings(delimiter, sample):
            dialect = {"delimiter": delimiter, "strict": True, **quoting}
            score = _score(sample, dialect, cut)
            if score is not None and score > best_score:
                best, best_score = dialect, score
    return best


def _quotings(delimiter: str, sample: str) -> list[dict[str, object]]:
    ways: list[dict[str, object]] = [{}]
    if delimiter == "\t":
        # Files of tabs are often written without any quoting; a text may then begin with a quotation mark.
        ways.append({"quoting": csv.QUOTE_NONE})
    if '\\"' in sample:
        # Read so, a quotation mark inside a cell is lost unless it is escaped: only where some are.
        ways.append({"doublequote": False, "escapechar": "\\"})
    return ways


def _score(sample: str, dialect: dict[str, Any], cut: bool) -> tuple[bool, float] | None:
    """(whether the header names a known column, share of rows as wide as it); None where it is no table."""
    rows: list[list[str]] = []
    try:
        for cells in csv.reader(io.StringIO(sample, newline=""), **dialect):
            if len(cells) > 1 or (cells and cells[0].strip()):
                rows.append(cells)
    except csv.Error:
        if not cut or len(rows) < 2:
            return None
    if not rows or len(rows[0]) < 2:
        return None
    wide = sum(len(cells) == len(rows[0]) for cells in rows) / len(rows)
    return any(plain(cell) in _KNOWN for cell in rows[0]), wide
