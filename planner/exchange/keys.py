"""Reads another tool's mapping key by key, and keeps account: no key is dropped without a note."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from planner.contract import settings
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.shown import shown
from planner.contract.words import one_line
from planner.contract.yaml_text import Document, Path_, truth
from planner.exchange.foreign import How, Note

MOST_NOTES = 2_000
"""Keys of one file that are told apart; the longest published config has some 150."""


class Keys:
    """One mapping of a file. What is taken is checked and noted; what is left is named by `finish`."""

    def __init__(self, document: Document, content: Mapping[str, Any], tool: str, path: Path_ = ()) -> None:
        self.document = document
        self.content = content
        self.tool = tool
        self.path = path
        self.values: dict[str, Any] = {}
        self.hyperparameters: dict[str, Any] = {}
        self.notes: list[Note] = []
        self.no_figure = ""
        self._seen: set[str] = set()

    # ---- taking ------------------------------------------------------------------------------------------------------

    def raw(self, name: str) -> Any:
        """The value as it stands; None where the key is not there or empty."""
        self._seen.add(name)
        return self.content.get(name)

    def has(self, name: str) -> bool:
        """Whether the key is there with a value."""
        return self.content.get(name) is not None

    def whole(self, name: str, *, least: int = 1) -> int | None:
        """A whole number of at least `least`."""
        value = self.raw(name)
        if value is None:
            return None
        number = self._number(name, value)
        if not number.is_integer() or number < least or number > 2**40:
            raise self.wrong(name, f"must be a whole number of at least {least}, not {shown(value)}")
        return int(number)

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self.raw(name)
        return None if value is None else self._number(name, value)

    def _number(self, name: str, value: object) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError
            number = float(value)
            if not math.isfinite(number):
                raise ValueError
        except (ValueError, OverflowError):
            raise self.wrong(name, f"must be a number, not {shown(value)}") from None
        return number

    def flag(self, name: str) -> bool | None:
        """True or false, also as a word."""
        value = self.raw(name)
        if value is None:
            return None
        said = truth(value)
        if said is None:
            raise self.wrong(name, f"must be true or false, not {shown(value)}")
        return said

    def text(self, name: str) -> str | None:
        """One word or line."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.wrong(name, f"must be text, not {shown(value)}")
        return str(value)

    def names(self, name: str) -> tuple[str, ...] | None:
        """A list of names, also as one text with commas; None where it is missing or empty."""
        value = self.raw(name)
        parts = value.split(",") if isinstance(value, str) else value
        if parts is None or parts == []:
            return None
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise self.wrong(name, f"must be a list of names, not {shown(value)}")
        return tuple(part.strip() for part in parts if part.strip()) or None

    def sub(self, name: str) -> Keys:
        """The mapping below a key, empty where there is none; its values and notes go into this one's."""
        value = self.raw(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, f"must be a mapping, not {shown(value)}")
        below = Keys(self.document, value or {}, self.tool, (*self.path, name))
        below.values, below.hyperparameters, below.notes = self.values, self.hyperparameters, self.notes
        return below

    # ---- keeping -----------------------------------------------------------------------------------------------------

    def put(self, field: str, value: object, by: str | Iterable[str] = (), *, why: str = "") -> None:
        """A setting or hyperparameter, read from the keys `by` or, where none of them is there, assumed."""
        names = (by,) if isinstance(by, str) else tuple(by)
        given = [name for name in names if self.has(name)]
        self._seen.update(names)
        (self.values if field in settings.BY_NAME else self.hyperparameters)[field] = value
        said = _word(value)
        if given:
            for name in given:
                self.note(name, "read", f"{field} {said}" + (f"; {why}" if why else ""))
        else:
            reason = why or f"{self.tool}'s default"
            self.note(names[0] if names else field, "assumed", f"{field} {said}, {reason}")

    def note(self, name: str, how: How, text: str) -> None:
        """One line of the account."""
        self._seen.add(name)
        if len(self.notes) < MOST_NOTES:
            key = ".".join(str(part) for part in (*self.path, name))
            line = self.document.lines.get((*self.path, name))
            self.notes.append(Note(key=one_line(key[:120]), how=how, text=one_line(text[:300]), line=line))

    def idle(self, *names: str) -> None:
        """Keys that move no memory."""
        for name in names:
            if self.has(name):
                self.note(name, "ignored", "")
            self._seen.add(name)

    def finish(self, idle: Iterable[str] = (), prefixes: tuple[str, ...] = ()) -> None:
        """Names what was not taken: keys known to move no memory, and keys that aren't known."""
        known = frozenset(idle)
        for name, value in self.content.items():
            if name in self._seen or value is None:
                continue
            inert = name in known or (bool(prefixes) and name.startswith(prefixes))
            if not inert and _DIVIDES.search(name):
                self.refuse_where_set({name: "the model or its rows divided over devices another way"})
                continue
            self.note(name, "ignored" if inert else "unknown", "" if inert else "not known to this reader, not used")

    # ---- complaining -------------------------------------------------------------------------------------------------

    def place(self, name: str = "") -> str:
        """`file:line` of a key."""
        return self.document.place((*self.path, name) if name else self.path)

    def wrong(self, name: str, problem: str) -> InvalidInput:
        """A value that the tool itself wouldn't take."""
        key = ".".join(str(part) for part in (*self.path, name))
        value = self.content.get(name)
        if isinstance(value, str) and is_placeholder(value):
            problem = f"is filled in elsewhere ({shown(value)}); write its value"
        return InvalidInput(f"{self.place(name)}: {one_line(key[:120])} {problem}")

    def refuse(self, name: str, why: str) -> NotModelled:
        """A value that the tool takes, and for which there is no figure."""
        key = ".".join(str(part) for part in (*self.path, name))
        return NotModelled(
            f"{self.place(name)}: {one_line(key[:120])}: {shown(self.content.get(name))} is not modelled: {why}"
        )

    def refuse_where_set(self, reasons: Mapping[str, str]) -> None:
        """Refuses the keys of `reasons` that are switched on; switched off they are read."""
        for name, why in reasons.items():
            value = self.raw(name)
            if value is None:
                continue
            alone = name.endswith(("_size", "_degree", "_dim")) and value == 1
            if truth(value) is False or value in (0, "", [], {}, "none", "no") or alone:
                self.note(name, "read", "off")
            else:
                raise self.refuse(name, why)

    def pick(self, name: str, table: Mapping[str, object], *, default: object = None, what: str = "") -> Any:
        """The entry of a table that the key's word names; a word outside is refused by name."""
        word = self.text(name)
        if word is None:
            return default
        found = table.get(word.strip().lower())
        if found is None:
            raise self.refuse(name, f"{what or 'known'}: {', '.join(sorted(table))}")
        return found


_DIVIDES = re.compile("(tensor|pipeline|sequence|context|expert|model).*parallel|^(tp|pp|cp|ep)_(size|degree)$")
"""Keys that no reader has to know: every trainer's words for a division that isn't by rows or shards."""


def _word(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_placeholder(value: str) -> bool:
    """Whether a text has the form of a shell's, OmegaConf's or Jinja's variable."""
    return re.search(r"\$\{?[A-Za-z_]|\{\{.*\}\}", value) is not None


def is_number(value: object) -> bool:
    """Whether a finite number can be made of it."""
    try:
        return math.isfinite(float(str(value))) and not isinstance(value, bool)
    except ValueError:
        return False
