"""Command lines that a person can paste: `plan` as this shell finds it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from shutil import which

from planner.contract import process


def plan_command(*words: str) -> str:
    """`plan` with these words, called by its name where the shell finds this very one, else by what works here."""
    own = Path(sys.executable).with_name("plan")
    found = which("plan")
    if found is not None and own.exists() and os.path.samefile(found, own):
        return shlex.join(("plan", *words))
    if os.access(own, os.X_OK):
        return shlex.join((str(own), *words))
    return shlex.join(process.command("planner.cli", *words))
