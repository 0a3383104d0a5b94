"""Rows into examples: the layout of the first row holds for all of a data set, every other row is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from planner.contract.data.account import Account
from planner.contract.data.columns import NEEDED, Layout, example_shape, good_or_bad, lay_out
from planner.contract.data.delimited import Cells
from planner.contract.data.examples import NOTHING_MORE, Example, Message, Shape
from planner.contract.data.literals import Malformed, listed, parse_cell, shown
from planner.contract.data.streams import Invalid
from planner.contract.data.turns import Turns, read_tools, refuse_media, text_of
from planner.contract.errors import InvalidInput
from planner.contract.sentence import named

EMPTY: tuple[object, ...] = (None, "", [], {})
MOST_LAYOUTS = 10_000
"""Sets of columns that are remembered; hostile rows may each have their own."""


class Builder:
    """Makes examples of one data set's rows."""

    def __init__(self, format: str, columns: Mapping[str, str], account: Account) -> None:
        self.format, self.columns, self.account = format, columns, account
        self.shape: Shape | None = None
        self._layout_shape = ""
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._pairs: dict[tuple[str, ...], tuple[str, str]] = {}
        """Of the layouts, those of a question and an answer alone."""
        self.turns = Turns(account)
        self.kinds: Counter[str] = Counter()
        """Shapes of the rows that do not have the data's."""

    def build(self, row: object, where: str) -> Example | None:
        """The row's example; None where the data says that nothing of it is learned. `Invalid` names what is wrong."""
        if not isinstance(row, dict):
            if not (isinstance(row, list) and row and isinstance(row[0], dict)):
                raise Invalid(f'{where}: an example must be an object like {{"prompt": …}}, not {type(row).__name__}')
            row = {"messages": row}
        names = tuple(row)
        pair = self._pairs.get(names)
        if pair is not None and (example := self._quick(row, pair, where)) is not None:
            return example
        layout = self._layouts.get(names) or self._lay_out(row, where)
        for name in layout.unused:
            if row[name] not in EMPTY:
                self.account.unused["column", str(name)] += 1
        return self._example(row, layout, where)

    def _quick(self, row: dict[str, Any], columns: tuple[str, str], where: str) -> Example | None:
        """A row of two plain texts, of which there are millions; None where it needs a closer look."""
        asked, said = row[columns[0]], row[columns[1]]
        if type(asked) is not str or type(said) is not str or not said or not asked or "<" in asked:
            return None
        if asked[0] == "[" or said[0] == "[" or self.shape is None:
            return None
        messages = (Message("user", asked, False, NOTHING_MORE), Message("assistant", said, True, NOTHING_MORE))
        return Example(messages, None, where, self.shape, None, ())

    # ---- which column is what ---------------------------------------------------------------------------------------

    def _lay_out(self, row: dict[str, Any], where: str) -> Layout:
        if self.shape is None:
            layout = lay_out(row, self.format, self.columns, where)
            self._layout_shape = layout.shape
            self.shape = self._shape_of(layout, row)
            self.account.taken.update(layout.taken)
        else:
            layout = self._as_before(row, where)
        self._layouts[tuple(row)] = layout
        if (pair := layout.pair) is not None:
            self._pairs[tuple(row)] = pair
        if len(self._layouts) > MOST_LAYOUTS:
            self._layouts.clear()
        return layout

    def _shape_of(self, layout: Layout, row: Mapping[str, object]) -> Shape:
        if layout.shape == "preference":
            return "messages" if not isinstance(row[layout.columns["chosen"]], str) else "prompt-completion"
        return example_shape(layout, row)

    def _as_before(self, row: dict[str, object], where: str) -> Layout:
        """A row with other columns than the first: those of its shape must be there."""
        format = self.format if self.format != "auto" else self._layout_shape
        try:
            return lay_out(row, format, {role: name for role, name in self.columns.items() if name in row}, where)
        except InvalidInput:
            pass
        try:
            other = lay_out(row, "auto", {}, where).shape
        except InvalidInput:
            other = ""
        if other and other != self._layout_shape:
            self.kinds[other] += 1
            raise Invalid(f"{where}: has the shape {other}, the data began with {self.shape}")
        needed = NEEDED.get(self._layout_shape, ())
        gone = next((self.columns.get(role, role) for role in needed if self._gone(role, row)), needed[0])
        raise Invalid(
            f"{where}: {shown(gone)!r} is missing (the data has the shape {self.shape}); has {listed(list(row))}"
        )

    def _gone(self, role: str, row: Mapping[str, object]) -> bool:
        known = {layout.columns.get(role) for layout in self._layouts.values()}
        return not known & set(row)

    # ---- examples ---------------------------------------------------------------------------------------------------

    def _example(self, row: dict[str, Any], layout: Layout, where: str) -> Example | None:
        columns = layout.columns
        if "good" in columns and self._is_bad(row, columns["good"], where):
            return None
        shape = layout.shape
        if shape in ("text", "classification"):
            return self._text(row, layout, where)
        media = bool(layout.media) and any(row[name] not in EMPTY for name in layout.media)
        if shape == "messages":
            messages = self.turns.read(self._cell(row, columns["messages"]), columns["messages"], where, media=media)
        elif shape == "preference":
            messages = self._chosen(row, columns, where, media)
        else:
            messages = self._pair(row, columns, shape, where, media)
        if "system" in columns:
            self._add_system(messages, row[columns["system"]], columns["system"], where)
        if not any(message.role == "assistant" for message in messages):
            raise Invalid(f"{where}: no message of the assistant, so there is nothing to learn")
        if not any(message.learned for message in messages) or self._weighs_nothing(row, columns, where):
            self.account.done["examples of which nothing is to be learned (weight 0) are left out"] += 1
            return None
        tools = read_tools(row[columns["tools"]], columns["tools"], where) if "tools" in columns else ()
        assert self.shape is not None
        kind = "messages" if shape == "alpaca" and len(messages) > 3 else self.shape
        return Example(tuple(messages), None, where, kind, None, tools)

    def _text(self, row: dict[str, object], layout: Layout, where: str) -> Example:
        name = layout.columns["text"]
        text = text_of(_filled(row, name), name, where)
        if "<" in text:
            media = any(row[column] not in EMPTY for column in layout.media)
            refuse_media(text, media, where, self.account)
        if layout.shape == "text":
            return Example(None, text, where, "text")
        return Example(None, text, where, "classification", _label(row, layout.columns["label"], where))

    def _pair(
        self, row: dict[str, object], columns: Mapping[str, str], shape: str, where: str, media: bool
    ) -> list[Message]:
        ask, answer, more = (
            ("instruction", "output", "input") if shape == "alpaca" else ("prompt", "completion", "context")
        )
        asked, said = _filled(row, columns[ask]), _filled(row, columns[answer])
        history = self._history(row, columns, where)
        if _is_turns(asked):
            messages = self.turns.read(asked, columns[ask], where, learn=False, media=media)
        else:
            question = text_of(asked, columns[ask], where)
            beside = row[columns[more]] if more in columns else None
            if beside not in EMPTY:
                question = f"{question}\n\n{text_of(beside, columns[more], where)}"
            if "<" in question:
                refuse_media(question, media, where, self.account)
            messages = [Message("user", question, False)]
        return [*history, *messages, *self._answer(said, row, columns, answer, where, media)]

    def _answer(
        self, said: object, row: dict[str, object], columns: Mapping[str, str], answer: str, where: str, media: bool
    ) -> list[Message]:
        if isinstance(said, dict) and ("role" in said or "from" in said):
            said = [said]
        if _is_turns(said):
            return self.turns.read(said, columns[answer], where, media=media)
        text = text_of(said, columns[answer], where)
        thought = row[columns["reasoning"]] if "reasoning" in columns else None
        if isinstance(thought, str) and thought:
            return [Message("assistant", text, True, {"reasoning_content": thought})]
        if not text:
            self.account.done["empty answer of the assistant"] += 1
        return [Message("assistant", text, True)]

    def _history(self, row: dict[str, object], columns: Mapping[str, str], where: str) -> list[Message]:
        """Earlier questions with their answers; the answers are learned as all of the assistant's turns are."""
        if "history" not in columns or row[columns["history"]] in EMPTY:
            return []
        name = columns["history"]
        value = self._cell(row, name)
        if isinstance(value, str):
            try:
                value = parse_cell(value)
            except Malformed as error:
                raise Invalid(f"{where}: {shown(name)!r} must be a list of earlier turns: {error}") from None
        if value in EMPTY:
            return []
        if isinstance(value, list) and isinstance(value[0], dict):
            return self.turns.read(value, name, where)
        messages = []
        for pair in value if isinstance(value, list) else [value]:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise Invalid(f"{where}: {shown(name)!r} must be a list of [question, answer]")
            messages.append(Message("user", text_of(pair[0], name, where), False))
            messages.append(Message("assistant", text_of(pair[1], name, where), True))
        return messages

    def _chosen(self, row: dict[str, object], columns: Mapping[str, str], where: str, media: bool) -> list[Message]:
        name = columns["chosen"]
        chosen, rejected = self._cell(row, name), row[columns["rejected"]]
        if rejected not in EMPTY:
            self.account.unused["answers of the column", columns["rejected"]] += 1
        asked = row[columns["prompt"]] if "prompt" in columns else None
        if isinstance(chosen, dict):
            chosen = [chosen]
        if _is_turns(chosen):
            messages = self.turns.read(chosen, name, where, media=media)
            if messages[0].role != "assistant" or asked in EMPTY:
                return messages
        else:
            if asked in EMPTY:
                way = named("columns") + f" text={shown(name)} learns it whole"
                raise Invalid(f"{where}: {shown(name)!r} is a text without its prompt; ", way)
            messages = [Message("assistant", text_of(chosen, name, where), True)]
        if _is_turns(asked):
            return [*self.turns.read(asked, columns["prompt"], where, learn=False, media=media), *messages]
        question = text_of(asked, columns["prompt"], where)
        refuse_media(question, media, where, self.account)
        return [Message("user", question, False), *messages]

    def _add_system(self, messages: list[Message], value: object, name: str, where: str) -> None:
        if value in EMPTY:
            return
        text = text_of(value, name, where)
        if messages and messages[0].role == "system":
            if messages[0].content == text:
                return
            raise Invalid(f"{where}: has a system turn and another text in the column {shown(name)!r}")
        messages.insert(0, Message("system", text, False))

    def _is_bad(self, row: dict[str, object], name: str, where: str) -> bool:
        good = good_or_bad(row[name])
        if good is None:
            raise Invalid(f"{where}: {shown(name)!r} must be true or false, not {shown(row[name])}")
        if not good:
            self.account.done[f"examples with {shown(name)} false (bad answers) are left out"] += 1
        return not good

    def _weighs_nothing(self, row: dict[str, object], columns: Mapping[str, str], where: str) -> bool:
        if "weight" not in columns:
            return False
        value = row[columns["weight"]]
        if value in EMPTY or good_or_bad(value):
            return False
        if good_or_bad(value) is False:
            return True
        self.account.unused["column (weights between 0 and 1 are not used: all count alike)", columns["weight"]] += 1
        return False

    def _cell(self, row: dict[str, object], name: str) -> object:
        return _filled(row, name)


def _filled(row: dict[str, object], name: str) -> object:
    """A cell; in a table of text what is empty is missing."""
    value = row[name]
    return None if value == "" and isinstance(row, Cells) else value


def _is_turns(value: object) -> bool:
    """A list of messages, or the text of one."""
    if isinstance(value, list):
        return True
    return isinstance(value, str) and value[:2] in ("[{", "[ ") and ('"role"' in value or "'role'" in value)


def _label(row: dict[str, object], name: str, where: str) -> str | int:
    label = _filled(row, name)
    if isinstance(label, bool):
        return "true" if label else "false"
    if label is None:
        raise Invalid(f"{where}: {shown(name)!r} is missing")
    if not isinstance(label, str | int) or label == "":
        raise Invalid(f"{where}: {shown(name)!r} must be a name or a whole number, not {shown(label)}")
    return label
