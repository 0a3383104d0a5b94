"""What a run is told from outside: signals, JSON lines on stdin where `--control stdin` is given, and in its folder."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from planner.contract.control import LONGEST, Command, read
from planner.contract.files import open_plain
from planner.contract.run_folder import COMMANDS
from trainer.distributed import environment
from trainer.wire.events import EventStream
from trainer.wire.interrupts import let_in

LOOK_SECONDS = 0.2
"""Between two looks at the folder's commands."""
MOST_BYTES = 64 * LONGEST
"""Of commands that came since the last look, the last so many are read."""


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
        self.wishes: deque[Command] = deque(maxlen=100)
        """What is to be done once, or changed, after the step: evaluate, checkpoint, learning_rate, logging_steps."""
        self.stepping = False
        """True from the first step on: a stop then waits for the end of the step; before, it is raised at once."""
        self.with_parent = False
        """Whether the end of stdin stops the run."""
        self._closed = threading.Event()
        """Set once nobody obeys any more."""
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

    def listen(self, stream: TextIO | None = None, *, with_parent: bool = False) -> None:
        """Starts a daemon thread that obeys command lines from stdin. Its end of file changes nothing, or stops the run
        `with_parent`: whoever held the other end was killed, without the word `alone` that lets the run go on.

        It reads without Python's buffer: a thread that waits in `sys.stdin` holds its lock, and a forked data-loader
        worker, which closes `sys.stdin` first of all, would wait for that lock for ever.
        """
        source: Iterable[str | bytes] = stream or open(os.dup(0), "rb", buffering=0)  # noqa: SIM115
        self.with_parent = with_parent
        thread = threading.Thread(target=self._read, args=(source,), name="control", daemon=True)
        thread.start()

    def _read(self, stream: Iterable[str | bytes]) -> None:
        for line in stream:
            self._obey(line)
        if self.with_parent:
            self._orphaned()

    def _orphaned(self) -> None:
        """Ends as a stop does: the signal reaches a run that is still loading too, and every process of several."""
        self.events.warn("orphaned", "the process that followed this run is gone", "the run ends with a checkpoint")
        self.pause.clear()
        os.kill(environment.launcher() or os.getpid(), signal.SIGTERM)

    def _obey(self, line: str | bytes) -> None:
        if not line.strip():
            return
        command = read(line)
        if command is None:
            self.events.warn(
                "control",
                f"unknown command line {_text(line)[:80]!r}",
                "send pause, resume, stop, evaluate or checkpoint, or learning_rate or logging_steps with a value",
            )
        elif command.command == "pause":
            self.pause.set()
        elif command.command == "resume":
            self.pause.clear()
        elif command.command == "stop":
            self.stop.set()
            self.pause.clear()
        elif command.command == "alone":
            self.with_parent = False
        else:
            self.wishes.append(command)

    def follow(self, run_dir: Path) -> None:
        """Starts a daemon thread that obeys what is appended to the folder's commands from now on."""
        path = run_dir / COMMANDS
        thread = threading.Thread(target=self._look, args=(path, _size(path)), name="commands", daemon=True)
        thread.start()

    def _look(self, path: Path, offset: int) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            size = _size(path)
            if size == offset:
                continue
            offset = max(min(offset, size), size - MOST_BYTES)
            with contextlib.suppress(OSError), os.fdopen(open_plain(path), "rb") as stream:
                stream.seek(offset)
                text = stream.read(MOST_BYTES)
                whole = text[: text.rfind(b"\n") + 1]  # half a line is still being written
                offset += len(whole)
                for line in whole.split(b"\n"):
                    self._obey(line)

    def wanted(self) -> list[Command]:
        """The wishes that have come, which are then whoever asks to fulfil."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self.wishes.popleft())
        return found

    def close(self) -> None:
        """The folder is no longer looked at."""
        self._closed.set()

    def check(self) -> None:
        """Raises `StopRequested` if a stop arrived; called between the stages before the first step."""
        if self.stop.is_set():
            raise StopRequested("stop")


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0


def _text(line: str | bytes) -> str:
    return (line.decode(errors="replace") if isinstance(line, bytes) else line).strip()
