"""What may be changed within a run: the learning rate and how often the curves get a point."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from planner.contract.control import Command
from planner.tui.fields import BY_KEY

NAMES = ("learning_rate", "logging_steps")
WHAT = (
    "From the next step on. The schedule goes on as it was, with its top at the new rate; the plan in the run's folder "
    "is changed too, so that a resumed run keeps it."
)


class AdjustScreen(ModalScreen[tuple[Command, ...]]):
    """Asks for new values; returns what is to be told, nothing where nothing was changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="adjust.back", tooltip="Back to the run, nothing changed"),
    ]

    def __init__(self, learning_rate: float | None, logging_steps: int | None) -> None:
        super().__init__()
        self.now: dict[str, float | None] = {"learning_rate": learning_rate, "logging_steps": logging_steps}

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as dialog:
            dialog.border_title = "Change within the run"
            dialog.border_subtitle = "↑ ↓ or tab move · ⏎ takes both · esc back"
            yield Static(WHAT, markup=False)
            for name in NAMES:
                now = self.now[name]
                line = Input("" if now is None else f"{now:g}", id=f"adjust-{name}", compact=True)
                yield Static(f"{BY_KEY[name].label}:", markup=False)
                yield line
            yield Static("", id="adjust-error", markup=False)

    def on_mount(self) -> None:
        self.set_focus(self.query_one("#adjust-learning_rate", Input))

    def key_down(self) -> None:
        """The next line."""
        self.focus_next(Input)

    def key_up(self) -> None:
        """The line before."""
        self.focus_previous(Input)

    @on(Input.Submitted)
    def _taken(self, event: Input.Submitted) -> None:
        event.stop()
        commands = []
        for name in NAMES:
            text = self.query_one(f"#adjust-{name}", Input).value.strip()
            try:
                value = float(text) if text else self.now[name]
                if value is not None and value != self.now[name]:
                    commands.append(Command.model_validate({"command": name, "value": value}))
            except ValueError:
                label = BY_KEY[name].label
                ask = "a number above 0, such as 2e-4" if name == "learning_rate" else "a whole number from 1 on"
                self.query_one("#adjust-error", Static).update(f"{label}: “{text}” is not {ask}")
                return
        self.dismiss(tuple(commands))

    def action_leave(self) -> None:
        """Nothing is changed."""
        self.dismiss(())
