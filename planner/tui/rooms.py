"""Which panels of the plan have a room of their own on a screen of some size, and how large it is. UI-free.

The settings stand at the left, the verdict beside them at the top. What has no room of its own shares the last one,
the slot, where one of them is shown at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PANELS = ("settings", "verdict", "step", "around", "tiers", "why", "data", "advice", "full")
"""All panels, in the order in which Tab goes through them."""
STRIP = "strip"
"""The line over the slot that names what shares it."""
SLOT_FIRST = ("tiers", "why", "step", "around", "data", "advice", "full")
"""The order in which panels share the slot."""
LEAST = {"step": 9, "around": 8, "tiers": 8, "why": 7, "data": 9}
"""Rows below which a panel goes to the slot, its border included."""
WEIGHT = {"step": 5, "around": 3}
"""How the rows that are left over are shared; of panels with a height of their own none."""
SLOT_LEAST, SLOT_WEIGHT = 9, 3
NARROW, WIDE = 110, 150
"""Columns from which the settings are wider."""
TWO_COLUMNS = 112
"""Columns beside the settings from which the panels stand in two columns."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where one panel stands, in cells."""

    name: str
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Arrangement:
    """All rooms of a screen."""

    rooms: tuple[Room, ...]
    shared: tuple[str, ...]
    """The panels that share the slot."""
    active: str
    """The one of them that is shown; empty where a panel fills the screen."""

    def __contains__(self, name: object) -> bool:
        return any(room.name == name for room in self.rooms)


def settings_width(width: int) -> int:
    """Columns of the settings."""
    return 36 if width < NARROW else 42 if width < WIDE else 46


def arrange(width: int, height: int, wanted: Mapping[str, int], *, active: str = "", zoomed: str = "") -> Arrangement:
    """The rooms of a screen of `width` × `height` cells.

    `wanted`: rows that a panel would fill (for `verdict`, `tiers`, `data`); `active`: the panel that the slot shows if
    it is there; `zoomed`: the panel that fills the screen.
    """
    if zoomed:
        return Arrangement((Room(zoomed, 0, 0, width, height),), (), "")
    left = settings_width(width)
    rest = width - left
    needs = {"verdict": wanted.get("verdict", 10)}
    for name, least in LEAST.items():
        needs[name] = max(least, wanted.get(name, 0)) if name not in WEIGHT else least
    if rest >= TWO_COLUMNS:
        middle = rest // 2
        first = _filled(("verdict", "step", "around"), needs, height)
        second = _filled(("tiers", "why", "data"), needs, height - SLOT_LEAST)
    else:
        middle = rest
        first, second = _filled(("verdict", "step", "around", "tiers", "why", "data"), needs, height - SLOT_LEAST), ()
    placed = {*first, *second}
    shared = tuple(name for name in SLOT_FIRST if name not in placed)
    shown = active if active in shared else shared[0]
    rooms = [Room("settings", 0, 0, left, height)]
    if rest >= TWO_COLUMNS:
        rooms += _column(first, "", needs, left, middle, height)
        rooms += _column(second, shown, needs, left + middle, rest - middle, height)
    else:
        rooms += _column(first, shown, needs, left, rest, height)
    return Arrangement(tuple(rooms), shared, shown)


def _filled(names: tuple[str, ...], needs: Mapping[str, int], height: int) -> tuple[str, ...]:
    """As many of the panels as have room above one another; the first always has."""
    kept = list(names[:1])
    left = height - needs[names[0]]
    for name in names[1:]:
        if needs[name] <= left:
            kept.append(name)
            left -= needs[name]
    return tuple(kept)


def _column(names: tuple[str, ...], slot: str, needs: Mapping[str, int], x: int, width: int, height: int) -> list[Room]:
    """The rooms of one column, the slot last; what is left over goes to those that can use it."""
    heights = [needs[name] for name in names] + ([SLOT_LEAST] if slot else [])
    weights = [WEIGHT.get(name, 0) for name in names] + ([SLOT_WEIGHT] if slot else [])
    if not any(weights):
        weights[-1] = 1
    left = height - sum(heights)
    if left < 0:  # a screen that is too low cuts the last room
        heights[-1] = max(1, heights[-1] + left)
    else:
        total, given = sum(weights), 0
        for place, weight in enumerate(weights):
            share = left * weight // total
            heights[place] += share
            given += share
        last = max(place for place, weight in enumerate(weights) if weight)
        heights[last] += left - given
    rooms, y = [], 0
    for name, rows in zip(names, heights, strict=False):
        rooms.append(Room(name, x, y, width, rows))
        y += rows
    if slot:
        rooms += [Room(STRIP, x, y, width, 1), Room(slot, x, y + 1, width, max(1, heights[-1] - 1))]
    return rooms
