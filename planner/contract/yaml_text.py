"""The one reader of YAML (or JSON) that someone else wrote: plans, settings files, exports.

A small YAML: mappings, lists, texts, numbers, true, false and null. Refused by name and line are aliases and anchors
(400 bytes of them stand for gigabytes), tags, keys that stand twice, more than one document, control characters, and
what is too large or too deep. Nothing is guessed from a word's looks: dates, `010`, `1e5`, `1:30`, `0x10` and YAML
1.1's `yes`, `no`, `on`, `off` stay text, which a field that holds a number, or true or false, may take as such.

Built on the parser's events, which come one by one: no recursion, and nothing is made of what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.contract import json_text, text_file
from planner.contract.errors import InvalidInput
from planner.contract.shown import clause, shown
from planner.contract.truth import truth as truth  # for whoever reads a document's values
from planner.contract.words import LAYOUT, visible

MAX_BYTES = 8 * 1024**2
"""A plan is some kilobytes with its model's config in it, which may have 4 MiB."""
MAX_BYTES_SLOW = 1024**2
"""The same where PyYAML was built without its parser in C, which is twenty times as fast."""
MAX_VALUES = json_text.MAX_VALUES
MAX_DEPTH = json_text.MAX_DEPTH
LINES_DEPTH = 3
"""Down to this depth it is kept on which line a key stands."""

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][-+][0-9]+)?")
"""Nothing that PyYAML writes as a text without quotes (`1e5`, `1.5e3`) is a number: what is written reads alike."""
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What a file holds, and on which line each of its upper keys stands."""

    where: str
    value: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def place(self, path: Path_ = ()) -> str:
        """`file:line` of a key, as near as it is known; `file` where nothing is."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.where}:{self.lines[path]}" if path in self.lines else self.where


def read(path: Path, where: str | None = None, *, kind: str = "YAML") -> Document:
    """A file's content; `InvalidInput` names file, line, what is wrong, and the `kind` of file that was looked for."""
    name = where or str(path)
    return parse(text_file.read(path, name, max_bytes=MAX_BYTES), name, kind=kind)


def parse(text: str, where: str, *, kind: str = "YAML") -> Document:
    """The content of a YAML or JSON text; `where` opens the line of `InvalidInput`."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES:
        raise InvalidInput(f"{where}: larger than {MAX_BYTES} bytes, the most that is read")
    if (bad := _FORBIDDEN.search(text)) is not None:
        line = text.count("\n", 0, bad.start()) + 1
        raise InvalidInput(f"{where}:{line}: a control character (U+{ord(bad[0]):04X}) stands here, which YAML forbids")
    if text.lstrip()[:1] in ("{", "["):
        try:
            return Document(where=where, value=json_text.parse(text, where, max_bytes=MAX_BYTES, once=True))
        except json_text.NotJson:
            pass  # YAML has braces of its own
    return _Reader(where, kind).document(text)


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    value: dict[str, object] | list[object]
    path: Path_
    key: str | None = None
    """The key whose value comes next."""

    @property
    def next_path(self) -> Path_:
        return (*self.path, self.key or "") if isinstance(self.value, dict) else (*self.path, len(self.value))


class _Reader:
    """From the parser's events to values."""

    def __init__(self, where: str, kind: str) -> None:
        self.where = where
        self.kind = kind
        self.stack: list[_Open] = []
        self.lines: dict[Path_, int] = {}
        self.count = 0
        self.root: object = None

    def fail(self, line: int, problem: str) -> InvalidInput:
        return InvalidInput(f"{self.where}:{line}: {problem}")

    def document(self, text: str) -> Document:
        import yaml

        documents = 0
        for event in self._events(text):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.fail(line, "a second document begins here (---); one file holds one")
                if event.tags:
                    raise self.fail(line, "%TAG stands here; tags are not read")
            elif isinstance(event, yaml.AliasEvent):
                raise self.fail(line, f"the alias *{event.anchor:.40} stands here; write out what it stands for")
            elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
                self._value(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                self.stack.pop()
        return Document(where=self.where, value=self.root, lines=self.lines)

    def _events(self, text: str) -> Iterator[Any]:
        import yaml

        loader: Any = getattr(yaml, "CSafeLoader", None)
        if loader is None:
            loader = yaml.SafeLoader
            if len(text) > MAX_BYTES_SLOW:
                raise InvalidInput(f"{self.where}: larger than {MAX_BYTES_SLOW} bytes, the most that is read here")
        try:
            yield from yaml.parse(text, Loader=loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or "it is neither YAML nor JSON"
            raise InvalidInput(f"{self.where}{line}: not {self.kind}: {clause(problem)}") from None
        except (RecursionError, ValueError, OverflowError):  # escapes that are no character
            raise InvalidInput(f"{self.where}: not {self.kind}: it is neither YAML nor JSON") from None

    def _value(self, event: Any, line: int) -> None:
        """A scalar, or the beginning of a mapping or list."""
        import yaml

        scalar = isinstance(event, yaml.ScalarEvent)
        if event.anchor is not None:
            raise self.fail(line, f"the anchor &{event.anchor:.40} stands here; anchors and aliases are not read")
        if event.tag is not None:
            raise self.fail(line, f"the tag {event.tag:.40} stands here; tags are not read")
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.fail(line, f"more than {MAX_VALUES} values, the most that is read")
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            if not scalar:
                raise self.fail(line, "a list or mapping stands as a key; a key is one word")
            self._key(top, event.value, line)
            return
        path = top.next_path if top is not None else ()
        value = self._scalar(event, line) if scalar else {} if isinstance(event, yaml.MappingStartEvent) else []
        if top is None:
            self.root = value
        elif isinstance(top.value, dict):
            top.value[top.key or ""] = value
            top.key = None
        else:
            if len(path) <= LINES_DEPTH:
                self.lines[path] = line
            top.value.append(value)
        if not scalar:
            if len(self.stack) >= MAX_DEPTH:
                raise self.fail(line, f"nested deeper than {MAX_DEPTH} levels")
            self.stack.append(_Open(value, path))

    def _key(self, top: _Open, key: str, line: int) -> None:
        self._check(key, line)
        if key in top.value:
            first = self.lines.get((*top.path, key))
            raise self.fail(line, f"key {shown(key)} stands twice" + (f" (first on line {first})" if first else ""))
        top.key = key
        if len(top.path) < LINES_DEPTH:
            self.lines[*top.path, key] = line

    def _scalar(self, event: Any, line: int) -> Any:
        text: str = event.value
        self._check(text, line)
        if event.style not in (None, ""):  # quoted, or a block: text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > json_text.MAX_DIGITS:
                raise self.fail(line, f"a number of {len(text)} digits, more than {json_text.MAX_DIGITS}")
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _check(self, text: str, line: int) -> None:
        """Characters that escapes may bring in."""
        if "\0" in text:
            raise self.fail(line, "a NUL character stands here")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise self.fail(line, "half a character (\\ud800 to \\udfff) stands here")


def dumps(content: Mapping[str, object], *, width: int = 110, flow: bool | None = False) -> str:
    """A mapping as YAML in its own order, as it is read in any language; where a character in it would steer a
    terminal that shows the file, in ASCII with escapes.
    """
    import yaml

    def text(as_is: bool) -> str:
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=as_is, width=width, default_flow_style=flow)

    found = text(True)
    return found if visible(found, keep=LAYOUT) == found else text(False)
