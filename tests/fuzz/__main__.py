"""`python -m tests.fuzz --minutes 60 --seed 1 --kind config`: hostile inputs without end, each failure told once.

A case is known by kind, seed and number: `--only N` runs that one again and shows what it raises.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from unittest.mock import patch

from planner.memory.step import kept
from tests.fuzz import oracle
from tests.fuzz.kinds import KINDS


@cache
def _steps() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-steps-")


@contextlib.contextmanager
def _kept(kind: str) -> Iterator[None]:
    """Where the model is drawn, no figures are kept: every case is computed. Where it is always the same and only what
    a machine taught changes, its step is kept as from one start to the next."""
    folder = Path(_steps().name) if kind == "calibration" else None
    with patch.object(kept, "_folder", lambda: folder):
        yield


def run_case(kind: str, seed: int, number: int) -> None:
    """One case; raises what it raises."""
    with _kept(kind), tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        KINDS[kind](Random(f"{kind}-{seed}-{number}"), Path(folder))


def signature(error: BaseException) -> str:
    """What tells one failure from another: its type, the last place in this project, the beginning of its text."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in frame.filename]
    own = [frame for frame in frames if "/planner/" in frame.filename or "/trainer/" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].name}:{own[-1].lineno}" if own else "?"
    words = str(error)[:40] if isinstance(error, oracle.Broken) else ""
    return f"{type(error).__name__} {place} {words}"


def run(kind: str, seed: int, *, seconds: float, cases: int) -> tuple[int, Counter[str]]:
    """Cases run, and how often each failure came; the first of each is told."""
    end = time.monotonic() + seconds
    found: Counter[str] = Counter()
    number = 0
    slowest = (0.0, 0)
    while number < cases and time.monotonic() < end:
        begun = time.monotonic()
        try:
            run_case(kind, seed, number)
        except (Exception, oracle.Hang) as error:
            name = signature(error)
            found[name] += 1
            if found[name] == 1:
                print(f"{kind} --seed {seed} --only {number}: {name}: {str(error)[:200]!r}", flush=True)
        slowest = max(slowest, (time.monotonic() - begun, number))
        number += 1
    print(
        f"{kind}: {number} cases, {found.total()} failures of {len(found)} kinds; "
        f"slowest {slowest[0]:.1f} s (number {slowest[1]})"
    )
    return number, found


def main() -> int:
    """Exit code 1 where something that must hold did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0, help="time of all kinds together")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="cases of each kind at most")
    parser.add_argument("--only", type=int, help="one case by its number, with its traceback")
    given = parser.parse_args()
    kinds = list(KINDS) if given.kind == "all" else [given.kind]
    if given.only is not None:
        run_case(kinds[0], given.seed, given.only)
        return 0
    share = given.minutes * 60 / len(kinds)
    failures = [run(kind, given.seed, seconds=share, cases=given.cases)[1] for kind in kinds]
    return 1 if any(failures) else 0


if __name__ == "__main__":
    sys.exit(main())
