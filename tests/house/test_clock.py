"""No test says how long something may take by the clock: that says how busy the machine is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.clock import takes_at_most, tries

TESTS = Path(__file__).parents[1]
CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "thread_time", "time_ns", "perf_counter_ns"}
WAITS = {"support/clock.py", "support/tui_support.py", "fuzz/__main__.py"}
"""Where a clock may be read: the home of limits, and loops that wait for a screen, or run for so many minutes."""


def readings(source: str) -> list[int]:
    """Lines that compare what a clock says, or count with it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare | ast.BinOp):
            calls = (part for part in ast.walk(node) if isinstance(part, ast.Call))
            names = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute) and _is_time(call.func)}
            found += [node.lineno] if names & CLOCKS else []
    return found


def _is_time(called: ast.Attribute) -> bool:
    return isinstance(called.value, ast.Name) and called.value.id == "time"


def test_only_one_place_measures_time() -> None:
    for path in TESTS.rglob("*.py"):
        if (name := str(path.relative_to(TESTS))) not in WAITS:
            assert readings(path.read_text(encoding="utf-8")) == [], name
    assert readings("import time\nbegin = time.monotonic()\nassert time.monotonic() - begin < 3\n")


def test_work_past_its_limit_is_told() -> None:
    with pytest.raises(AssertionError), takes_at_most(0.01):
        sum(range(5_000_000))
    with takes_at_most(60):
        sum(range(1000))


def test_what_never_comes_is_told() -> None:
    with pytest.raises(AssertionError, match=r"nothing came within 0\.01 seconds"):
        for _ in tries(0.01):
            pass
