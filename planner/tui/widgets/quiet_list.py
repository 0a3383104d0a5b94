"""A list that a click never decides: it moves the cursor, and only Enter takes what is under it."""

from __future__ import annotations

from textual import events
from textual.widgets import OptionList


class QuietList(OptionList):
    """Textual's list takes an entry at a click."""

    async def _on_click(self, event: events.Click) -> None:
        place = event.style.meta.get("option")
        if place is not None:
            event.prevent_default()
            if not self.get_option_at_index(place).disabled:
                self.highlighted = place
