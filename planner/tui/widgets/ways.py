"""What can be done about a data set that was refused: ways to choose from, and roles for its columns, by number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textual.content import Content
from textual.events import Key
from textual.message import Message
from textual.widgets import Static

from planner.contract.data.literals import shown
from planner.tui.reading import DataFound

KEYS = "123456789abcdefghijklmnopr"
"""One for each choice; q quits."""
NONE = "0"


class Ways(Static, can_focus=True):
    """Asks one question after another; `Chosen` tells the settings that the answers make."""

    @dataclass
    class Chosen(Message):
        """The data set is to be read again, with `changes` of its settings."""

        path: str
        changes: Mapping[str, Any]

    def __init__(self, **options: Any) -> None:
        super().__init__("", markup=False, **options)
        self.display = False
        self._found: DataFound | None = None
        self._columns: dict[str, str] = {}

    def offer(self, found: DataFound) -> None:
        """Shows what can be done about a refused data set; nothing where nothing can."""
        if not found.ways and not found.names:
            self.close()
            return
        self._found, self._columns = found, {}
        self.display = True
        self._show()
        self.screen.set_focus(self)

    def close(self) -> None:
        """Asks nothing."""
        self._found = None
        self.display = False

    def on_key(self, event: Key) -> None:
        """Takes the answer."""
        found = self._found
        character = KEYS[0] if event.key == "enter" and found is not None and found.ways else event.character
        if found is None or character is None:
            return
        if found.ways:
            if (place := KEYS.find(character)) in range(len(found.ways)):
                event.stop()
                self.post_message(self.Chosen(found.path, found.ways[place][1]))
            return
        if character == NONE and not self._columns:
            event.stop()
            self._columns = {"text": ""}
            self._show()
        elif (place := KEYS.find(character)) in range(len(found.names)):
            event.stop()
            self._play(found, found.names[place])

    def _play(self, found: DataFound, column: str) -> None:
        role = self._asked()
        if column in self._columns.values():
            return
        self._columns[role] = column
        if role != "prompt":
            self.post_message(self.Chosen(found.path, {"columns": dict(self._columns)}))
        else:
            self._show()

    def _asked(self) -> str:
        return "text" if "text" in self._columns else "completion" if "prompt" in self._columns else "prompt"

    def _show(self) -> None:
        found = self._found
        if found is None:
            return
        if found.ways:
            lines = [("What is to be done?\n", "bold"), *_choices([words for words, _ in found.ways])]
            lines.append(("a digit chooses, Enter the first", "dim"))
        else:
            question = {
                "prompt": "Which column holds the question (the prompt)?\n",
                "completion": "And which the answer, which is learned?\n",
                "text": "Which column holds the text, which is learned whole?\n",
            }[self._asked()]
            lines = [(question, "bold"), *_choices([shown(name) for name in found.names])]
            if not self._columns:
                lines += [("0 ", "$accent bold"), ("none: a text is learned whole\n", "")]
        self.update(Content.assemble(*lines))


def _choices(texts: list[str]) -> list[tuple[str, str]]:
    parts = []
    for key, text in zip(KEYS, texts, strict=False):
        parts += [(f"{key} ", "$accent bold"), (f"{text}\n", "")]
    return parts
