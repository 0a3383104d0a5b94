"""Sentences that name fields: `--max-length` for the command line, a file's key, the label of a row in the wizard.

Whoever makes an error, a note or a reason writes `sentence(named("max_length"), f" {length} cuts …")`. As text it reads
in the command line's words; a front end that has others asks for them with `in_words`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Self


def flag(name: str) -> str:
    """A field as an option of the command line: `--max-length`."""
    return "--" + name.replace("_", "-")


class _Name(str):
    """The name of a field, as a part of a sentence."""

    __slots__ = ()


class Sentence(str):
    """Text for a person, made of words and of names of fields; `+` and `joined` keep the names apart."""

    parts: tuple[str, ...]
    """Words, and as `_Name` the fields."""

    def __new__(cls, text: str = "", parts: Iterable[str] | None = None) -> Self:
        """The sentence of `parts`; without them `text` alone, which is then plain words or a sentence already."""
        if parts is None:
            parts = text.parts if isinstance(text, Sentence) else (text,)
        kept = tuple(parts)
        made = super().__new__(cls, "".join(flag(part) if isinstance(part, _Name) else part for part in kept))
        made.parts = kept
        return made

    def __add__(self, other: str) -> Sentence:
        return sentence(self, other)

    def __radd__(self, other: str) -> Sentence:
        return sentence(other, self)

    def __getnewargs__(self) -> tuple[str, tuple[str, ...]]:  # type: ignore[override]
        return str(self), self.parts

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields that it speaks of."""
        return frozenset(str(part) for part in self.parts if isinstance(part, _Name))

    def in_words(self, word: Callable[[str], str]) -> str:
        """The text with every field called as `word` says."""
        return "".join(word(str(part)) if isinstance(part, _Name) else part for part in self.parts)


def named(name: str) -> Sentence:
    """A field of a question, by its name in the records: `max_length`, `effective_batch_size`."""
    return Sentence(parts=(_Name(name),))


def sentence(*parts: str) -> Sentence:
    """One sentence of words, names and other sentences."""
    return Sentence(parts=[each for part in parts for each in (part.parts if isinstance(part, Sentence) else (part,))])


def joined(between: str, parts: Iterable[str]) -> Sentence:
    """Sentences with words between them, as `str.join`."""
    found: list[str] = []
    for part in parts:
        found += [between, part] if found else [part]
    return sentence(*found)
