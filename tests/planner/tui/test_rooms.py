"""Rooms and pictures of the plan screen: pure functions from sizes to cells."""

from __future__ import annotations

import numpy as np
import pytest

from planner.tui import picture, rooms
from planner.tui.around import BATCHES, near

SIZES = [(72, 18), (80, 22), (100, 28), (120, 34), (160, 43), (200, 24), (200, 58), (320, 90)]
WANTED = {"verdict": 13, "tiers": 11, "data": 12, "why": 12}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("active", ["", "step", "full"])
def test_rooms_fill_the_screen_and_do_not_overlap(size: tuple[int, int], active: str) -> None:
    width, height = size
    found = rooms.arrange(width, height, {**WANTED, "verdict": 10 if height < 32 else 13}, active=active)
    taken = np.zeros((height, width), dtype=int)
    for room in found.rooms:
        assert room.width > 0
        assert room.height > 0
        taken[room.y : room.y + room.height, room.x : room.x + room.width] += 1
    assert taken.max() == 1
    assert taken.min() == 1, "no hole"
    names = [room.name for room in found.rooms]
    assert {"settings", "verdict"} <= set(names)
    placed = set(names) - {"strip"}
    assert placed | set(found.shared) == set(rooms.PANELS)
    assert found.active in found.shared
    if active in found.shared:
        assert found.active == active


def test_more_room_shows_more_panels() -> None:
    counts = [len(rooms.arrange(w, h, {**WANTED, "verdict": 10}).rooms) for w, h in ((80, 22), (120, 34), (200, 58))]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3
    largest = rooms.arrange(200, 58, WANTED)
    assert {"step", "around", "tiers", "why", "data"} <= {room.name for room in largest.rooms}


def test_a_zoomed_panel_is_alone() -> None:
    found = rooms.arrange(80, 22, WANTED, zoomed="step")
    assert found.rooms == (rooms.Room("step", 0, 0, 80, 22),)


def test_stacked_cells_hold_the_heights() -> None:
    """GIVEN layers in eighths of a cell WHEN they are drawn THEN each column shows each layer's eighths, in order."""
    heights = np.array([[8.0, 3.0, 0.0], [4.0, 10.0, 0.0], [4.0, 0.0, 1.0]])
    drawn = picture.stacked(heights, 24.0, 3)
    assert len(drawn) == 3
    bottom, middle, top = drawn[2], drawn[1], drawn[0]
    assert bottom[0] == picture.Glyph(0, picture.NOTHING, 8)
    assert middle[0] == picture.Glyph(1, 2, 4)
    assert top[0].below == picture.NOTHING
    assert bottom[1] == picture.Glyph(0, 1, 3)
    assert middle[1] == picture.Glyph(1, picture.NOTHING, 5)
    assert bottom[2] == picture.Glyph(2, picture.NOTHING, 1)


def test_above_a_floor_the_layers_keep_their_edges() -> None:
    heights = np.array([[5.0, 5.0], [2.0, 0.0]])
    assert picture.above(heights, 4.0).tolist() == [[1.0, 1.0], [2.0, 0.0]]
    assert picture.above(heights, 6.0).tolist() == [[0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(("own", "most"), [(1, 10), (5, 10), (128, 10), (1000, 4)])
def test_the_own_rung_is_among_its_neighbours(own: int, most: int) -> None:
    found = near(BATCHES, own, most)
    assert own in found
    assert len(found) == most
    assert list(found) == sorted(set(found))
