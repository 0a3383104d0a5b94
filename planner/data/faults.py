"""What is odd about the examples themselves, with counts and lines: copies, answers that are empty or break off,
lengths that a few have alone, and examples that stand in training and validation both.

Oddities while the data is read once; an example leaves 8 bytes of a hash behind, a finding its first lines.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from planner.contract.data.examples import Example, Message
from planner.contract.microbatches import split_validation

Lengths = NDArray[np.int64]

SHOWN = 3
"""Lines that are named; the others are counted."""
KEPT = 20
"""Lines that `--json` has of each kind."""
ENDINGS = ".!?:;…\"'”’»)]}>`*|。！？：；」』）】…"
"""Characters with which a finished text ends."""
WORDS = 8
"""A shorter answer may be a name, a number or a label, and ends as it likes."""
USUALLY_FINISHED = 0.8
"""Share of the longer answers that must end well before the others count as broken off."""
OUTLIER = 4.0
"""An example so many times as long as the 95th percentile stands alone."""
CAPPED, CAPPED_SHARE, CAPPED_FROM = 5, 0.05, 100
"""So many answers, and such a share, that end without an end at exactly the longest one's characters were cut."""
FEW_LEARNED = 0.03
"""Share of the text that carries loss under which most of the time goes into reading."""


@dataclass(slots=True)
class Places:
    """How many examples share a fault, and where the first of them stand."""

    count: int = 0
    where: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        """One more."""
        self.count += 1
        if len(self.where) < KEPT:
            self.where.append(where)

    def __str__(self) -> str:
        shown = ", ".join(short_places(self.where[:SHOWN]))
        return f"{shown}{', …' if self.count > SHOWN else ''}"

    def record(self) -> dict[str, object]:
        """As JSON-ready data."""
        return {"count": self.count, "where": list(self.where)}


def short_places(places: Iterable[str]) -> Iterator[str]:
    """`train.jsonl:3, train.jsonl:9` as `train.jsonl:3, 9`: a file is named once."""
    before = None
    for place in places:
        file, mark, line = place.rpartition(":")
        if not mark or not line.isdecimal():
            yield place
            continue
        yield line if file == before else f"{Path(file).name}:{line}"
        before = file


@dataclass(slots=True)
class OddExamples:
    """What the examples of one part of the data have; filled while they are read."""

    trained: set[int] | None = None
    """Of examples that validate: the hashes of those that are trained on."""
    asked_there: set[int] | None = None
    """Likewise of their questions."""
    seen: set[int] = field(default_factory=set)
    hashes: array[int] = field(default_factory=lambda: array("q"))
    """Of each example, in order."""
    questions: set[int] = field(default_factory=set)
    leaked: Places = field(default_factory=Places)
    """Those that are trained on, too."""
    asked: Places = field(default_factory=Places)
    """Those whose question is trained on with another answer."""
    copies: Places = field(default_factory=Places)
    empty: Places = field(default_factory=Places)
    broken: Places = field(default_factory=Places)
    """Answers that end without an end."""
    fenced: Places = field(default_factory=Places)
    """Answers with a code block that isn't closed."""
    finished: int = 0
    """Longer answers that end well."""
    answers: int = 0
    longest: int = 0
    """Characters of the longest answer."""
    capped: Places = field(default_factory=Places)
    """Answers of that length that end without an end."""

    def watched(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples, each looked at as it passes."""
        for example in examples:
            self._look(example)
            yield example

    def _look(self, example: Example) -> None:
        key = _hash(example)
        self.hashes.append(key)
        if key in self.seen:
            self.copies.add(example.where)
        self.seen.add(key)
        leaks = self.trained is not None and key in self.trained
        if leaks:
            self.leaked.add(example.where)
        if example.messages is None:
            return
        question = _hashed(part for message in example.messages if not message.learned for part in _said(message))
        self.questions.add(question)
        if self.asked_there is not None and question in self.asked_there and not leaks:
            self.asked.add(example.where)
        said = [message for message in example.messages if message.learned]
        if any(not message.content.strip() and not message.extras for message in said):
            self.empty.add(example.where)
        last = said[-1].content.rstrip() if said else ""
        self.answers += bool(last)
        self._measure(said[-1].content if said else "", example.where)
        if last.count("```") % 2:
            self.fenced.add(example.where)
        elif len(last.split(None, WORDS)) > WORDS:
            if last[-1] in ENDINGS:
                self.finished += 1
            else:
                self.broken.add(example.where)

    def _measure(self, answer: str, where: str) -> None:
        if len(answer) > self.longest:
            self.longest, self.capped = len(answer), Places()
        if len(answer) == self.longest and answer.rstrip()[-1:] not in ENDINGS:
            self.capped.add(where)

    @property
    def breaks_off(self) -> bool:
        """Whether answers that end without an end are the exception here."""
        return self.broken.count > 0 and self.finished >= USUALLY_FINISHED * (self.finished + self.broken.count)


def _hash(example: Example) -> int:
    return _hashed(_parts(example))


def _hashed(parts: Iterable[str]) -> int:
    """Case and blanks aside: a copy that differs in them teaches nothing else."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(" ".join(part.casefold().split()).encode("utf-8", "replace"))
        found.update(b"\0")
    return int.from_bytes(found.digest(), "little", signed=True)


def _parts(example: Example) -> Iterator[str]:
    """All that makes two examples the same."""
    if example.messages is None:
        yield example.text or ""
        yield "" if example.label is None else str(example.label)
        return
    for message in example.messages:
        yield from _said(message)


def _said(message: Message) -> Iterator[str]:
    yield message.role
    yield message.content
    yield repr(sorted(message.extras.items(), key=str)) if message.extras else ""


@dataclass(frozen=True, slots=True)
class Oddities:
    """The faults of a whole data set."""

    training: OddExamples
    leaked: Places
    """Validation examples that training has, too."""
    asked: Places
    """Validation examples whose question training has with another answer."""
    share_learned: float
    """Share of the text's bytes that carries loss."""
    has_answers: bool

    @staticmethod
    def of(training: OddExamples, validation: OddExamples | None, *, learned_bytes: int, text_bytes: int) -> Oddities:
        """From what both parts had; drops what was only needed to compare them."""
        leaked = Places() if validation is None else validation.leaked
        asked = Places() if validation is None else validation.asked
        training.seen, training.questions = set(), set()
        return Oddities(training, leaked, asked, learned_bytes / max(1, text_bytes), training.answers > 0)

    def split_leak(self, share: float, seed: int) -> int:
        """Held-out examples of which a copy is trained on, where a share of the data validates."""
        if not self.training.copies.count or share <= 0:
            return 0
        kept, held = split_validation(len(self.training.hashes), share, seed)
        trained = {self.training.hashes[index] for index in kept}
        return sum(self.training.hashes[index] in trained for index in held)

    def sentences(self, lengths: Lengths, *, share: float, seed: int = 42) -> list[str]:
        """Each fault in a sentence with count and first lines; `share` of the data validates, 0: it has its own."""
        faults, said = self.training, []
        total = len(faults.hashes)
        if faults.copies.count:
            leak = self.split_leak(share, seed)
            more = f"; {leak:,} stand on both sides of the split, so validation looks better than it is" if leak else ""
            ones = _examples(faults.copies.count, total, "is a copy of an earlier one", "are copies of earlier ones")
            copies = f"{ones} ({faults.copies})"
            said.append(f"{copies}{more}.")
        if self.leaked.count:
            said.append(
                f"{self.leaked.count:,} of the validation examples stand in the training data, too ({self.leaked}): "
                "validation looks better than it is."
            )
        if self.asked.count:
            said.append(
                f"{self.asked.count:,} of the validation examples ask what training answers in other words "
                f"({self.asked})."
            )
        if faults.empty.count:
            said.append(f"{_examples(faults.empty.count, total, 'has', 'have')} an empty answer ({faults.empty}).")
        if faults.breaks_off:
            said.append(f"{_answers(faults.broken.count)} off without an end of the sentence ({faults.broken}).")
        elif self._capped:
            said.append(
                f"{faults.capped.count:,} answers stop at exactly {faults.longest:,} characters, in mid-sentence: "
                f"cut when they were made ({faults.capped})."
            )
        if faults.fenced.count:
            said.append(f"{_answers(faults.fenced.count)} off within a code block ({faults.fenced}).")
        said += self._lengths(lengths)
        return said

    @property
    def _capped(self) -> bool:
        enough = max(CAPPED, CAPPED_SHARE * self.training.answers)
        return self.training.capped.count >= enough and self.training.longest >= CAPPED_FROM

    def _lengths(self, lengths: Lengths) -> Iterator[str]:
        if len(lengths) >= 20:
            usual = float(np.quantile(lengths, 0.95))
            longest = int(lengths.max())
            if longest > OUTLIER * max(1.0, usual):
                alone = int((lengths > OUTLIER * usual).sum())
                yield (
                    f"{_examples(alone, len(lengths), 'is', 'are')} far longer than the others (up to {longest:,} "
                    f"tokens, 95 % have at most {usual:,.0f}); its memory follows them."
                )
        if self.has_answers and self.share_learned < FEW_LEARNED:
            share = f"{self.share_learned:.1%}" if self.share_learned >= 0.0005 else "below 0.1%"
            yield f"Answers are {share} of the text: most of the time goes into reading questions."

    def record(self) -> dict[str, object]:
        """As JSON-ready data."""
        faults = self.training
        return {
            "copies": faults.copies.record(),
            "leaked": self.leaked.record(),
            "asked_in_training": self.asked.record(),
            "empty_answers": faults.empty.record(),
            "broken_off": faults.broken.record() if faults.breaks_off else Places().record(),
            "stop_at_one_length": faults.capped.record() if self._capped else Places().record(),
            "open_code_blocks": faults.fenced.record(),
            "share_learned": round(self.share_learned, 4),
        }


def _examples(count: int, total: int, one: str, several: str) -> str:
    return f"{count:,} of {total:,} examples {one if count == 1 else several}"


def _answers(count: int) -> str:
    return f"{count:,} answer{' breaks' if count == 1 else 's break'}"
