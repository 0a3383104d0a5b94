"""Starts the trainer as a process of its own and reads its events; a training that dies can't take anyone with it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from planner.contract.errors import RunFailed
from planner.contract.records import Event

STDERR_LINES = 200
"""Lines of the child's stderr that are kept for a message about its death."""


class Run:
    """A training process. Iterating yields its `Event`s as they come and ends when it has exited.

    One thread may iterate while others call `pause`, `resume`, `stop` and `kill`. The child leads its own session, so
    a Ctrl-C in the terminal reaches it only when the caller passes it on.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[Event] = []
        """Every event so far."""
        self.log: deque[str] = deque(maxlen=1000)
        """Lines of stdout that were no event, and of stderr."""
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._writing = threading.Lock()
        self._failed = False
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
    def stderr_tail(self) -> str:
        """The last lines that the trainer wrote to stderr."""
        return "\n".join(self._stderr)

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._queue.get()
            if event is None:
                self._queue.put(None)  # another iteration over a finished run ends too
                return
            yield event

    def poll(self, timeout: float = 0.0) -> Event | None:
        """The next event, or None when none came within `timeout` seconds or the run is over (`exit_code` tells)."""
        try:
            event = self._queue.get(timeout=timeout) if timeout > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        if event is None:
            self._queue.put(None)
        return event

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit code; `subprocess.TimeoutExpired` when it takes longer."""
        code = self.process.wait(timeout)
        self._reader.join(timeout=5)
        return code

    def pause(self) -> None:
        """Stops after the running step until `resume`; everything stays in memory."""
        self._command("pause")

    def resume(self) -> None:
        """Goes on after a pause."""
        self._command("resume")

    def stop(self) -> None:
        """Ends after the running step with a checkpoint and the adapter; before the first step, at once."""
        self._command("stop")
        # A trainer that is still loading doesn't look at its commands; the signal reaches it there too.
        with contextlib.suppress(ProcessLookupError, OSError):
            if self.exit_code is None:
                self.process.send_signal(signal.SIGTERM)

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

    def _command(self, name: str) -> None:
        with self._writing, contextlib.suppress(OSError, ValueError):
            if self.process.stdin is not None:
                self.process.stdin.write(json.dumps({"command": name}) + "\n")
                self.process.stdin.flush()

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
        if code != 0 and not self._failed:
            self._put(Event(kind="failed", time=time.time(), data={"message": self._obituary(code), "exit_code": code}))
        self._queue.put(None)

    def _put(self, event: Event) -> None:
        self._failed = self._failed or event.kind == "failed"
        self.events.append(event)
        self._queue.put(event)

    def _way_on(self) -> str:
        """What `--resume` finds, as far as the events tell."""
        resumed = any(event.kind == "started" and event.data.get("resumed_from") for event in self.events)
        if resumed or any(event.kind == "checkpoint" for event in self.events):
            return "--resume goes on from its last checkpoint"
        return "it had written no checkpoint yet"

    def _obituary(self, code: int) -> str:
        """One line about a trainer that ended without saying why."""
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            why = "; the system may have run out of memory" if name == "SIGKILL" and not self._killed else ""
            return f"the trainer was ended by {name}{why}; {self._way_on()}"
        last = next((line for line in reversed(self._stderr) if line.strip()), "it wrote nothing to stderr")
        return f"the trainer ended with exit code {code}: {last.strip()[:300]}"


def start(
    plan_path: str | Path,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    device: str | None = None,
    adapter: str | Path | None = None,
    extra: Sequence[str] = (),
) -> Run:
    """Starts `python -m trainer run` on a plan file. `resume` is `auto` or a checkpoint or run folder."""
    command = [sys.executable, "-m", "trainer", "run", str(plan_path), "--control", "stdin"]
    given = {"--data": data, "--output": output, "--resume": resume, "--device": device, "--adapter": adapter}
    for option, value in given.items():
        if value is not None:
            command += [option, str(value)]
    command += extra
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
    except OSError as error:
        raise RunFailed(f"the trainer could not be started: {error.strerror or error}") from None
    return Run(process)
