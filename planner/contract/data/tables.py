"""Rows of one data file: JSON lines, JSON documents, CSV, parquet, Arrow and plain text, each row with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.contract.data import arrow, delimited, streams
from planner.contract.data.account import Account
from planner.contract.data.columns import NAMES, plain
from planner.contract.data.literals import Malformed, listed, parse_json, parse_json_at, shown
from planner.contract.data.streams import PACKED, Invalid, Progress
from planner.contract.errors import InvalidInput

KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".jsonlines": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "text",
}
SUFFIXES = (*KINDS, *(kind + packed for kind in (".jsonl", ".json", ".csv", ".tsv", ".txt") for packed in PACKED))
"""Names by which data files are known, packed ones included."""

LARGEST_DOCUMENT = 1 << 30

Row = tuple[str, object]
"""(place, value); the value is an `Invalid` where this row alone is wrong."""

SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Words by which people name a part of their data, in file names and as keys."""


def kind_of(file: Path) -> str | None:
    """json, csv, parquet, arrow or text, by the name; None for what is no data file."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes and suffixes[-1] in PACKED:
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return kind if kind in ("json", "csv", "text") else None
    return KINDS.get(suffixes[-1]) if suffixes else None


def rows(file: Path, account: Account, *, split: str = "train", progress: Progress | None = None) -> Iterator[Row]:
    """The rows of a file. Where one JSON document holds several splits, those of `split`."""
    kind = kind_of(file)
    if kind == "json":
        return _json_rows(file, account, split, progress)
    if kind == "csv":
        return delimited.csv_rows(file, account, progress)
    if kind == "parquet":
        return arrow.parquet_rows(file, account, progress)
    if kind == "arrow":
        return arrow.arrow_rows(file, account, progress)
    if kind == "text":
        return _paragraphs(file, progress)
    raise InvalidInput(f"{file}: data of this kind can't be read; use one of {', '.join(KINDS)}, or .gz, .zst of text")


# ---- JSON ----------------------------------------------------------------------------------------------------------


def _json_rows(file: Path, account: Account, split: str, progress: Progress | None) -> Iterator[Row]:
    if _is_lines(file):
        yield from _json_lines(file, progress)
    else:
        yield from _documents(file, account, split, progress)


def _is_lines(file: Path) -> bool:
    """Whether each line is a value of its own. A document begins with a line that is not, or has one line."""
    blocks = streams.utf8_blocks(file)
    head = next(blocks, b"")
    whole = next(blocks, None) is None
    found = [line for line in streams.cut_lines(head) if line.strip()]
    if len(found) < 2:
        return not whole and ".json" not in [suffix.lower() for suffix in file.suffixes]
    text = found[0].decode("utf-8", "replace")
    try:
        first = parse_json(text)
    except Malformed as error:
        # What breaks off at the end of its line goes on in the next.
        breaks_off = text[:1] in ("[", "{") and _place_of(error) > len(text.rstrip())
        return not breaks_off and ".json" not in [suffix.lower() for suffix in file.suffixes]
    return isinstance(first, dict) or (isinstance(first, list) and found[1].lstrip()[:1] == b"[")


def _json_lines(file: Path, progress: Progress | None) -> Iterator[Row]:
    for number, line in enumerate(streams.lines(file, progress), 1):
        if not line or line.isspace():
            continue
        where = f"{file}:{number}"
        try:
            yield where, parse_json(line.decode())
        except UnicodeDecodeError:
            yield where, _refusal(line, where)
        except Malformed as error:
            yield where, Invalid(f"{where}: not valid JSON: {error}")


def _refusal(line: bytes, where: str) -> Invalid:
    try:
        streams.decode(line, where)
    except Invalid as error:
        return error
    raise AssertionError(where)


def _documents(file: Path, account: Account, split: str, progress: Progress | None) -> Iterator[Row]:
    """The values of a file that is one JSON document, or several one after another."""
    text = streams.text(file, LARGEST_DOCUMENT, progress)
    position, line, counted = _skip(text, 0), 1, 0
    while position < len(text):
        line += text.count("\n", counted, position)
        counted = position
        try:
            if text[position] == "[":
                items = _items(text, position, file)
                first = next(items, None)
                if first is None:
                    raise InvalidInput(f"{file}: an empty list, which holds no example")
                for where, value, end in _chain(first, items):
                    position = end
                    if where:
                        yield where, value
            else:
                value, position = parse_json_at(text, position)
                yield from _unwrapped(value, f"{file}:{line}", account, split)
        except Malformed as error:
            raise InvalidInput(
                f"{file}:{line + _lines_until(text, position, error)}: not valid JSON: {error}"
            ) from None
        position = _skip(text, position)


def _chain(
    first: tuple[str, object, int], rest: Iterator[tuple[str, object, int]]
) -> Iterator[tuple[str, object, int]]:
    yield first
    yield from rest


def _lines_until(text: str, start: int, error: Malformed) -> int:
    """Lines between the value's begin and the character that the error names."""
    return text.count("\n", start, max(start, _place_of(error) - 1))


def _place_of(error: Malformed) -> int:
    """The character that the error names, from 1; 0 where it names none."""
    words = str(error).rsplit("character ", 1)
    return int(words[1]) if len(words) == 2 and words[1].isdigit() else 0


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n\ufeff":
        position += 1
    return position


def _items(text: str, start: int, file: Path) -> Iterator[tuple[str, object, int]]:
    """(place, value, end) of a list's items, one at a time; the last has no place and is the list's own end."""
    position, number = _skip(text, start + 1), 0
    if text[position : position + 1] == "]":
        return
    while True:
        number += 1
        value, position = parse_json_at(text, position)
        yield f"{file}, item {number}", value, position
        position = _skip(text, position)
        sign = text[position : position + 1]
        if sign == "]":
            yield "", None, position + 1
            return
        if sign != ",":
            raise Malformed(f"Expecting ',' delimiter at character {position + 1}")
        position = _skip(text, position + 1)


def _unwrapped(value: object, where: str, account: Account, split: str) -> Iterator[Row]:
    """An object that is one example, holds a list of them, a list for each split, or its columns as lists."""
    if not isinstance(value, dict):
        yield where, value
        return
    lists = {name: held for name, held in value.items() if _is_rows(name, held)}
    splits = {name: SPLITS[name.lower()] for name in lists if name.lower() in SPLITS}
    if splits:
        chosen = [name for name, kind in splits.items() if kind == split]
        account.splits_inside.update(splits.values())
        for name, kind in splits.items():
            if kind == "test":
                account.left_alone(f"{where.rsplit(':', 1)[0]}, {name}", f"test split, {len(lists[name])} examples")
    else:
        chosen = list(lists)
        if len(lists) > 1:
            file = where.rsplit(":", 1)[0]
            raise InvalidInput(f"{file}: holds the lists {listed(list(lists))}; save the one to learn from by itself")
    if lists:
        for name in value:
            if name not in lists:
                account.unused["key beside the list of examples", name] += 1
        for name in chosen:
            for number, item in enumerate(lists[name], 1):
                yield f"{where.rsplit(':', 1)[0]}, {shown(name)}, item {number}", item
        return
    yield from _transposed(value, where)


def _is_rows(name: str, held: object) -> bool:
    """A list of examples, as opposed to one example's list of messages or columns."""
    if not isinstance(held, list) or not held or not isinstance(held[0], dict | list):
        return False
    if isinstance(held[0], list):
        return plain(name) not in NAMES["history"]
    keys = {plain(str(key)) for key in held[0]}
    if plain(name) in NAMES["messages"]:  # messages, unless each holds what only an example does
        return bool(keys & {*NAMES["messages"], "prompt", "completion", "instruction", "output"})
    one_chat = keys & {"role", "from"} and keys & {"content", "value"}
    return not one_chat and plain(name) not in (*NAMES["tools"], "tool_calls", *NAMES["chosen"], *NAMES["rejected"])


def _transposed(value: dict[str, Any], where: str) -> Iterator[Row]:
    """Columns written one after another, as tables in memory are."""
    columns = [list(held.values()) if isinstance(held, dict) else held for held in value.values()]
    plain = all(isinstance(held, list) and not any(isinstance(item, dict) for item in held) for held in columns)
    if len(columns) > 1 and plain and columns[0] and len({len(held) for held in columns}) == 1:
        file = where.rsplit(":", 1)[0]
        for number, cells in enumerate(zip(*columns, strict=True), 1):
            yield f"{file}, row {number}", dict(zip(value, cells, strict=True))
        return
    yield where, value


# ---- plain text ----------------------------------------------------------------------------------------------------


def _paragraphs(file: Path, progress: Progress | None) -> Iterator[Row]:
    """Paragraphs, separated by blank lines, each an example of plain text."""
    block: list[str] = []
    start = 1
    for number, line in enumerate(streams.lines(file, progress), 1):
        text = _decoded(line, f"{file}:{number}")
        if text.strip():
            start = start if block else number
            block.append(text)
        elif block:
            yield f"{file}:{start}", {"text": "\n".join(block)}
            block = []
    if block:
        yield f"{file}:{start}", {"text": "\n".join(block)}


def _decoded(line: bytes, where: str) -> str:
    try:
        text = streams.decode(line, where)
    except Invalid as error:
        raise InvalidInput(str(error)) from None
    if "\0" in text:
        raise InvalidInput(f"{where}: holds a NUL byte, so it is no text file")
    return text
