"""Text in two columns: what stands behind a mark in a line is wrapped under itself, not under the name before it."""

from __future__ import annotations

from textual.content import Content
from textual.visual import VisualType
from textual.widgets import Static

MARK = "\x1f"
"""Ends the name at a line's beginning. Not shown; data can't hold it, since it is written out there."""
LEAST = 12
"""Columns that the text needs at the least; else it is wrapped like any other."""


def hung(content: Content, width: int) -> Content:
    """The content for `width` columns, without marks."""
    lines = []
    for line in content.split("\n", allow_blank=True):
        place = line.plain.find(MARK)
        if place < 0:
            lines.append(line)
            continue
        name, text = line[:place], line[place + 1 :]
        pieces = text.wrap(width - place) if width - place >= LEAST and text.plain else [text]
        lines.append(name + Content("\n" + " " * place).join(pieces))
    return Content("\n").join(lines)


class Hanging(Static):
    """A `Static` whose marked lines hang; they are wrapped anew at another width."""

    _whole: Content | None = None

    def update(self, content: VisualType = "", *, layout: bool = True) -> None:
        """Shows other text."""
        self._whole = content if isinstance(content, Content) else None
        super().update(content if self._whole is None else hung(self._whole, self.size.width), layout=layout)

    def on_resize(self) -> None:
        """Another width."""
        if self._whole is not None:
            super().update(hung(self._whole, self.size.width))
