"""What stops, pauses and resumes a run: signals, and JSON lines on stdin when `--control stdin` is given."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any, TextIO

from trainer.wire.events import EventStream
from trainer.wire.interrupts import let_in


class StopRequested(BaseException):
    """A stop arrived before the first step, when there is no step to finish and nothing to save.

    Not an `Exception`: raised by a signal inside a library's import, it must not be taken for that library's trouble.
    """


class Control:
    """Flags that the training loop reads between steps. Thread- and signal-safe: nothing here takes a lock."""

    def __init__(self, events: EventStream) -> None:
        self.events = events
        self.stop = threading.Event()
        self.pause = threading.Event()
        self.stepping = False
        """True from the first step on: a stop then waits for the end of the step; before, it is raised at once."""
        self._ending = False
        """Whether a signal has raised already."""
        self._previous: dict[int, Any] = {}

    def install_signals(self) -> None:
        """SIGINT and SIGTERM ask for a stop after the step; a second SIGINT interrupts at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        let_in()

    def restore_signals(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._ending:  # on its way out: what is raised now would cut off its last words
            return
        if self.stop.is_set() and self.stepping:
            if number == signal.SIGINT:
                self._ending = True
                raise KeyboardInterrupt
            return
        self.stop.set()
        if not self.stepping:
            self._ending = True
            raise StopRequested(signal.Signals(number).name)

    def listen(self, stream: TextIO | None = None) -> None:
        """Starts a daemon thread that obeys command lines from stdin; its end of file changes nothing.

        It reads without Python's buffer: a thread that waits in `sys.stdin` holds its lock, and a forked data-loader
        worker, which closes `sys.stdin` first of all, would wait for that lock for ever.
        """
        source: Iterable[str | bytes] = stream or open(os.dup(0), "rb", buffering=0)  # noqa: SIM115
        thread = threading.Thread(target=self._read, args=(source,), name="control", daemon=True)
        thread.start()

    def _read(self, stream: Iterable[str | bytes]) -> None:
        for line in stream:
            if not line.strip():
                continue
            try:
                command = json.loads(line)["command"]
            except (ValueError, KeyError, TypeError, RecursionError):
                command = None
            if command == "pause":
                self.pause.set()
            elif command == "resume":
                self.pause.clear()
            elif command == "stop":
                self.stop.set()
                self.pause.clear()
            else:
                self.events.warn(
                    "control", f"unknown command line {_text(line)[:80]!r}", "send pause, resume or stop as JSON"
                )

    def check(self) -> None:
        """Raises `StopRequested` if a stop arrived; called between the stages before the first step."""
        if self.stop.is_set():
            raise StopRequested("stop")


def _text(line: str | bytes) -> str:
    return (line.decode(errors="replace") if isinstance(line, bytes) else line).strip()
