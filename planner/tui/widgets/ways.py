"""How a data set is to be read, asked by number: what can be done about a refused one, and which column is what."""

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

TASKS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("a question and its answer", "auto", ("prompt", "completion")),
    ("a text and its label, by a classifier", "classification", ("text", "label")),
    ("a chat whose turns stand in one column", "messages", ("messages",)),
    ("a text, learned whole", "text", ("text",)),
)
"""What can be learned of columns: in words, as a format, and the roles that they play in it."""
ASKS = {
    "prompt": "Which column holds the question (the prompt)?\n",
    "completion": "And which the answer, which is learned?\n",
    "text": "Which column holds the text?\n",
    "label": "And which the label, which is learned?\n",
    "messages": "Which column holds the turns?\n",
}
AUTO = ("as it is found by itself", {"format": "auto", "columns": {}})
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
        self._menu: list[tuple[str, str, tuple[str, ...]]] = []
        """What can be learned, where that is asked first."""
        self._picked: tuple[str, str, tuple[str, ...]] | None = None
        """What was chosen of it."""

    def ask(self, path: str, columns: tuple[str, ...], classifies: bool) -> None:
        """Asks what of a readable data set's columns is to be learned; `classifies`: whether the model can do that."""
        self._found, self._columns, self._picked = DataFound(path=path, names=columns), {}, None
        self._menu = [
            task for task in TASKS if len(task[2]) <= len(columns) and (task[1] != "classification" or classifies)
        ]
        self.display = True
        self._show()
        self.screen.set_focus(self)

    def offer(self, found: DataFound) -> None:
        """Shows what can be done about a refused data set; nothing where nothing can."""
        if not found.ways and not found.names:
            self.close()
            return
        self._found, self._columns, self._menu, self._picked = found, {}, [], None
        self.display = True
        self._show()
        self.screen.set_focus(self)

    def close(self) -> None:
        """Asks nothing."""
        self._found, self._menu, self._picked = None, [], None
        self.display = False

    def on_key(self, event: Key) -> None:
        """Takes the answer."""
        found = self._found
        character = KEYS[0] if event.key == "enter" and found is not None and found.ways else event.character
        if found is None or character is None:
            return
        if self._menu:
            self._answer(event, found, KEYS.find(character))
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

    def _answer(self, event: Key, found: DataFound, place: int) -> None:
        """The next answer where what is to be learned was asked first."""
        if self._picked is None:
            if place == len(self._menu):
                event.stop()
                self.post_message(self.Chosen(found.path, AUTO[1]))
            elif place in range(len(self._menu)):
                event.stop()
                self._picked = self._menu[place]
                self._show()
            return
        _, format, roles = self._picked
        if place in range(len(found.names)) and found.names[place] not in self._columns.values():
            event.stop()
            self._columns[roles[len(self._columns)]] = found.names[place]
            if len(self._columns) == len(roles):
                self.post_message(self.Chosen(found.path, {"format": format, "columns": dict(self._columns)}))
            else:
                self._show()

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
        if self._menu and self._picked is None:
            lines = [("What is to be learned of it?\n", "bold")]
            lines += [*_choices([*(words for words, _, _ in self._menu), AUTO[0]]), ("esc leaves it as it is", "dim")]
        elif self._picked is not None:
            lines = [(ASKS[self._picked[2][len(self._columns)]], "bold")]
            lines += _choices([_column(name, self._columns) for name in found.names])
        elif found.ways:
            lines = [("What is to be done?\n", "bold"), *_choices([words for words, _ in found.ways])]
            lines.append(("a digit chooses, Enter the first", "dim"))
        else:
            lines = [(ASKS[self._asked()], "bold"), *_choices([_column(name, self._columns) for name in found.names])]
            if not self._columns:
                lines += [("0 ", "$accent bold"), ("none: a text is learned whole\n", "")]
        self.update(Content.assemble(*lines))


def _column(name: str, played: Mapping[str, str]) -> str:
    role = next((role for role, column in played.items() if column == name), "")
    return shown(name) + (f"  ({role})" if role else "")


def _choices(texts: list[str]) -> list[tuple[str, str]]:
    parts = []
    for key, text in zip(KEYS, texts, strict=False):
        parts += [(f"{key} ", "$accent bold"), (f"{text}\n", "")]
    return parts
