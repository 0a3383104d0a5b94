"""Events on the real stdout, and everything else kept away from it.

`EventStream` takes file descriptor 1 for itself and points the process's stdout at stderr, so that a library's print,
even from C, can't end up among the JSON lines.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

from planner.contract.events import Event, Told, WarningEvent, line_of
from planner.contract.files import append_to, open_plain
from planner.contract.run_folder import EVENTS
from planner.contract.words import LAYOUT, json_text, shown, without_secrets


class EventStream:
    """Writes `Event` records as JSON lines to the former stdout and, once a run folder is known, to `events.jsonl`.

    A reader that went away (closed pipe) or a full disk under `events.jsonl` doesn't stop the training.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        self._early: list[str] | None = []
        """Lines from before the run folder was known."""
        if stream is not None:
            self._stream: TextIO | None = stream
        else:
            sys.stdout.flush()
            handle = os.dup(1)
            os.dup2(2, 1)
            self._stream = os.fdopen(handle, "w", encoding="utf-8", buffering=1)
            steady_streams()
            sys.stdout = sys.stderr

    def attach(self, run_dir: Path) -> None:
        """From now on events are kept in the run folder too, with those that there were before."""
        path = run_dir / EVENTS
        with contextlib.suppress(OSError):
            self._file = append_to(path)
            # A killed run's last line may be half a line: what follows starts on its own.
            with os.fdopen(open_plain(path), "rb") as written:
                size = written.seek(0, os.SEEK_END)
                written.seek(max(0, size - 1))
                torn = written.read() not in (b"", b"\n")
            with self._lock:
                early, self._early = self._early or [], None
                self._file = _written(self._file, "\n" * torn + "".join(early))

    def emit(self, told: Told) -> Event:
        """Tells it now; returns the event as it was written."""
        event = line_of(told, time.time())
        line = without_secrets(json_text(event.model_dump(mode="json", by_alias=True))) + "\n"
        with self._lock:
            # Whoever listened may be gone: the run goes on and its events stay in the run folder.
            self._stream = _written(self._stream, line)
            self._file = _written(self._file, line)
            if self._early is not None:
                self._early.append(line)
        return event

    def relay(self, line: str) -> None:
        """Passes on a line that another process of the run wrote, and has already written into the run folder."""
        with self._lock:
            self._stream = _written(self._stream, line)

    def warn(self, what: str, message: str, advice: str = "") -> None:
        """A `warning` event, also in the log."""
        logging.getLogger("trainer").warning("%s: %s", what, message)
        self.emit(WarningEvent(what=what, message=message, advice=advice))

    def close(self) -> None:
        """Closes the run folder's file; the stream stays for a last `failed`."""
        with self._lock:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None


class Muted(EventStream):
    """Events of a process that isn't the one to tell them: its warnings still reach the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = self._stream = self._early = None

    def attach(self, run_dir: Path) -> None:
        """Writes nothing there."""


def steady_streams() -> None:
    """From now on stderr outlives its reader and can't steer a terminal, whoever writes to it."""
    if not isinstance(sys.stderr, _Tolerant):
        sys.stderr = _Tolerant(sys.stderr)


class _Tolerant:
    """stderr for a process whose parent may leave: what can't be written is dropped, and the training goes on.

    Libraries print file names, columns and templates of others there, and addresses with passwords in them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._wrapped = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: it was closed from the start
            self._wrapped.write(shown(text, keep=f"{LAYOUT}\r"))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._wrapped.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._wrapped, name)


class _LogFile(logging.FileHandler):
    """Appends to a plain file; a link of that name is not followed."""

    def _open(self) -> Any:
        return append_to(Path(self.baseFilename))


def _written(stream: TextIO | None, line: str) -> TextIO | None:
    """The stream after a line was written to it, or None where nothing can be written any more."""
    if stream is None:
        return None
    try:
        stream.write(line)
        stream.flush()
    except (OSError, ValueError):
        return None
    return stream


class _Shown(logging.Formatter):
    """Records as lines that a pager may show: `cat log.txt` must not steer a terminal, nor tell passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record), keep=LAYOUT)


def quiet() -> None:
    """Keeps libraries from warning about things that a user of this program neither chose nor can change."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|accelerate")


def quiet_transformers(level: int = logging.ERROR) -> None:
    """Its messages from this level on only, and no progress bars."""
    from transformers.utils import logging as talk

    talk.set_verbosity(level)
    talk.disable_progress_bar()


def log_to(run_dir: Path, name: str = "log.txt") -> None:
    """Sends Python logging and warnings to `log.txt` in the run folder (stderr keeps warnings and worse)."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        if getattr(handler, "of_a_run", False):
            root.removeHandler(handler)
            handler.close()
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    console.setFormatter(_Shown("%(levelname)s %(name)s: %(message)s"))
    console.of_a_run = True  # type: ignore[attr-defined]
    root.addHandler(console)
    with contextlib.suppress(OSError):
        file = _LogFile(run_dir / name)
        file.setFormatter(_Shown("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        file.of_a_run = True  # type: ignore[attr-defined]
        root.addHandler(file)
    logging.captureWarnings(True)
    quiet()
    logging.raiseExceptions = False  # a full disk under log.txt must not print tracebacks
