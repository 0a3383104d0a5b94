"""Limits of time that hold on any processor: CPU time, in units of what a fixed piece of work takes here."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

YARDSTICK_SECONDS = 0.0093
"""What `_yardstick` takes on the machine on which the tests' limits were set (AMD EPYC of family 25, 2026-11-27)."""


def reference_seconds(work: Callable[[], object], *, repeats: int = 5) -> float:
    """CPU seconds that `work` would take on that machine: its best of `repeats`, beside the yardstick's best."""
    best = min(_cpu_seconds(work) for _ in range(repeats))
    return best * YARDSTICK_SECONDS / min(_cpu_seconds(_yardstick) for _ in range(5))


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
