"""Runs that an earlier wizard, or the command line, left in the output folder: found, read again, followed. UI-free."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from planner.contract import control, json_text
from planner.contract.control import Command
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.events import EvalEvent, Event, FailedEvent, FinishedEvent, StartedEvent, StepEvent
from planner.contract.files import open_plain, read_plain
from planner.contract.records import parse_record
from planner.contract.run_folder import EVENTS, PLAN, checkpoints, holder
from planner.contract.units import format_duration
from planner.tui import live
from planner.tui.live import RunSnapshot

NEWEST = 20
"""Runs that are looked at, the last ones written to."""
TAIL_BYTES = 16 * 1024
"""A run's last events are read from the end of its file."""
STEPS_KEPT = 2000
"""Step events of a long run that are replayed; a curve shows fewer."""
POLL_SECONDS = 0.3

State = Literal["going on", "interrupted", "stopped", "failed", "completed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PastRun:
    """A run in the output folder."""

    folder: Path
    state: State
    step: int
    total_steps: int
    changed: float
    """Time of its last event's writing, seconds since the epoch."""
    loss: float | None = None
    """Lowest loss in evaluation, as far as its last events tell."""

    def cells(self, now: float) -> tuple[str, str, str]:
        """Its state with the step, its loss and its age at `now` (seconds since the epoch), beside its name."""
        steps = f", step {self.step}" + (f" of {self.total_steps}" if self.total_steps else "")
        loss = "–" if self.loss is None else f"{self.loss:.4f}"
        return self.state + (steps if self.step else ""), loss, format_duration(max(0.0, now - self.changed))


def unfinished(output: Path) -> tuple[PastRun, ...]:
    """Runs that go on without a wizard, or ended early and left a checkpoint; the last written to first."""
    return tuple(run for run in every(output) if run.state != "completed")


def every(output: Path) -> tuple[PastRun, ...]:
    """The newest runs: those that came to their end, go on, or ended early and left a checkpoint."""
    found = []
    for path in output.glob(f"*/{EVENTS}"):
        try:
            found.append((path.lstat().st_mtime, path.parent))
        except OSError:
            continue
    found.sort(reverse=True)
    runs = (_look(folder, changed) for changed, folder in found[:NEWEST])
    return tuple(run for run in runs if run is not None)


def at(folder: Path) -> PastRun:
    """The run in a folder, whatever came of it. Raises `InvalidInput` where there is none."""
    try:
        changed = (folder / EVENTS).lstat().st_mtime
    except OSError:
        changed = None
    found = None if changed is None else _look(folder, changed, bare=True)
    if found is None:
        raise InvalidInput(f"{folder}: not the folder of a run: it holds no {PLAN} with {EVENTS} beside it")
    return found


def _look(folder: Path, changed: float, *, bare: bool = False) -> PastRun | None:
    """One folder; None where it is none of a run or, unless `bare`, where nothing came of it."""
    if not _is_plain(folder / PLAN):
        return None
    try:
        events = _tail(folder / EVENTS)
    except OSError:
        return None
    last = events[-1].told if events else None
    stories = [event.told for event in events]
    steps = [step for step in stories if isinstance(step, StepEvent) and step.step is not None]
    state: State
    if holder(folder) is not None:
        state = "going on"
    elif isinstance(last, FinishedEvent) and last.reason != "stopped":
        state = "completed"
    elif not bare and not checkpoints(folder):
        return None
    elif isinstance(last, FinishedEvent):
        state = "stopped"
    else:
        state = "failed" if isinstance(last, FailedEvent) else "interrupted"
    now = steps[-1] if steps else StepEvent()
    found = [each.loss for each in stories if isinstance(each, EvalEvent) and each.loss is not None]
    if isinstance(last, FinishedEvent) and last.eval_loss is not None:
        found = [last.eval_loss]
    return PastRun(
        folder=folder,
        state=state,
        step=now.step or 0,
        total_steps=now.total_steps or 0,
        changed=changed,
        loss=min(found, default=None),
    )


def _is_plain(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _tail(path: Path) -> list[Event]:
    with os.fdopen(open_plain(path), "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        lines = stream.read().split(b"\n")
    return [event for event in map(_event, lines[1:] if size > TAIL_BYTES else lines) if event is not None]


def _event(line: bytes) -> Event | None:
    """One line of events.jsonl; None for what is none (a power cut may leave half a line)."""
    try:
        return parse_record(Event, json_text.parse(line, EVENTS), EVENTS)
    except InvalidInput:
        return None


def replay(folder: Path) -> tuple[RunSnapshot, int]:
    """The snapshot after everything that a run has written so far, and how many bytes of its events that was.

    Raises `TuneplanError` where the plan or the events can't be read.
    """
    from planner.handover import plans

    run = live.begin(plans.load(folder / PLAN, links=False))
    try:
        text = read_plain(folder / EVENTS)
    except OSError as error:
        raise InvalidInput(f"{folder / EVENTS}: {error.strerror or error}") from None
    whole = text[: text.rfind(b"\n") + 1]
    events = [event for event in map(_event, whole.split(b"\n")) if event is not None]
    steps = [place for place, event in enumerate(events) if isinstance(event.told, StepEvent)]
    every = len(steps) // STEPS_KEPT + 1
    passed_over = set(steps) - set(steps[::every]) - set(steps[-1:])
    for place, event in enumerate(events):
        if place in passed_over:
            continue
        if isinstance(event.told, StartedEvent) and run.over:
            # The run was resumed after this end: only what came of that counts.
            run = replace(run, failure=None, result=None)
        run = live.reduce(run, event)
    return run, len(whole)


class FollowedRun:
    """A trainer that someone else started, followed by the events it writes; the same calls as `trainer_process.Run`.

    It is told by what is written into its folder, and stopped by a signal.
    """

    def __init__(self, folder: Path, pid: int, offset: int) -> None:
        self.folder = folder
        self.pid = pid
        self._offset = offset
        self.stderr_tail = ""
        self._paused_here = False

    def __iter__(self) -> Iterator[Event]:
        rest = b""
        with os.fdopen(open_plain(self.folder / EVENTS), "rb") as stream:
            stream.seek(self._offset)
            while True:
                gone = holder(self.folder) is None
                *lines, rest = (rest + stream.read()).split(b"\n")
                yield from (event for event in map(_event, lines) if event is not None)
                if gone:
                    return
                time.sleep(POLL_SECONDS)

    def wait(self) -> int | None:
        """None: the exit code of a process that is not ours is not known."""
        return None

    def tell(self, command: Command) -> None:
        """Something to do after the running step. Raises `InvalidInput` where its folder can't be written."""
        control.tell(self.folder, command)

    def pause(self) -> None:
        """Stops after the running step until `resume`."""
        self.tell(Command(command="pause"))
        self._paused_here = True

    def resume(self) -> None:
        """Goes on after a pause."""
        self.tell(Command(command="resume"))
        self._paused_here = False

    def leave(self) -> None:
        """Nobody watches from here any more: what was paused from here goes on."""
        if self._paused_here:
            self.resume()

    def stop(self) -> None:
        """Ends the trainer after its step, with a checkpoint."""
        if holder(self.folder) == self.pid:
            os.kill(self.pid, signal.SIGTERM)


def reopen(run: PastRun) -> tuple[RunSnapshot, FollowedRun | None]:
    """A run as far as it has come, and the trainer to follow where it still goes on.

    Raises `TuneplanError` where the folder can't be read.
    """
    try:
        snapshot, offset = replay(run.folder)
    except TuneplanError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"{run.folder}: not a run that can be read: {error}") from None
    snapshot = replace(snapshot, run_dir=str(run.folder))
    pid = holder(run.folder)
    if pid is None:
        return live.ended(snapshot, None), None
    return snapshot, FollowedRun(run.folder, pid, offset)
