"""Finds what was typed in a list: every word must be there, the nearest names come first. UI-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WHOLE, BEGINS, UNIT, INSIDE, LETTERS = 100, 80, 60, 50, 20
"""What a typed word counts: a word of the name, its beginning, a number before its unit, a part, letters in order."""
NAME = 1.5
"""A hit in the name counts more than one in what else matches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListEntry:
    """One line of a list."""

    key: str
    row: str
    more: str = ""
    """Words that match as well."""
    names: tuple[str, ...] = ()
    """Whole names that mean it, in lower case, beside its key."""
    group: str = ""
    """The heading under which it stands while nothing is typed."""
    mark: str = ""
    """One character before it, with the style of its meaning."""
    style: str = ""


def words(text: str) -> list[str]:
    """What stands between blanks, slashes, hyphens and underscores; in lower case."""
    return [part for part in re.split(r"[\s/_,()-]+", text.lower()) if part]


def found(entries: Sequence[ListEntry], typed: str) -> list[ListEntry]:
    """The entries in which every typed word is, the nearest first; all in their order where nothing is typed."""
    wanted = words(typed)
    if not wanted:
        return list(entries)
    scored = []
    for place, entry in enumerate(entries):
        score = score_of(entry, wanted, typed.strip().lower())
        if score:
            scored.append((-score, len(entry.key), place, entry))
    return [entry for *_, entry in sorted(scored, key=lambda item: item[:3])]


def score_of(entry: ListEntry, wanted: Sequence[str], typed: str) -> float:
    """How near an entry is to what was typed; 0 where a word of it is not there."""
    names, others = words(entry.key), words(entry.more)
    total = 0.0
    for word in wanted:
        best = max(NAME * _hit(word, names), _hit(word, others))
        if not best and len(word) > 2 and _in_order(word, entry.key.lower()):
            best = LETTERS
        if not best:
            return 0.0
        total += best
    if is_called(entry, typed):
        total += 10 * WHOLE  # a name that was typed whole is meant
    return total / len(wanted)


def _hit(word: str, parts: Iterable[str]) -> int:
    best = 0
    for part in parts:
        if part == word:
            return WHOLE
        if part.startswith(word):
            rest = part[len(word) :]
            best = max(best, UNIT if word[-1].isdigit() and rest.isalpha() else BEGINS)
        elif word in part:
            best = max(best, INSIDE)
    return best


def _in_order(word: str, text: str) -> bool:
    rest = iter(text)
    return all(letter in rest for letter in word)


def is_called(entry: ListEntry, typed: str) -> bool:
    """Whether what was typed is one of its whole names."""
    return typed.strip().lower() in (entry.key.lower(), *entry.names)


NEAR = 0.8
"""Share of the best score from which another entry may be meant as well."""


def equals(entries: Sequence[ListEntry], typed: str) -> list[ListEntry]:
    """What may be meant: the entry whose whole name was typed, or all that are about as near as the nearest."""
    ranked = found(entries, typed)
    wanted = words(typed)
    if not wanted or not ranked or is_called(ranked[0], typed):
        return ranked[:1]
    best = score_of(ranked[0], wanted, typed)
    return [entry for entry in ranked if score_of(entry, wanted, typed) >= NEAR * best]
