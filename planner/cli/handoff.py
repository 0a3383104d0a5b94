"""Commands that the trainer carries out in a process of its own, with this terminal as its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence

from planner.cli.children import require_train_extra
from planner.errors import RunFailed


def run(command: str, arguments: Sequence[str | None]) -> int:
    """Runs `python -m trainer COMMAND ARGUMENTS` and returns its exit code; Ctrl-C reaches the trainer first."""
    require_train_extra(command)
    words = [word for word in arguments if word is not None]
    try:
        child = subprocess.Popen([sys.executable, "-m", "trainer", command, *words])
    except OSError as error:
        raise RunFailed(f"the trainer could not be started: {error.strerror or error}") from None
    while True:
        # The terminal sends Ctrl-C to both; the trainer ends in its own way and this process waits for it.
        with contextlib.suppress(KeyboardInterrupt):
            code = child.wait()
            break
    return code if code >= 0 else RunFailed.exit_code


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
