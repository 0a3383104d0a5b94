"""The error root and its three meanings: invalid, not modelled, infeasible. Anything else is a bug.

`exit_code` is the process exit code that the command line maps each error to (see docs/cli.md).
"""

from __future__ import annotations

from planner.contract.sentence import Sentence, sentence


class TuneplanError(Exception):
    """Root of every error that a user can cause: one line that names the thing and the way out.

    Made of words and names of fields (`named`). `str(error)` is in the command line's words, `sentence` in anyone's.
    """

    exit_code = 2

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)
        self.sentence: Sentence = sentence(*(part if isinstance(part, str) else str(part) for part in parts))

    def __str__(self) -> str:
        return str.__str__(self.sentence)


class InvalidInput(TuneplanError):
    """A value, file or name is wrong: names it, says where it stands and what would be right."""


class NotModelled(TuneplanError):
    """The request is legitimate but no basis for a number exists; refused by name rather than guessed."""


class Infeasible(TuneplanError):
    """The request is valid and modelled, and does not fit the budget. The search catches only this one."""

    exit_code = 3


class Interrupted(TuneplanError):
    """Ctrl-C, SIGTERM or a closed terminal ended it: says what is kept and how to go on."""

    exit_code = 130


class RunFailed(TuneplanError):
    """A training, tracing or calibration process started and failed."""

    exit_code = 4
