"""The command palette: what it offers of Textual's own commands, and in which order."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import SystemCommand
from textual.binding import ActiveBinding
from textual.command import DiscoveryHit, Hits
from textual.system_commands import SystemCommandsProvider

OWN_WORDS = {
    "Theme": "Other colours; the last choice is kept",
    "Screenshot": "Saves a picture of the screen as SVG",
    "Quit": "Leaves the wizard; asks while a run goes on",
}
"""Textual's commands that the palette keeps, in words for whoever doesn't know its widgets."""


def in_own_words(commands: Iterable[SystemCommand]) -> Iterable[SystemCommand]:
    """Textual's commands without those of widgets: what these do has a key here."""
    for command in commands:
        if command.title in OWN_WORDS:
            yield SystemCommand(command.title, OWN_WORDS[command.title], command.callback)


MOST_LIKELY = ("plan.train", "plan.save", "live.pause", "live.evaluate", "end.talk", "end.resume")
"""Names of what keys do that comes before the rest of a step."""


def likely_first(bindings: Iterable[ActiveBinding]) -> list[ActiveBinding]:
    """What a step is for first, then what the last line names, then the rest."""

    def place(active: ActiveBinding) -> tuple[int, bool]:
        name = active.binding.id
        return MOST_LIKELY.index(name) if name in MOST_LIKELY else len(MOST_LIKELY), not active.binding.show

    return sorted(bindings, key=place)


class Likely(SystemCommandsProvider):
    """The palette's commands in the order in which they are likely: the step's own first, not by letter."""

    async def discover(self) -> Hits:
        """Every command, before anything is typed."""
        for title, said, callback, discover in self.app.get_system_commands(self.screen):
            if discover:
                yield DiscoveryHit(title, callback, help=said)
