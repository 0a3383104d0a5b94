"""The one reader of JSON that someone else wrote: configs, tokenizers' settings, observations, fits, events, requests.

Bounded in bytes, values, depth and digits. A key that stands twice with different values (with `once`, at all), half a
character and a NUL are refused. `NaN` and `Infinity` are read, as Python writes them: whoever takes a number checks
its range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.contract import text_file
from planner.contract.errors import InvalidInput
from planner.contract.shown import shown

MAX_BYTES = 4 * 1024**2
MAX_VALUES = 100_000
MAX_DEPTH = 64
MAX_DIGITS = 308
"""Longer integers are no float either; Python itself refuses those over 4,300 digits."""

_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_HALF = re.compile(r"[\ud800-\udfff]")


class NotJson(InvalidInput):
    """The text is no JSON at all."""


class _Refused(Exception):
    """What is wrong with a number or an object, and the text that is looked for to say on which line."""

    def __init__(self, problem: str, found: str) -> None:
        super().__init__(problem)
        self.found = found


def read_object(path: Path, *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """The object in a file; `InvalidInput` names file, line and what is wrong."""
    text = text_file.read(path, str(path), max_bytes=max_bytes)
    return parse_object(text, str(path), max_bytes=max_bytes, max_values=max_values)


def parse_object(
    text: str | bytes, where: str, *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES
) -> dict[str, object]:
    """The object that a JSON text holds; `where` opens the line of `InvalidInput`."""
    value = parse(text, where, max_bytes=max_bytes, max_values=max_values)
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: holds {kind(value)}, but an object (keys and values) is needed")
    return value


def parse(
    text: str | bytes,
    where: str,
    *,
    max_bytes: int = MAX_BYTES,
    max_values: int = MAX_VALUES,
    once: bool = False,
) -> Any:
    """The value of a JSON text; `where` opens the line of `InvalidInput`."""
    if isinstance(text, bytes):
        text = text_file.decode(text, where)
    if len(text) > max_bytes:
        raise InvalidInput(f"{where}: larger than {max_bytes} bytes, the most that is read")
    try:
        value = json.loads(
            text.removeprefix("\ufeff"), parse_int=_integer, object_pairs_hook=_once if once else _object
        )
    except json.JSONDecodeError as error:
        line = f"{where}: line {error.lineno}, column {error.colno}"
        raise NotJson(f"{line}: not valid JSON ({error.msg})") from None
    except _Refused as error:
        place = text.rfind(error.found)
        line = f"line {text.count(chr(10), 0, place) + 1}: " if place >= 0 else ""
        raise InvalidInput(f"{where}: {line}{error}") from None
    except RecursionError:
        raise InvalidInput(f"{where}: nested deeper than {MAX_DEPTH} levels") from None
    _check(value, where, max_values, halves=_MAY_BE_HALF.search(text) is not None)
    return value


def kind(value: object) -> str:
    """What a value is, in words for people who have never seen Python."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "nothing" if value is None else names.get(type(value), "a number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Refused(f"a number of {len(digits)} digits, more than {MAX_DIGITS}", digits)
    return int(digits)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: dict[str, object] = {}
    for key, value in pairs:
        if key in seen and not _same(seen[key], value):
            raise _Refused(f"key {shown(key)} stands twice, with different values", json.dumps(key))
        seen[key] = value
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(names) if key in names[:place])
        raise _Refused(f"key {shown(twice)} stands twice", json.dumps(twice))
    return found


def _same(one: object, other: object) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except RecursionError:
        return False


def _check(value: object, where: str, max_values: int, *, halves: bool) -> None:
    """Depth, count and characters, without recursion."""
    level, count, depth = [value], 0, 0
    while level:
        count += len(level)
        if count > max_values:
            raise InvalidInput(f"{where}: holds more than {max_values} values, the most that is read")
        if depth > MAX_DEPTH:
            raise InvalidInput(f"{where}: nested deeper than {MAX_DEPTH} levels")
        below: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                below.extend(item.values())
                for key in item:
                    _check_text(key, where, halves=halves)
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                _check_text(item, where, halves=halves)
        level, depth = below, depth + 1


def _check_text(text: str, where: str, *, halves: bool) -> None:
    if "\0" in text:
        raise InvalidInput(f"{where}: a NUL character stands in {shown(text)}")
    if halves and _HALF.search(text):
        raise InvalidInput(f"{where}: half a character (\\ud800 to \\udfff) stands in {shown(text)}")
