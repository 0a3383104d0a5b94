"""Commands that the trainer carries out in a process of its own, with this terminal as its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from planner.cli.children import require_train_extra
from planner.cli.signals import held, passed_on, signal_name
from planner.contract import process
from planner.contract.errors import Interrupted, RunFailed


def run(command: str, arguments: Sequence[str | None]) -> int:
    """Runs `python -m trainer COMMAND ARGUMENTS` and returns its exit code.

    Ctrl-C is passed on: the trainer says what it keeps and ends with 130; a second one ends it at once.
    """
    require_train_extra(command)
    words = [word for word in arguments if word is not None]
    try:
        with held():
            environment = process.environment(**{process.STARTER: str(os.getpid())})
            child = subprocess.Popen(
                process.command("trainer", command, *words), env=environment, start_new_session=True
            )
    except OSError as error:
        raise RunFailed(f"the trainer could not be started: {error.strerror or error}") from None
    with passed_on(child) as interrupts:
        code = child.wait()
    if code >= 0:
        return process.exit_code(code)
    if interrupts:
        kept = (
            "finished runs are kept, the same command goes on there" if command == "grid" else "nothing of it is kept"
        )
        raise Interrupted(f"ended at once; {kept}")
    raise RunFailed(f"the trainer was ended by {signal_name(-code)}")


def options(**values: object) -> list[str]:
    """`--name value` for each value that is given; True stands for the flag alone."""
    words: list[str] = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words
