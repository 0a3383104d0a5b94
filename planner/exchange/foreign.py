"""What another trainer's file says: choices and hyperparameters of its run, and a note on every key of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

How = Literal["read", "assumed", "ignored", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """One key of a file and what became of it."""

    key: str
    """With the keys above it: `train.micro_batch_size`."""
    how: How
    """`read` into a setting; `assumed` where the file is silent or says less than is needed; `ignored` because it moves
    no memory; `unknown` to this reader."""
    text: str
    """`batch_size 2`; for an assumption what was taken and why."""
    line: int | None = None

    def __str__(self) -> str:
        place = f" (line {self.line})" if self.line else ""
        return f"{self.key}{place}: {self.text}" if self.text else f"{self.key}{place}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """A run as another tool's file describes it."""

    tool: str
    """One of `recognise.TOOLS`."""
    where: str
    model: str | None
    """Hub id or path as the file names it."""
    values: Mapping[str, object]
    """Fields of `TrainingChoices`, all that the tool decides."""
    hyperparameters: Mapping[str, object]
    """Fields of `Hyperparameters`."""
    notes: tuple[Note, ...]
    data: str | None = None
    """Where its examples come from; the figure doesn't use it."""
    several: str | None = None
    """The key that divides the run over devices, where the file doesn't say how many."""
    stack: str = ""
    """What the figure stands for, where the tool's own code is modelled by something near."""
    no_figure: str = ""
    """Why there is no figure for the run, though all of it is understood; with the key that says so."""
    files: tuple[str, ...] = field(default=())
    """Launcher configs that were read beside it."""

    def of(self, how: How) -> tuple[Note, ...]:
        """The notes of one kind, in the order of the file."""
        return tuple(note for note in self.notes if note.how == how)

    def record(self) -> dict[str, object]:
        """As JSON."""
        return {
            "schema": "tuneplan.foreign/1",
            "tool": self.tool,
            "file": self.where,
            "model": self.model,
            "data": self.data,
            "stack": self.stack,
            "keys": [{"key": note.key, "line": note.line, "how": note.how, "text": note.text} for note in self.notes],
        }
