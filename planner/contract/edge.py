"""What nobody foresaw, caught once where a process ends: one line, its exit code, and a file with the traceback.

`plan`, `python -m trainer` and the wizard end by this. A bug is no wrong input and no model that doesn't fit: of the
exit codes its own is 4, the command itself failed, and the line says that it is a bug.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput, RunFailed, TuneplanError
from planner.contract.shown import clause
from planner.contract.words import one_line, without_secrets

FILES_KEPT = 20
"""Older accounts are removed."""
_OWN = "tuneplan-error-"
_EXHAUSTED = {
    getattr(errno, name, None)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EFBIG", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ECHILD", "ENOBUFS")
}
"""Errors of the machine, whichever file was asked for."""


def account(error: BaseException) -> tuple[str, int]:
    """One line about what ended a command, and its exit code; what is no `TuneplanError` is kept in a file."""
    if isinstance(error, TuneplanError):
        return one_line(error), error.exit_code
    what, code = _meaning(error)
    place = keep(error)
    return one_line(what if place is None else f"{what} (details in {place})"), code


def _meaning(error: BaseException) -> tuple[str, int]:
    text = message_of(error)
    if isinstance(error, MemoryError):
        return "the memory of this machine, or what this process may take of it, has run out", RunFailed.exit_code
    if isinstance(error, RecursionError):
        return "something that was given is nested too deep to be read", InvalidInput.exit_code
    if isinstance(error, ImportError):
        return f"a library of this environment can't be loaded: {text}", RunFailed.exit_code
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        named = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
        machine = error.errno in _EXHAUSTED
        return f"{named}: {error.strerror or text}", (RunFailed if machine else InvalidInput).exit_code
    if isinstance(error, FileNotFoundError) and _homeless():
        return (
            "the folder that this was started in doesn't exist any more; change to another one",
            InvalidInput.exit_code,
        )
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return f"the system refuses: {error.strerror or text}", RunFailed.exit_code
    return f"this is a bug in tuneplan: {type(error).__name__}: {text}", RunFailed.exit_code


def _homeless() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def message_of(error: BaseException) -> str:
    """The error's own words on one line, even where they can't be made."""
    try:
        return clause(error, 300)
    except Exception:  # a message that can't be made, as of an integer with too many digits
        return "its message can't be shown"


def keep(error: BaseException) -> Path | None:
    """Writes the traceback, for a report, into the user's data folder or else the one for temporary files; None where
    neither can be written.
    """
    try:
        content = _report(error)
    except Exception:  # no memory is left, say
        content = f"{type(error).__name__}\n".encode()
    for folder in (_data_folder, _temporary_folder):
        with contextlib.suppress(Exception):
            return _write(folder(), content)
    return None


def _report(error: BaseException) -> bytes:
    from planner import __version__

    lines = [f"tuneplan {__version__}, Python {sys.version.split()[0]} on {sys.platform}\n", f"{sys.argv}\n\n"]
    lines += traceback.format_exception(error)
    return without_secrets("".join(lines)).encode("utf-8", errors="backslashreplace")


def _data_folder() -> Path:
    from planner.contract.files import user_data_dir

    return user_data_dir() / "errors"


def _temporary_folder() -> Path:
    import tempfile

    return Path(tempfile.gettempdir())


def _write(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    older = sorted(folder.glob(f"{_OWN}*.txt"))
    for file in older[: max(0, len(older) - FILES_KEPT + 1)]:
        with contextlib.suppress(OSError):
            file.unlink()
    path = folder / f"{_OWN}{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}.txt"
    # For its user alone, and never through a link that somebody left in a folder for temporary files.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    return path


def watch_threads(say: Callable[[str], None]) -> None:
    """What ends a thread, or is raised where nobody can catch it (a destructor, the end of the process), is said in a
    line as well.
    """

    def of_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
            say(account(found.exc_value)[0])

    def unraisable(found: Any) -> None:
        if isinstance(found.exc_value, Exception) and not isinstance(found.exc_value, (BrokenPipeError, ImportError)):
            say(account(found.exc_value)[0])

    threading.excepthook = of_thread
    sys.unraisablehook = unraisable
