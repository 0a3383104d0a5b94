"""A note of what a run is about to do, for the case that it dies without a word: SIGSEGV, or SIGKILL by the kernel.

A process that ends by itself, also in a failure, removes its note. One that is found was left by a process that was
killed; whether memory was why follows from what can be known of it: `faulthandler` wrote below the note that a library
crashed, or the kernel has ended a process for want of memory since. A `kill -9` or a power cut leaves neither, and a
run that ended so goes on exactly as it would have.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import TextIO

from planner.contract import files
from trainer.recovery import limits

NAME = "last-words-{}.txt"
LONGEST = 2**16
"""Bytes that are read of a note; ours are far shorter."""


class LastWords:
    """The note of one process of a run."""

    def __init__(self, run_dir: Path, rank: int = 0) -> None:
        self._path = run_dir / NAME.format(rank)
        self._file: TextIO | None = None
        self._kills = limits.kills()
        self._watched = faulthandler.is_enabled()

    def begin(self, rows: int, eval_rows: int) -> None:
        """From here on so many rows pass at once; a crash is written below. A full disk costs the note, not the run."""
        with contextlib.suppress(OSError):
            if self._file is None:
                self._path.unlink(missing_ok=True)
                self._file = files.append_to(self._path)
                faulthandler.enable(self._file, all_threads=False)
            json.dump({"rows": rows, "eval_rows": eval_rows, "kills": self._kills}, self._file)
            self._file.write("\n")
            self._file.flush()

    def end(self) -> None:
        """The process ends by itself: no note is needed."""
        if self._file is None:
            return
        faulthandler.disable()
        if self._watched:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # no stderr
                faulthandler.enable(sys.__stderr__ or sys.stderr)
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def fewer(run_dir: Path) -> dict[str, int] | None:
    """Half the rows of an earlier process of this run that memory ended; None where none was. Reads, removes nothing.

    The keys are those of `Recovery.restore`.
    """
    found: dict[str, int] = {}
    for path in sorted(run_dir.glob(NAME.format("*"))):
        note = _read(path)
        for key in ("rows", "eval_rows") if note else ():
            half = max(1, note[key] // 2)
            found[key] = min(half, found.get(key, half))
    return found or None


def _read(path: Path) -> dict[str, int]:
    """The last note in a file, where memory was why nothing came after it."""
    try:
        with os.fdopen(files.open_plain(path), "rb") as stream:
            lines = stream.read(LONGEST).decode(errors="replace").splitlines()
    except OSError:
        return {}
    note: dict[str, int] = {}
    crashed = False
    for line in lines:
        with contextlib.suppress(ValueError):
            made = json.loads(line)
            if isinstance(made, dict) and all(type(made.get(key)) is int for key in ("rows", "eval_rows", "kills")):
                note = made
                continue
        crashed = crashed or line.startswith("Fatal Python error")
    return note if note and (crashed or limits.kills() > note["kills"]) else {}
