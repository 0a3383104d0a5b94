"""The deck of the plan: places its panels by the room there is, and zooms one of them."""

from __future__ import annotations

from textual.containers import Container
from textual.content import Content
from textual.events import Click
from textual.geometry import NULL_OFFSET, NULL_SPACING, Region, Size
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.widget import Widget
from textual.widgets import Static

from planner.tui import rooms
from planner.tui.widgets.field_list import FieldList
from planner.tui.widgets.panels.base import Panel, jump_title

KEYS = "  v next · z zoom"


class Strip(Static):
    """The names of the panels that share the slot; a click shows one."""

    def __init__(self) -> None:
        super().__init__("", markup=False, id=rooms.STRIP)
        self._ends: list[tuple[int, str]] = []

    def show(self, panels: list[Panel], active: str, room: int) -> None:
        """Names the panels from left to right, their jump letters marked, in `room` columns."""
        parts: list[Content | str | tuple[str, str]] = []
        self._ends, width = [], 0
        for panel in panels:
            text = jump_title(panel.TAB or panel.TITLE, panel.JUMP)
            parts += [" ", text.stylize("bold reverse" if active == panel.NAME else "dim")]
            width += len(text) + 1
            self._ends.append((width, panel.NAME))
        if width + len(KEYS) <= room:
            parts.append((KEYS, "dim"))
        self.update(Content.assemble(*parts))

    def on_click(self, event: Click) -> None:
        """Shows the panel under the pointer."""
        deck = self.parent
        name = next((name for end, name in self._ends if event.x < end), None)
        if name is not None and isinstance(deck, Deck):
            deck.show(name)


class _Rooms(Layout):
    """Places the deck's children where its arrangement says."""

    name = "rooms"

    def arrange(self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True) -> ArrangeResult:
        assert isinstance(parent, Deck)
        by_name = {room.name: room for room in parent.arrangement(size).rooms}
        placements = []
        for child in children:
            room = by_name.get(child.id or "")
            if room is not None:
                region = Region(room.x, room.y, room.width, room.height)
                placements.append(WidgetPlacement(region, NULL_OFFSET, NULL_SPACING, child))
        return placements


class Deck(Container):
    """Holds the settings and every panel; each child's id is its name in `rooms.PANELS`."""

    def __init__(self, *children: Widget, id: str) -> None:
        super().__init__(*children, Strip(), id=id)
        self._layout = _Rooms()
        self.active = rooms.SLOT_FIRST[0]
        """What the slot shows."""
        self.zoomed = ""
        """What fills the screen; empty for none."""

    @property
    def layout(self) -> Layout:
        """By rooms."""
        return self._layout

    def arrangement(self, size: Size) -> rooms.Arrangement:
        """The rooms at a size."""
        width = max(1, size.width - rooms.settings_width(size.width))
        if width >= rooms.TWO_COLUMNS:
            width //= 2
        wanted = {panel.NAME: panel.wanted(width - 4) for panel in self.query(Panel)}
        return rooms.arrange(
            size.width,
            size.height,
            {name: rows for name, rows in wanted.items() if rows},
            active=self.active,
            zoomed=self.zoomed,
        )

    def on_resize(self) -> None:
        """Another size: other rooms."""
        self.settle()

    def settle(self) -> None:
        """Shows what has a room, hides what has none, and lets the layout place it."""
        if not self.size:
            return
        found = self.arrangement(self.size)
        for child in self.children:
            child.display = child.id in found
        panels = {panel.NAME: panel for panel in self.query(Panel)}
        strip = next((room for room in found.rooms if room.name == rooms.STRIP), None)
        if strip is not None:
            self.query_one(Strip).show([panels[name] for name in found.shared], found.active, strip.width)
        self.refresh(layout=True)

    # ------------------------------------------------------------------------------------------------------- moving

    def show(self, name: str) -> None:
        """Brings a panel onto the screen, into the slot where it has no room of its own."""
        self.zoomed = ""
        if name not in self.arrangement(self.size) and name in rooms.SLOT_FIRST:
            self._leave(name)
            self.active = name
        self.settle()

    def jump(self, name: str) -> None:
        """Shows a panel and puts the focus into it."""
        zoomed = self.zoomed
        self.show(name)
        if zoomed:
            self.zoomed = name
            self.settle()
        self._enter(name)

    def next_shared(self) -> None:
        """The next panel of the slot; while one is zoomed, the next panel."""
        found = self.arrangement(self.size)
        if self.zoomed:
            names = [name for name in rooms.PANELS if name != "verdict"]
            self.jump(names[(names.index(self.zoomed) + 1) % len(names)])
            return
        name = found.shared[(found.shared.index(found.active) + 1) % len(found.shared)]
        inside = self.focused_panel == found.active
        self.show(name)
        if inside:
            self._enter(name)

    def zoom(self) -> None:
        """The panel with the focus fills the screen, or gives it back."""
        self.zoomed = "" if self.zoomed else self.focused_panel or "settings"
        focused = self.zoomed
        self.settle()
        if focused:
            self._enter(focused)

    @property
    def focused_panel(self) -> str:
        """Name of the panel in which the focus is; empty for none."""
        focused = self.screen.focused
        if focused is None:
            return ""
        return next((node.id or "" for node in focused.ancestors_with_self if node.parent is self), "")

    def _leave(self, name: str) -> None:
        """A focus in a panel that goes would hang in the air."""
        if self.focused_panel not in ("", "settings", name):
            self.screen.set_focus(None)

    def _enter(self, name: str) -> None:
        """At once, not after the next frame: the key that follows belongs to the panel."""
        child = self.get_child_by_id(name)
        if isinstance(child, FieldList):
            child.focus_rows()
        elif isinstance(child, Panel):
            child.go_in()
