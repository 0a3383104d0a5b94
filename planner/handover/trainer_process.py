"""Starts the trainer as a process of its own and reads its events; a training that dies can't take anyone with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from planner.contract import control, process
from planner.contract.control import Command
from planner.contract.errors import RunFailed
from planner.contract.events import Event, FailedEvent, StartedEvent, line_of
from planner.contract.shown import clause

STDERR_LINES = 200
"""Lines of the child's stderr that are kept for a message about its death."""
EVENTS_KEPT = 1000
"""Of the newest events so many are kept, and as many wait for whoever reads them."""
KEPT_KINDS = ("started", "data", "checkpoint", "finished", "failed")
"""The last event of each of these kinds is kept however long the run is."""
PASSING_KINDS = ("step", "phase", "eval", "paused", "resumed")
"""Kinds whose older events say nothing once newer ones are there."""


class Backlog:
    """Events on their way from the reading thread to whoever iterates. Steps and stages that nobody takes are dropped,
    the oldest first; every other event waits.
    """

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Hands over an event."""
        with self._changed:
            self._waiting.append(event)
            if len(self._waiting) > 2 * EVENTS_KEPT:
                places = [place for place, waiting in enumerate(self._waiting) if waiting.kind in PASSING_KINDS]
                old = set(places[: len(places) - EVENTS_KEPT // 2])
                self._waiting = deque(waiting for place, waiting in enumerate(self._waiting) if place not in old)
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing comes any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> Event | None:
        """The next event; None when all are taken and none will come, or none came within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            return self._waiting.popleft() if self._waiting else None


class Run:
    """A training process. Iterating yields its `Event`s as they come and ends when it has exited.

    One thread may iterate while others call `pause`, `resume`, `stop` and `kill`. The child leads its own session, so
    a Ctrl-C in the terminal reaches it only when the caller passes it on.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._recent: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._last: dict[str, Event] = {}
        self.log: deque[str] = deque(maxlen=1000)
        """Lines of stdout that were no event, and of stderr."""
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._backlog = Backlog()
        self._writing = threading.Lock()
        self.resumes = False
        """Whether it was started to go on from a checkpoint."""
        self._killed = False
        """Whether it was this process that ended it at once."""
        assert process.stdout is not None
        assert process.stderr is not None
        self._stderr_reader = threading.Thread(target=self._read_stderr, args=(process.stderr,), daemon=True)
        self._stderr_reader.start()
        self._reader = threading.Thread(target=self._read_stdout, args=(process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the trainer."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self.process.poll()

    @property
    def events(self) -> list[Event]:
        """The newest events, after the last `started`, `checkpoint` … where those are older."""
        recent = list(self._recent)
        last = sorted(self._last.values(), key=lambda event: event.time)
        return [*(event for event in last if not any(event is other for other in recent)), *recent]

    @property
    def stderr_tail(self) -> str:
        """The last lines that the trainer wrote to stderr."""
        return "\n".join(self._stderr)

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._backlog.take()
            if event is None:
                return
            yield event

    def poll(self, timeout: float = 0.0) -> Event | None:
        """The next event, or None when none came within `timeout` seconds or the run is over (`exit_code` tells)."""
        return self._backlog.take(max(0.0, timeout))

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit code; `subprocess.TimeoutExpired` when it takes longer."""
        code = self.process.wait(timeout)
        self._reader.join(timeout=5)
        return code

    def tell(self, command: Command) -> None:
        """Something to do after the running step: an evaluation, a checkpoint, another learning rate …"""
        with self._writing, contextlib.suppress(OSError, ValueError):
            if self.process.stdin is not None:
                self.process.stdin.write(control.line_of(command))
                self.process.stdin.flush()

    def pause(self) -> None:
        """Stops after the running step until `resume`; everything stays in memory."""
        self.tell(Command(command="pause"))

    def resume(self) -> None:
        """Goes on after a pause."""
        self.tell(Command(command="resume"))

    def leave(self) -> None:
        """Nobody watches from here any more: a paused one goes on, since nobody is left who could tell it to."""
        self.resume()

    def stop(self) -> None:
        """Ends after the running step with a checkpoint and the adapter; before the first step, at once."""
        self.tell(Command(command="stop"))
        # A trainer that is still loading doesn't look at its commands; the signal reaches it there too.
        with contextlib.suppress(ProcessLookupError, OSError):
            if self.exit_code is None:
                self.process.send_signal(signal.SIGTERM)

    def let_go(self) -> None:
        """The run goes on without this process, also one started `with_parent`. Takes no lock: a signal may call it."""
        with contextlib.suppress(OSError, ValueError):
            if self.process.stdin is not None:
                os.write(self.process.stdin.fileno(), b'{"command": "alone"}\n')

    def kill(self, grace_seconds: float = 0.0) -> None:
        """Ends the trainer and its own children at once, or after `grace_seconds` for a stop."""
        if grace_seconds > 0:
            self.stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_seconds)
        if self.exit_code is not None:
            return
        self._killed = True
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()

    def _read_stderr(self, stream: IO[str]) -> None:
        for line in stream:
            self._stderr.append(line.rstrip("\n"))
            self.log.append(line.rstrip("\n"))

    def _read_stdout(self, stream: IO[str]) -> None:
        for line in stream:
            line = line.rstrip("\n")
            try:
                event = Event.model_validate_json(line)
            except ValueError:
                if line.strip():
                    self.log.append(line)
                continue
            self._put(event)
        code = self.process.wait()
        self._stderr_reader.join(timeout=5)
        if "failed" not in self._last and (code != 0 or "finished" not in self._last):
            told = FailedEvent(message=self._obituary(code), exit_code=code or RunFailed.exit_code)
            self._put(line_of(told, time.time()))
        self._backlog.close()

    def _put(self, event: Event) -> None:
        if event.kind in KEPT_KINDS:
            self._last[event.kind] = event
        self._recent.append(event)
        self._backlog.put(event)

    def _way_on(self) -> str:
        """What `--resume` finds, as far as the events tell."""
        started = self._last.get("started")
        resumed = started is not None and isinstance(started.told, StartedEvent) and started.told.resumed_from
        if started is None and self.resumes:
            return "--resume goes on from the checkpoint that it was to go on from"
        if "checkpoint" in self._last or resumed:
            return "--resume goes on from its last checkpoint"
        return "it had written no checkpoint yet"

    def _obituary(self, code: int) -> str:
        """One line about a trainer that ended without saying why."""
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            short = name in ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS") and not self._killed
            why = "; memory may have run out, and the next start then takes half the micro-batch" if short else ""
            return f"the trainer was ended by {name}{why}; {self._way_on()}"
        if code == 0:
            return "the trainer ended without a word that it had finished (exit code 0): nothing says that it trained"
        last = next((line for line in reversed(self._stderr) if line.strip()), "it wrote nothing to stderr")
        return f"the trainer ended with exit code {code}: {clause(last, 400)}"


def start(
    plan_path: str | Path,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    device: str | None = None,
    adapter: str | Path | None = None,
    with_parent: bool = False,
    extra: Sequence[str] = (),
) -> Run:
    """Starts `python -m trainer run` on a plan file. `resume` is `auto` or a checkpoint or run folder; `with_parent`
    the run stops with a checkpoint when this process is killed.
    """
    command = process.command("trainer", "run", str(plan_path), "--control", "stdin")
    given = {"--data": data, "--output": output, "--resume": resume, "--device": device, "--adapter": adapter}
    for option, value in given.items():
        if value is not None:
            command += [option, str(value)]
    command += ["--with-parent"] if with_parent else []
    command += extra
    with process.held():
        child = process.talking(command, "trainer", stderr=subprocess.PIPE)
    run = Run(child)
    run.resumes = resume is not None
    return run
