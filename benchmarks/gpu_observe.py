"""Real training steps on this machine's GPU beside the prediction, in one call of at most nine minutes.

    python benchmarks/gpu_observe.py --out DIR [--minutes 8.5] [--device cuda|mps|cpu] [--workers 1]

Runs from a checkout, needs torch, transformers, peft, numpy and pydantic, no network. True-size models of the catalogue
with random weights; a probe process (`python -m trainer probe`) measures one point after another and is replaced when
it dies, hangs or leaks. Smaller cards are emulated by the allocator's memory fraction: a predicted fit has to run, the
smallest batch called infeasible has to overflow.

DIR gets observations.jsonl (a line as soon as a point is measured), failures.txt and summary.md. Exit code 1 when
nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gpu_grid
import gpu_summary
import observe_common as common
from observe_common import Observation, Point, ProbeRequest

from planner.calibration.worker import Worker
from planner.contract import process
from planner.contract.errors import RunFailed, TuneplanError
from planner.contract.spec import HardwareProfile

MINUTES = 8.5
WRITE_SECONDS = 8.0
"""Kept for the summary."""
POINT_SECONDS = 60.0
"""No point may take longer; the largest take some ten seconds."""
FIRST_SECONDS = 180.0
"""A worker's first point, which waits until torch and transformers are imported."""
BUDGET_SHARE = 0.92
"""Share of the card that an ordinary point may be predicted to take."""


@dataclass(kw_only=True)
class Session:
    """What all threads share."""

    hardware: HardwareProfile
    device: str
    deadline: float
    ready: queue.Queue[tuple[Point, ProbeRequest]] = field(default_factory=lambda: queue.Queue(maxsize=24))
    observations: list[tuple[Point, Observation]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    took: list[float] = field(default_factory=list)
    lines: TextIO | None = None
    done: bool = False
    prepared: bool = False
    """Every point has been predicted."""

    def left(self) -> float:
        """Seconds until measuring has to end."""
        return self.deadline - time.monotonic()

    def fail(self, text: str) -> None:
        """Notes a point without a measurement."""
        with self.lock:
            self.failures.append(text)
        print(f"gpu_observe: {text}", file=sys.stderr, flush=True)


def machine(device: str) -> HardwareProfile:
    """The bare profile of this machine's device, by NVML or, without it, by what torch says in a process of its own."""
    from planner.calibration.store import bare
    from planner.devices import hardware, profiles

    if device == "cpu":
        return bare(hardware.find("cpu"))
    try:
        found = hardware.detect().profile
        if found.kind != "cpu":
            return bare(found)
    except ImportError:  # neither NVML nor psutil in this process: the probe's process knows
        pass
    child = subprocess.run(
        process.command("trainer", "doctor"),
        env=process.environment(),
        capture_output=True,
        text=True,
        cwd=common.ROOT,
        check=False,
    )
    if child.returncode != 0:
        raise RunFailed(f"this machine's devices can't be asked: {child.stderr.strip().splitlines()[-1:]}")
    entries = [item for item in json.loads(child.stdout)["devices"] if item["kind"] in ("cuda", "rocm", "mps")]
    if not entries:
        raise RunFailed("torch sees no GPU here; --device cpu measures small models instead")
    entry = entries[0]
    total = int(entry.get("visible_bytes") or entry["total_bytes"])
    stem = profiles.resolve(f"{entry['title']} {round(total / 2**30)}GB") or profiles.resolve(entry["title"])
    if stem is None:
        capability = tuple(entry.get("compute_capability", (8, 0)))
        stem = "h100-80gb" if capability >= (9, 0) else "a100-80gb"
        print(f"gpu_observe: no profile for {entry['title']}; that of {stem} stands in", file=sys.stderr)
    return replace(profiles.load(stem), total_bytes=total)


def prepare(session: Session, points: Iterator[Point]) -> None:
    """Predicts point after point ahead of the measuring; what isn't modelled or too large is named and passed over."""
    for point in points:
        if session.left() <= 0 or session.done:
            break
        try:
            request = common.request_for(point, session.hardware, device=session.device, source="gpu_observe")
        except TuneplanError as error:
            session.fail(f"{point.label}: {error}")
            continue
        except Exception as error:
            session.fail(f"{point.label}: prediction raised {type(error).__name__}: {error}")
            continue
        expected = request.predicted.device_peak_bytes if request.predicted else 0
        if point.memory_limit_bytes is None and expected > BUDGET_SHARE * session.hardware.total_bytes:
            session.fail(f"{point.label}: {expected / 2**30:.1f} GiB are more than this device has")
            continue
        while not session.done:
            try:
                session.ready.put((point, request), timeout=1.0)
                break
            except queue.Full:
                continue
    session.prepared = True


def measure(session: Session) -> None:
    """One worker's life: takes points until none is left or the time is up."""
    with Worker() as worker:
        worker.start()
        longest = FIRST_SECONDS
        while session.left() > _typical(session):
            try:
                item = session.ready.get(timeout=1.0)
            except queue.Empty:
                if session.prepared:
                    return
                continue
            point, request = item
            began = time.monotonic()
            try:
                observation = worker.ask(request, timeout=max(5.0, min(longest, session.left())))
            except TuneplanError as error:
                session.fail(f"{point.label}: {error}")
                continue
            longest = POINT_SECONDS
            keep(session, point, observation, time.monotonic() - began)


def _typical(session: Session) -> float:
    """Seconds that one more point should get at least."""
    recent = sorted(session.took[-15:])
    return 1.5 * recent[len(recent) // 2] if recent else 2.0


def keep(session: Session, point: Point, observation: Observation, seconds: float) -> None:
    """Notes and writes one measured point."""
    observation = common.lean(observation)
    details = {**observation.probe, "group": point.group, "seconds": round(seconds, 2)}
    if point.expected:
        details["expected"] = point.expected
    observation = observation.model_copy(update={"probe": details})
    with session.lock:
        session.observations.append((point, observation))
        session.took.append(seconds)
        if session.lines is not None:
            session.lines.write(observation.model_dump_json(by_alias=True) + "\n")
            session.lines.flush()
        number = len(session.observations)
    error = common.allocated_error(observation)
    said = observation.outcome if point.expected or error is None else f"{error:+.3%}"
    print(
        f"[{number}] {point.label}: {said} ({seconds:.1f} s, {session.left():.0f} s left)", file=sys.stderr, flush=True
    )


def observe(
    points: Iterator[Point], hardware: HardwareProfile, *, device: str, deadline: float, out: Path, workers: int = 1
) -> Session:
    """Measures points until they run out or `deadline` (monotonic clock) is near, and writes DIR.

    An interruption keeps what is there.
    """
    out.mkdir(parents=True, exist_ok=True)
    session = Session(hardware=hardware, device=device, deadline=deadline - WRITE_SECONDS)
    with open(out / "observations.jsonl", "w", encoding="utf-8") as lines:
        session.lines = lines
        threading.Thread(target=prepare, args=(session, points), daemon=True).start()
        threads = [threading.Thread(target=measure, args=(session,), daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(timeout=1.0)
        except KeyboardInterrupt:
            print("gpu_observe: stopped; finished points are kept", file=sys.stderr)
        session.done = True
    common.write_whole(out / "failures.txt", "".join(f"{line}\n" for line in session.failures))
    common.write_whole(out / "summary.md", gpu_summary.summary([item for _, item in session.observations], hardware))
    return session


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), default="cuda")
    parser.add_argument("--workers", type=int, default=1, help="probe processes side by side (step times suffer)")
    parser.add_argument("--points", choices=("grid", "facts"), default="grid", help="facts: what kernels allocate")
    parser.add_argument("--only", help="only points whose label holds this text")
    parser.add_argument("--list", action="store_true", help="print the points and measure nothing")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    given.out.mkdir(parents=True, exist_ok=True)
    # Corrections that were learned on this machine would flatter the model; this folder has none.
    os.environ["TUNEPLAN_HOME"] = str((given.out / "home").resolve())
    try:
        hardware = machine(given.device)
    except TuneplanError as error:
        print(f"gpu_observe: {error}", file=sys.stderr)
        return 1
    small = given.device == "cpu"
    if given.points == "facts":
        points = gpu_grid.tiny_facts() if small else gpu_grid.fact_points()
    else:
        points = gpu_grid.tiny_grid(hardware) if small else gpu_grid.full_grid(hardware)
    if given.only:
        points = (point for point in points if given.only in point.label)
    if given.list:
        for number, point in enumerate(points, 1):
            print(number, point.label)
        return 0
    session = observe(points, hardware, device=given.device, deadline=deadline, out=given.out, workers=given.workers)
    print((given.out / "summary.md").read_text(encoding="utf-8"))
    return 0 if session.observations else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A point that is still being predicted in its thread must not hold the process up.
    os._exit(code)
