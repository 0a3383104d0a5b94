"""JSON and Python's own notation of values, read within limits and never evaluated."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from planner.contract.shown import clause

DEEPEST = 64
"""Levels of lists and objects in one example; conversations with tools have ten."""
LONGEST_LITERAL = 1 << 20
"""Characters of a cell in Python's notation; its reader takes some hundred times as much memory."""


class Malformed(ValueError):
    """Says in a few words what is wrong with the text."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"the key {twice[:40]!r} stands there twice")
    return found


_SCAN: Any = json.JSONDecoder(object_pairs_hook=_object)
_HALVES = re.compile(r"\\u[dD][89a-fA-F]")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)
_BLANK = re.compile(r"[ \t\r\n]*")
_NUMPY_GAP = re.compile(r"\}\s*\n\s*\{")


def parse_json(text: str) -> object:
    """The value of one JSON text. `Malformed` says what is wrong and at which character."""
    if len(text) <= 2 * DEEPEST and "\\u" not in text:  # short lines come by the million, and can't be deep
        try:
            value, end = _SCAN.scan_once(text, 0)
            if end == len(text):
                return value
        except (StopIteration, ValueError, RecursionError):
            pass  # said below
    start = _BLANK.match(text).end()  # type: ignore[union-attr]
    value, end = parse_json_at(text, start)
    if _BLANK.match(text, end).end() != len(text):  # type: ignore[union-attr]
        raise Malformed(f"something follows its end at character {end + 1}")
    return value


def parse_json_at(text: str, start: int) -> tuple[object, int]:
    """(value, end) of the JSON value that begins at `start`."""
    try:
        value, end = _SCAN.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise Malformed(f"{error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise Malformed(f"nested deeper than {DEEPEST} levels") from None
    except Malformed:
        raise
    except ValueError as error:  # a whole number of thousands of digits
        raise Malformed(_number_words(error)) from None
    _refuse_depth(text, start, end)
    if "\\u" in text and _HALVES.search(text, start, end):
        _refuse_halves(value)
    return value, end


def _number_words(error: ValueError) -> str:
    return "a number of thousands of digits" if "digits" in str(error) else clause(error)


def _refuse_depth(text: str, start: int, end: int) -> None:
    if end - start > 2 * DEEPEST and text.count("[", start, end) + text.count("{", start, end) > DEEPEST:
        depth = 0
        for match in _BRACKETS.finditer(text, start, end):
            sign = match[0]
            depth += (sign in "[{") - (sign in "]}")
            if depth > DEEPEST:
                raise Malformed(f"nested deeper than {DEEPEST} levels")


def _refuse_halves(value: object) -> None:
    r"""`\ud800` without its other half is allowed in JSON and is no text: no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise Malformed(f"{half} is half a character; mend the text or leave the example out") from None


def parse_cell(text: str) -> object:
    """The list or object that a table's cell holds as text, in JSON's or Python's notation."""
    bare = text.strip()
    if bare[:1] not in ("[", "{", "("):
        raise Malformed("neither JSON nor a list in Python's notation")
    try:
        return parse_json(bare)
    except Malformed as error:
        if "'" not in bare and "(" not in bare:
            raise
        json_error = error
    if len(bare) > LONGEST_LITERAL:
        raise Malformed(f"a list in Python's notation of more than {LONGEST_LITERAL >> 20} MiB; save it as JSON")
    found = _literal(bare)
    if found is None and _NUMPY_GAP.search(bare):
        # An array printed by numpy: objects one a line, without commas. Texts have their line ends escaped.
        found = _literal(_NUMPY_GAP.sub("}, {", bare))
    if found is None:
        raise Malformed(f"neither JSON ({json_error}) nor a list in Python's notation")
    return found


def _literal(text: str) -> object:
    try:
        value = ast.literal_eval(text)
        json.dumps(value, ensure_ascii=False).encode()  # no bytes, sets, half characters
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    _refuse_depth_of(value, DEEPEST)
    return value


def _refuse_depth_of(value: object, left: int) -> None:
    if left < 0:
        raise Malformed(f"nested deeper than {DEEPEST} levels")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for item in inner:
        _refuse_depth_of(item, left - 1)


def shown(value: object, limit: int = 40) -> str:
    """A value from a file, short and on one line, for a sentence about it."""
    text = value if isinstance(value, str) else repr(value)[: 4 * limit] if not isinstance(value, int) else "a number"
    printable = repr(text[: limit + 1])[1:-1]
    return printable if len(text) <= limit and len(printable) <= 2 * limit else printable[:limit] + "…"


LISTED_LENGTH = 200
"""Characters after which no further name of a list is written out."""


def listed(names: list[object], limit: int = 12) -> str:
    """Names from a file in a sentence, at most `limit` of them and no more than a line takes."""
    some: list[str] = []
    for name in names[:limit]:
        some.append(shown(name))
        if sum(map(len, some)) > LISTED_LENGTH:
            break
    left = len(names) - len(some)
    return f"{', '.join(some)} and {left} more" if left else ", ".join(some) or "none"
