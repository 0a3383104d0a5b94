"""Starts the processes of a run on several devices, passes their events on, and ends them together.

One launcher per machine, without torch. Rank 0's events are passed on as they come; whichever process fails first is
named in one line, the others are ended, and nothing hangs on a process that is gone. A run that is started by torchrun
or `accelerate launch` goes without this and trains the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from planner.contract import process
from planner.contract.errors import RunFailed
from planner.contract.events import OomEvent, stopped_at_once
from planner.contract.run_folder import checkpoints
from trainer.distributed.environment import FAILURES, LAUNCHER, ROWS
from trainer.wire.events import EventStream

GRACE_SECONDS = 10.0
"""How long the others may take to end by themselves after the first failure."""
POLL_SECONDS = 0.1


class ProcessGroup:
    """The processes of one start."""

    def __init__(self, arguments: Sequence[str], count: int, relay: Callable[[str], None], rows: str | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tuneplan-"))
        self.first: int | None = None
        """The rank that ended first with a failure."""
        self._relay = relay
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        threads = max(1, (os.cpu_count() or 1) // count)
        self.processes: list[subprocess.Popen[str]] = []
        for rank in range(count):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            environment = process.environment(**address, **{name: str(value) for name, value in own.items()})
            environment.setdefault("OMP_NUM_THREADS", str(threads))
            environment |= {LAUNCHER: str(os.getpid()), FAILURES: str(self.folder)}
            if rows is not None:
                environment[ROWS] = rows
            self.processes.append(
                subprocess.Popen(
                    process.command("trainer", *arguments),
                    env=environment,
                    stdin=None if rank == 0 else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    text=True,
                    encoding="utf-8",
                    # A Ctrl-C in the terminal reaches the launcher alone, which passes it on once.
                    start_new_session=True,
                )
            )
        assert self.processes[0].stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.processes[0].stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._relay(line)

    def send(self, number: int) -> None:
        """Sends a signal to every process that still runs."""
        for child in self.processes:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(number)

    def wait(self) -> None:
        """Until all have ended; once one has failed, the others have `GRACE_SECONDS`."""
        failed_at: float | None = None
        while True:
            codes = [child.poll() for child in self.processes]
            if failed_at is None:
                for rank, code in enumerate(codes):
                    if code not in (None, 0):
                        self.first, failed_at = rank, time.monotonic()
                        break
            if None not in codes:
                break
            if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
                self.send(signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        self._reader.join(timeout=GRACE_SECONDS)

    def reports(self) -> dict[int, dict[str, Any]]:
        """What the processes that failed left behind, by rank."""
        found = {}
        for file in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                found[int(file.stem)] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def close(self) -> None:
        """Ends what still runs and removes the folder."""
        self.send(signal.SIGKILL)
        for child in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_SECONDS)
        import shutil

        shutil.rmtree(self.folder, ignore_errors=True)


class Launch:
    """A run on `count` devices of this machine, started again with fewer rows where its processes ask for it."""

    def __init__(self, arguments: Sequence[str], count: int, run_dir: Path, events: EventStream) -> None:
        self.arguments = list(arguments)
        self.count = count
        self.run_dir = run_dir
        self.events = events
        self.group: ProcessGroup | None = None
        self.stops = 0
        self.finished = False

    def run(self) -> int:
        """Exit code 0. Raises RunFailed (or what a process was refused with) in one line."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            rows: str | None = None
            while True:
                self.group = ProcessGroup(self._resuming(rows is not None), self.count, self._relay, rows)
                try:
                    self.group.wait()
                    rows = self._outcome(self.group)
                finally:
                    self.group.close()
                if rows is None:
                    return 0
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _resuming(self, again: bool) -> list[str]:
        """The arguments; a second start goes on from the first one's last checkpoint, if it wrote one."""
        if not again or not checkpoints(self.run_dir):
            return self.arguments
        kept = list(self.arguments)
        if "--resume" in kept:
            place = kept.index("--resume")
            named = place + 1 < len(kept) and not kept[place + 1].startswith("--")
            del kept[place : place + 2 if named else place + 1]
        return [*kept, "--resume", "auto"]

    def _relay(self, line: str) -> None:
        self.finished = self.finished or '"finished"' in line[:200]
        self.events.relay(line)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stops += 1
        if self.group is not None:
            # The first asks for a stop after the step; a second Ctrl-C interrupts.
            self.group.send(signal.SIGTERM if self.stops == 1 or number == signal.SIGTERM else signal.SIGINT)

    def _outcome(self, group: ProcessGroup) -> str | None:
        """None when the run is over, or the rows to start again with. Raises what ended it."""
        codes = [child.returncode for child in group.processes]
        if not any(codes):
            return None
        reports = group.reports()
        again = {rank: report for rank, report in reports.items() if report.get("rows")}
        if again and not self.stops:
            for rank in again.keys() - {0}:  # rank 0 has told its own
                self.events.attach(self.run_dir)
                self.events.emit(OomEvent.model_validate({**again[rank]["oom"], "rank": rank}))
                self.events.close()
            return min((str(report["rows"]) for report in again.values()), key=_numbers)
        primary = {rank: report for rank, report in reports.items() if not report.get("secondary")}
        if primary:
            rank = group.first if group.first in primary else min(primary)
            report = primary[rank]
            error = RunFailed(report["message"] if rank == 0 else f"rank {rank} of {self.count}: {report['message']}")
            error.exit_code = int(report["exit_code"])
            raise error
        if self.stops:
            self._stopped()
            return None
        rank = next((n for n, code in enumerate(codes) if code < 0 and n not in reports), group.first or 0)
        kept = bool(checkpoints(self.run_dir))
        way_on = "--resume goes on from the last checkpoint" if kept else "no checkpoint had been written yet"
        raise process.failure(codes[rank], f"{_obituary(rank, codes[rank], self.count)}; {way_on}")

    def _stopped(self) -> None:
        """A stop that reached the processes while they were starting: there is nothing to save."""
        if not self.finished:
            self.events.emit(stopped_at_once())


def _numbers(rows: str) -> list[int]:
    return [int(part) for part in rows.split(",")]


def _obituary(rank: int, code: int, count: int) -> str:
    if code >= 0:
        return f"rank {rank} of {count} ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = " (the system may have run out of memory)" if name == "SIGKILL" else ""
    return f"rank {rank} of {count} was ended by {name}{why} and the others were stopped"


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def report_failure(message: str, exit_code: int, *, secondary: bool, again: Any = None) -> None:
    """Called by a process that fails: leaves why, for the launcher to tell. `again` (a `StartAgain`): the run goes on
    from its last checkpoint with fewer rows.
    """
    folder = os.environ.get(FAILURES)
    if folder:
        content: dict[str, object] = {"message": message, "exit_code": exit_code, "secondary": secondary}
        if again is not None:
            content |= {"rows": again.rows, "oom": again.oom.model_dump(exclude_unset=True)}
        with contextlib.suppress(OSError):
            Path(folder, f"{os.environ['RANK']}.json").write_text(json.dumps(content), encoding="utf-8")
