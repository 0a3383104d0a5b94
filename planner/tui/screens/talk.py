"""Talking to what was trained: a line for a prompt, the trained model's answer, and its base's beside it."""

from __future__ import annotations

import threading
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from planner.contract.errors import TuneplanError
from planner.contract.words import LAYOUT, shown
from planner.handover.talker import Reply, Talker
from planner.tui.work import error_line

SPINNER = "◐◓◑◒"


class TalkScreen(ModalScreen[None]):
    """One prompt at a time; the model is loaded at the first, and let go when the screen is left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="talk.back", tooltip="Back; the model is let go"),
        Binding("up,pageup", "scroll(-1)", "Up", show=False, id="talk.up", tooltip="Earlier answers"),
        Binding("down,pagedown", "scroll(1)", "Down", show=False, id="talk.down", tooltip="Later answers"),
    ]

    class Answered(Message):
        """A prompt was answered, or why not."""

        def __init__(self, reply: Reply | None, error: str = "") -> None:
            self.reply = reply
            self.error = error
            super().__init__()

    def __init__(self, run_dir: str, device: str = "auto") -> None:
        super().__init__()
        self.talker = Talker(run_dir, device)
        self.told: list[str | tuple[str, str]] = []
        self.busy = False
        self._turn = 0

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as dialog:
            dialog.border_title = "Talk to it"
            dialog.border_subtitle = "⏎ asks · ↑ ↓ scroll · esc back"
            with VerticalScroll(id="talked", can_focus=False):
                yield Static("", id="talked-text", markup=False)
            yield Static("", id="talk-state", markup=False)
            yield Input(placeholder="a prompt; the first one loads the model", id="prompt", compact=True)

    def on_mount(self) -> None:
        self.set_focus(self.query_one("#prompt", Input))
        self.set_interval(0.5, self._tick)

    def _tick(self) -> None:
        """Says that it is at work."""
        self._turn += 1
        loading = "" if self.told.count("\n\n") > 1 else " (the model is loaded once)"
        self.query_one("#talk-state", Static).update(
            f"{SPINNER[self._turn % len(SPINNER)]} writing{loading} …" if self.busy else ""
        )

    @on(Input.Submitted)
    def _asked(self, event: Input.Submitted) -> None:
        event.stop()
        prompt = event.value.strip()
        if not prompt or self.busy:
            return
        self.busy = True
        event.input.value = ""
        self._tell((f"▸ {prompt}", "bold $accent"))
        self._tick()
        threading.Thread(target=self._ask, args=(prompt,), name="talk", daemon=True).start()

    def _ask(self, prompt: str) -> None:
        try:
            answered = self.Answered(self.talker.say(prompt))
        except TuneplanError as error:
            answered = self.Answered(None, error_line(error))
        self.post_message(answered)

    def on_talk_screen_answered(self, message: Answered) -> None:
        """Shows both answers."""
        self.busy = False
        reply = message.reply
        if reply is None:
            self._tell((message.error, "bold $text-error"))
        else:
            base = "not at hand after full fine-tuning" if reply.base is None else shown(reply.base, keep=LAYOUT)
            self._tell(("trained  ", "$success"), shown(reply.text, keep=LAYOUT).strip() or "(nothing)", "\n",
                       ("base     ", "dim"), (base.strip() or "(nothing)", "dim"))  # fmt: skip
        self._tick()

    def _tell(self, *parts: str | tuple[str, str]) -> None:
        self.told += [*parts, "\n\n"]
        self.query_one("#talked-text", Static).update(Content.assemble(*self.told))
        self.query_one("#talked").scroll_end(animate=False)

    def action_scroll(self, by: int) -> None:
        """Moves through the answers while the line keeps the focus."""
        self.query_one("#talked").scroll_relative(y=3 * by, animate=False)

    def on_unmount(self) -> None:
        """The model is let go, whatever it is at."""
        threading.Thread(target=self.talker.close, name="talk", daemon=True).start()

    def action_leave(self) -> None:
        """Back to the end of the run."""
        self.dismiss(None)
