"""A directory tree of folders and data files; backspace goes a folder up, and what is typed is a path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from rich.text import Text, TextType
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DirectoryTree, Input
from textual.widgets.directory_tree import DirEntry
from textual.widgets.tree import TreeNode

from planner.contract.data.tables import kind_of
from planner.contract.words import visible


class DataTree(DirectoryTree):
    """Shows what a data set can be: folders and JSONL, JSON, CSV, TSV and parquet files."""

    BINDING_GROUP_TITLE = "Files"
    ICON_NODE = "▸ "
    ICON_NODE_EXPANDED = "▾ "
    ICON_FILE = "  "
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open", key_display="⏎", id="tree.open", tooltip="Open folder or take file"),
        Binding("backspace", "up", "Folder up", key_display="⌫", id="tree.up", tooltip="Show the folder above"),
        Binding("right", "unfold(True)", "Unfold", show=False, id="tree.unfold", tooltip="Unfold the folder"),
        Binding("left", "unfold(False)", "Fold", show=False, id="tree.fold", tooltip="Fold the folder"),
        Binding("ctrl+q", "app.request_quit", "Quit", priority=True, id="tree.quit", tooltip="Leave the wizard"),
    ]

    class Looked(Message):
        """A file was clicked: it is to be shown, and nothing is taken."""

        def __init__(self, path: Path) -> None:
            self.path = path
            super().__init__()

    async def _on_click(self, event: events.Click) -> None:
        """A click moves the cursor, folds a folder, and shows a file; only Enter takes one."""
        line = event.style.meta.get("line")
        node = None if line is None or event.style.meta.get("toggle") else self.get_node_at_line(line)
        if node is None or line is None:
            return
        event.prevent_default()
        self.cursor_line = line
        if node.allow_expand:
            self._toggle_node(node)
        elif node.data is not None:
            self.post_message(self.Looked(node.data.path))

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        """Letters are a path here, as the line above says, so none of them quits; `?` stays the help key."""
        return character is not None and character.isprintable() and character not in " ?"

    async def _on_key(self, event: events.Key) -> None:
        if self.check_consume_key(event.key, event.character):
            event.stop()
            event.prevent_default()
            self._type(event.character or "")

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        self._type((event.text.splitlines() or [""])[0])

    def _type(self, text: str) -> None:
        """Into the line of the path, at once: what is typed faster than the focus moves keeps its order."""
        line = self.screen.query_one("#path", Input)
        if self.screen.focused is self:
            line.value = ""
            self.screen.set_focus(line)
        line.insert_text_at_cursor(text)

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        """Folders and data files, nothing hidden."""
        shown = []
        for path in paths:
            try:
                if not path.name.startswith(".") and (path.is_dir() or kind_of(path) is not None):
                    shown.append(path)
            except OSError:
                continue
        return shown

    def _populate_node(self, node: TreeNode[DirEntry], content: Iterable[Path]) -> None:
        super()._populate_node(node, content)
        if node is self.root:
            self.call_after_refresh(self._to_first_file)

    def _to_first_file(self) -> None:
        """The cursor begins at the first file that can be taken; one that was moved stays."""
        first = next((child for child in self.root.children if not child.allow_expand), None)
        if first is not None and self.cursor_line <= 0:
            self.move_cursor(first)

    def process_label(self, label: TextType) -> Text:
        """A name as it stands: brackets are no markup, and control characters are written out."""
        return Text(visible(label)) if isinstance(label, str) else label

    def action_up(self) -> None:
        """Shows the folder above."""
        self.path = Path(self.path).absolute().parent

    def action_unfold(self, unfold: bool) -> None:
        """Unfolds or folds the folder under the cursor."""
        node = self.cursor_node
        if node is not None and node.allow_expand:
            if unfold:
                node.expand()
            else:
                node.collapse()
