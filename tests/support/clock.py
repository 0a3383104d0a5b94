"""Limits of time that hold on any processor: CPU time, in units of what a fixed piece of work takes here."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

YARDSTICK_SECONDS = 0.0093
"""What `_yardstick` takes on the machine on which the tests' limits were set (AMD EPYC of family 25, 2026-11-27)."""


def reference_seconds(work: Callable[[], object], *, repeats: int = 5) -> float:
    """CPU seconds that `work` would take on that machine: its best of `repeats`, beside the yardstick's best."""
    best = min(_cpu_seconds(work) for _ in range(repeats))
    return best * YARDSTICK_SECONDS / min(_cpu_seconds(_yardstick) for _ in range(5))


@contextlib.contextmanager
def takes_at_most(seconds: float) -> Iterator[None]:
    """Holds the block against so many seconds of the processor, those of processes that it ended among them: what
    else the machine does meanwhile costs none.
    """
    begun = _used()
    yield
    assert _used() - begun < seconds


def tries(seconds: float) -> Iterator[None]:
    """Turns of a loop that waits for something; AssertionError once it has waited so long by the clock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
    raise AssertionError(f"nothing came within {seconds:g} seconds")


def _used() -> float:
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _yardstick() -> None:
    """Half of it arrays of 50,000 numbers, half of it the interpreter."""
    x = np.linspace(1.0, 2.0, 50_000)
    for _ in range(50):
        x = np.sqrt(x * x + 1.0)
    total: dict[int, int] = {}
    for number in range(50_000):
        total[number & 1023] = total.get(number & 1023, 0) + number
