"""The two dialogs: help, and what to do with a run when leaving."""

from __future__ import annotations

import textwrap
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

WORDS = (
    ("token", "a piece of text, some four letters; models read and are trained by tokens"),
    ("step", "one change of the trained weights, after an effective batch of examples"),
    ("epoch", "all examples once"),
    ("effective batch", "batch size × accumulation × devices: what a step learns from"),
    ("LoRA, adapter", "small matrices beside the frozen weights; only they are trained"),
    ("recompute", "layers are computed twice instead of kept (gradient checkpointing): less memory, more time"),
    ("tensors, allocated", "bytes of the run's own numbers at one moment"),
    ("reserved", "bytes that PyTorch's caching allocator holds: allocated and spare blocks"),
    ("device", "reserved + context and libraries: what the card's own tool shows"),
    ("budget", "device bytes that a run may use: total − what others hold − reserve"),
    ("instant", "a point of a step at which memory can peak; the binding one sets the peak"),
    ("95 of 100 runs", "hold their device peak inside the interval on a calibrated device; before that 4 of 5 do"),
    (
        "fits, tight",
        "fits: all of that interval is within the budget; tight: only the peak is, or over 95 % of it is taken",
    ),
)
WORD_WIDTH = 20
TEXT_WIDTH = 50


def entry(name: str, width: int, text: str, style: str) -> list[str | tuple[str, str]]:
    """A name and its text beside it, as parts of a `Content`; further lines stand under the first."""
    lines = textwrap.wrap(text, TEXT_WIDTH + WORD_WIDTH - width)
    return [(f"{name:<{width}}", style), f"\n{' ' * width}".join(lines), "\n"]


class HelpScreen(ModalScreen[None]):
    """What this step is for, its keys, and the words."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "close", "Close", key_display="esc", id="help.close",
                tooltip="Back to the wizard"),
    ]  # fmt: skip

    def __init__(self, text: str, keys: list[tuple[str, str, str]]) -> None:
        super().__init__()
        self.text = text
        self.keys = keys

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="dialog") as dialog:
            dialog.border_title = "Help"
            dialog.border_subtitle = "↑ ↓ scroll · esc closes"
            yield Static(self._content(), markup=False)

    def on_mount(self) -> None:
        self.set_focus(self.query_one("#dialog"))

    def _content(self) -> Content:
        parts: list[str | tuple[str, str]] = [self.text, "\n\n", ("Keys\n", "bold underline")]
        for key, name, tooltip in self.keys:
            parts += entry(key, 6, name + ("" if not tooltip else f": {tooltip}"), "bold $accent")
        parts += ["\n", ("Words\n", "bold underline")]
        for word, meaning in WORDS:
            parts += entry(word, WORD_WIDTH, meaning, "bold")
        return Content.assemble(*parts)

    def action_close(self) -> None:
        """Back to the wizard."""
        self.dismiss(None)


class QuitScreen(ModalScreen[str]):
    """A run goes on: leave it going, stop it, or stay. Returns `leave`, `stop` or `stay`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "answer('leave')", "Leave it going", id="quit.leave", tooltip="The trainer goes on by itself"),
        Binding("x", "answer('stop')", "Stop it", id="quit.stop", tooltip="Finishes the step, saves a checkpoint"),
        Binding("escape", "answer('stay')", "Stay", id="quit.stay", tooltip="Back to the run"),
    ]

    def __init__(self, run_dir: str) -> None:
        super().__init__()
        self.run_dir = run_dir

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as dialog:
            dialog.border_title = "A run is going on"
            yield Static(f"Its events and results go to {self.run_dir} either way.", markup=False)
            yield OptionList(
                Option("l  leave it going and quit", id="leave"),
                Option("x  stop it after this step, save a checkpoint, then quit", id="stop"),
                Option("esc  stay", id="stay"),
                compact=True,
                markup=False,
            )

    def on_mount(self) -> None:
        self.set_focus(self.query_one(OptionList))

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(event.option_id or "stay")

    def action_answer(self, answer: str) -> None:
        """One of the three answers."""
        self.dismiss(answer)
