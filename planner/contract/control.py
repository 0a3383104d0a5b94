"""What a running trainer can be told: one record a line, on its stdin or at the end of a file in its run folder.

The folder's file is for whoever didn't start the run: whoever may write into the folder may tell its trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from planner.contract.errors import InvalidInput
from planner.contract.record import Number, Record
from planner.contract.run_folder import COMMANDS

Word = Literal["pause", "resume", "stop", "evaluate", "checkpoint", "learning_rate", "logging_steps", "alone"]
LONGEST = 400
"""Characters of a line; longer ones are none."""
_HIGHEST_RATE, _MOST_STEPS = 1e3, 10**9


class Command(Record):
    """One thing to do after the step that is being made."""

    command: Word
    """`pause`, `resume`, `stop`, `evaluate` and `checkpoint` now, or what is to be changed from here on; `alone`:
    the run goes on without the process that started it."""
    value: Annotated[float | None, Field(gt=0, allow_inf_nan=False, strict=True), Number] = None
    """The new learning rate at the schedule's top, or the steps between two points of the curves; of others none."""

    @model_validator(mode="after")
    def _has_its_value(self) -> Command:
        most = {"learning_rate": _HIGHEST_RATE, "logging_steps": _MOST_STEPS}.get(self.command)
        if most is None and self.value is not None:
            raise ValueError(f"{self.command} takes no value")
        if most is not None and (self.value is None or self.value > most):
            raise ValueError(f"{self.command} needs a value above 0 and at most {most:g}")
        if self.command == "logging_steps" and self.value != int(self.value or 0):
            raise ValueError("logging_steps is a whole number")
        return self


def read(line: str | bytes) -> Command | None:
    """The command that a line gives; None for what is none."""
    if len(line) > LONGEST:
        return None
    try:
        return Command.model_validate_json(line)
    except ValueError:
        return None


def line_of(command: Command) -> str:
    """The line that gives it, with its end."""
    return command.model_dump_json(exclude_none=True) + "\n"


def tell(folder: Path, command: Command) -> None:
    """Tells the trainer of a run folder. Raises `InvalidInput` where that can't be written."""
    from planner.contract.files import append_to

    try:
        with append_to(folder / COMMANDS) as stream:
            stream.write(line_of(command))
    except OSError as error:
        raise InvalidInput(f"{folder / COMMANDS}: {error.strerror or error}") from None
