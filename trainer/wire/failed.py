"""The error of a run that has told already why it failed."""

from __future__ import annotations


class Failed(Exception):
    """A failure that was already reported as an event; carries the line for stderr and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
