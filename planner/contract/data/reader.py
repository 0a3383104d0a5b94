"""One reader of data for planner and trainer: what is measured is what is trained, and nothing is lost unsaid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from planner.contract.data import files, tables
from planner.contract.data.account import Account
from planner.contract.data.columns import FORMATS, Undecided, check_roles
from planner.contract.data.examples import Example, Shape
from planner.contract.data.literals import shown
from planner.contract.data.shapes import Builder
from planner.contract.data.streams import Invalid
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings
from planner.contract.sentence import named, sentence

HOPELESS = 100_000
"""So many invalid examples without a valid one before end the reading."""
SAID_EVERY = 20_000
"""Examples between two signs of life."""

Progress = Callable[[int, str], None]
"""Told the examples read so far and the name of the file."""


@dataclass(slots=True)
class Reading:
    """A data set being read: each part once, from its files, one example at a time."""

    settings: DataSettings
    sources: files.Sources
    account: Account = field(default_factory=Account)
    progress: Progress | None = None
    shape: Shape | None = None
    """Known once an example has been read."""

    def training(self) -> Iterator[Example]:
        """Examples to learn from. `InvalidInput` names the first that is wrong and how many are."""
        yield from self._examples(self.sources.train, "train")
        inside = self.account.splits_inside
        if inside and "train" not in inside:
            raise InvalidInput(f"{self.settings.path}: holds no split to train on")

    @property
    def has_validation(self) -> bool:
        """Whether the data brings examples to validate on; known once those to learn from have been read."""
        named = self.settings.validation_path is not None
        own = bool(self.sources.validation) or "validation" in self.account.splits_inside
        return named or (own and self.settings.validation_split > 0)

    def validation(self) -> Iterator[Example]:
        """Examples to validate on: of `validation_path`, or the data's own validation split; else none."""
        if not self.has_validation:
            if self.sources.validation or "validation" in self.account.splits_inside:
                self.account.left_alone("validation split", "no validation was asked for")
            return
        if self.settings.validation_path is not None:
            beside = Account()
            found = files.find(self.settings.validation_path, beside)
            self._leave_own_split()
            yield from self._examples(found.validation or found.train, "validation")
        elif self.sources.validation:
            yield from self._own_split(self.sources.validation)
        else:
            yield from self._own_split(self.sources.train)

    def _own_split(self, paths: list[Path]) -> Iterator[Example]:
        count = 0
        for example in self._examples(paths, "validation"):
            count += 1
            yield example
        self.account.facts.append(f"The data's own validation split validates ({count:,} examples).")

    def _leave_own_split(self) -> None:
        if self.sources.validation:
            self.account.left_alone(files.short_names(self.sources.validation), named("validation_path") + " is used")

    def _examples(self, paths: list[Path], split: str) -> Iterator[Example]:
        limit, account, settings = self.settings.max_examples, self.account, self.settings
        builder = Builder(settings.format, settings.columns, account)
        wrong: list[str] = []
        count = invalid = 0
        done = heard = False
        for file in paths:
            before = count
            for where, row in tables.rows(file, account, split=split):
                try:
                    if isinstance(row, Invalid):
                        raise row
                    example = builder.build(row, where)
                except Invalid as error:
                    invalid += 1
                    if not count and invalid == HOPELESS:
                        raise InvalidInput(f"{wrong[0]} (and so are the first {HOPELESS:,} examples)") from None
                    if len(wrong) < 3:
                        wrong.append(error.sentence)
                    continue
                if example is None:
                    continue
                count += 1
                heard = heard or _says_something(example)
                if count % SAID_EVERY == 0 and self.progress is not None:
                    self.progress(count, file.name)
                yield example
                if count == limit:
                    done = True
                    break
            account.examples[f"{file.name}"] += count - before
            if done:
                break
        if split == "train":
            self.shape = builder.shape
        elif builder.shape is not None and self.shape is not None and not _alike(builder.shape, self.shape):
            raise InvalidInput(
                f"{paths[0]}: validates with the shape {builder.shape}, the training data has {self.shape}"
            )
        self._judge(wrong, invalid, count, builder)
        if not count:
            empty = bool(paths) and all(file.stat().st_size == 0 for file in paths)
            what = "the file is empty, it" if empty else ""
            raise InvalidInput(f"{paths[0] if paths else settings.path}: {what} holds no examples".replace(":  ", ": "))
        if not heard and split == "train":
            raise InvalidInput(f"{paths[0]}: every completion is empty, so there is nothing to learn from")

    def _judge(self, wrong: list[str], invalid: int, count: int, builder: Builder) -> None:
        """Complains of invalid examples, or notes them where they are to be left out."""
        if not invalid:
            return
        if self.settings.skip_invalid and count:
            self.account.invalid += invalid
            self.account.first_invalid += [shown(text, 120) for text in wrong]
            return
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in builder.kinds.items())
        mixed = f"; {builder.shape} {count:,}, {kinds}" if kinds else ""
        examples = f"{invalid:,} of {count + invalid:,} examples {'is' if invalid == 1 else 'are'} invalid{mixed}"
        way = "; " + named("skip_invalid") + " leaves such out" if count and not self.settings.skip_invalid else ""
        ways = [(f"leave the {invalid:,} invalid out", {"skip_invalid": True})] if way else []
        raise Undecided(sentence(wrong[0], f" ({examples}", way, ")"), ways)


def _says_something(example: Example) -> bool:
    """Whether an example has anything to learn."""
    if example.messages is None:
        return bool(example.text)
    return any(message.learned and (message.content or message.extras) for message in example.messages)


def _alike(first: Shape, second: Shape) -> bool:
    chats = ("messages", "sharegpt")
    return first == second or (first in chats and second in chats)


def open_data(settings: DataSettings, progress: Progress | None = None) -> Reading:
    """The data that the settings name, ready to be read."""
    if not settings.path or not settings.path.strip():
        raise InvalidInput("no training data: give ", named("data"), " FILE or `data: {path: ...}` in the plan")
    if settings.format not in FORMATS:
        raise InvalidInput(named("format"), f" {shown(settings.format)} is unknown; choose one of {', '.join(FORMATS)}")
    check_roles(settings.columns)
    account = Account()
    return Reading(settings, files.find(settings.path, account), account, progress)


def read_examples(settings: DataSettings) -> list[Example]:
    """All examples to learn from, in file order."""
    return list(open_data(settings).training())
