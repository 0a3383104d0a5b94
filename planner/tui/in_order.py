"""Keys one after another: each is handed out where the one before it led, however fast they come.

Textual hands a key to whatever has the focus as soon as it arrives. What a key does goes through several messages, so
that one that was typed right after an `Enter` would still go to the screen that the `Enter` leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import SimpleNamespace

from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.app import App

TURNS = 400
"""Turns of the event loop after which the next key is handed out whatever is still under way."""
QUIET_TURNS = 3
"""Turns without a message after which a key has done what it does."""
MOUNT_SECONDS = 1.0
"""How long a screen may take until it stands."""


def hear_alt_digits() -> None:
    """Lets Alt with a digit arrive as such: terminals send it as escape and digit, which Textual (8) turns into the
    signs that Option makes on a Mac's keyboard (`¡`, `™` …).
    """
    if isinstance(ANSI_SEQUENCES_KEYS, dict):
        for digit in "123456789":
            ANSI_SEQUENCES_KEYS[f"\x1b{digit}"] = (SimpleNamespace(value=f"alt+{digit}"),)


class InOrder(App[int]):
    """Waits between two keys until no message of the first is under way."""

    def __init__(self) -> None:
        super().__init__()
        hear_alt_digits()
        self._typed: deque[events.Key] = deque()
        self._typist: asyncio.Task[None] | None = None

    @property
    def typing(self) -> bool:
        """Whether a key waits, or what it does is under way."""
        return self._typist is not None and not self._typist.done()

    async def on_event(self, event: events.Event) -> None:
        """A key waits for its turn; everything else is handled at once."""
        if isinstance(event, events.Key) and not event.is_forwarded:
            self._typed.append(event)
            if not self.typing:
                self._typist = asyncio.create_task(self._hand_out())
            return
        await super().on_event(event)

    async def _hand_out(self) -> None:
        while self._typed and self.is_running:
            try:
                await super().on_event(self._typed.popleft())
            except Exception as error:
                self._handle_exception(error)
                return
            await self._handled()

    async def _handled(self) -> None:
        """Until nothing that followed from the key is under way."""
        end, turns, quiet = time.monotonic() + MOUNT_SECONDS, 0, 0
        while quiet < QUIET_TURNS and turns < TURNS and self.is_running:
            await asyncio.sleep(0)
            screens = self.screen_stack
            if screens and not screens[-1].is_mounted:
                if time.monotonic() > end:
                    return
                continue
            turns += 1
            quiet = 0 if self._under_way() else quiet + 1

    def _under_way(self) -> bool:
        """Whether a message or a callback waits somewhere on the screen."""
        screens = self.screen_stack
        shown = screens[-1].walk_children() if screens else []
        return any(pump.message_queue_size or pump._next_callbacks for pump in (self, *screens, *shown))
