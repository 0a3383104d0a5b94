"""The last look at every line before it goes to the terminal: text of others may not steer it."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from planner.contract.words import STEERING


class Shield(LineFilter):
    """Takes out what would steer the terminal; a character that has a place in the line leaves a dot there.

    What the wizard shows of others is written out where it comes in; this holds for whatever was forgotten.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The line, harmless. Control segments are Textual's own."""
        return [
            segment
            if segment.control or not STEERING.search(segment.text)
            else Segment(STEERING.sub(lambda found: "·" * cell_len(found[0]), segment.text), segment.style)
            for segment in segments
        ]
