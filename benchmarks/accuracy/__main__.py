"""`python -m benchmarks.accuracy`: traces what is missing or outdated of the grid, then writes docs/accuracy.md."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import sys
import time
from typing import Any

from benchmarks.accuracy import evaluate, report
from benchmarks.accuracy.grid import Configuration, configurations
from benchmarks.accuracy.store import Store, stored_seeds
from planner.contract.errors import NotModelled


def run_grid(seed: int, count: int, *, trace: bool, seconds: float) -> report.Grid:
    """Compares what was kept of the seed and then traces further draws, until `count` are compared or time is up.

    Without `trace` what was kept is all.
    """
    store, grid, began = Store(seed), report.Grid(seed, stored_points(seed)), time.monotonic()
    if not trace:
        return grid
    for number, configuration in enumerate(itertools.islice(configurations(seed), 2 * count)):
        if len(grid.points) >= count or time.monotonic() - began > seconds:
            break
        if store.find(configuration) is not None:
            continue  # compared above
        line = store.measure(configuration)
        print(f"\r{number + 1} drawn, {len(grid.points)} compared", end="", file=sys.stderr)
        if "planner_refused" in line:
            grid.planner_refused[line["planner_refused"]] += 1
        elif "refused" in line:
            grid.trace_refused[line["refused"]] += 1
        elif "trace_failed" in line:
            grid.trace_failed.append(f"{configuration.model}: {line['trace_failed']}")
        else:
            grid.points.append(_point(configuration, line))
    store.tidy()
    return grid


def _point(configuration: Configuration, line: dict[str, Any]) -> report.Point:
    spec, choices, rows = configuration.spec, configuration.choices, configuration.rows
    predicted = evaluate.closed_form(spec, choices, rows=rows)
    return report.Point(spec, choices, configuration.layers is None, line["instants"], predicted, rows)


def stored_points(seed: int) -> list[report.Point]:
    """The kept traces of a seed beside today's closed form."""
    points = []
    for configuration, line in Store(seed).configurations():
        with contextlib.suppress(NotModelled):
            points.append(_point(configuration, line))
    return points


def trace_again(seconds: float) -> int:
    """Repeats the kept traces of all seeds that other code made, until time is up; returns how many are left."""
    began, left = time.monotonic(), 0
    for seed in stored_seeds():
        store = Store(seed)
        older = store.older()
        for number, configuration in enumerate(older):
            if time.monotonic() - began > seconds:
                left += len(older) - number
                break
            store.measure(configuration)
            print(f"\rseed {seed}: {number + 1} traced again", end="", file=sys.stderr)
        store.tidy()
    return left


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--seed", type=int, default=2027, help="seed of the random grid")
    parser.add_argument("--configurations", type=int, default=400, help="configurations to compare")
    parser.add_argument("--minutes", type=float, default=60, help="stop tracing after this time; a later call resumes")
    parser.add_argument("--no-trace", action="store_true", help="use finished traces only")
    parser.add_argument("--no-write", action="store_true", help="print the summary only (another seed, say)")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    began, seconds, trace = time.monotonic(), 60 * arguments.minutes, not arguments.no_trace
    older = trace_again(seconds) if trace else sum(len(Store(seed).older()) for seed in stored_seeds())
    left = seconds - (time.monotonic() - began)
    grid = run_grid(arguments.seed, arguments.configurations, trace=trace, seconds=left)
    grid.older = older
    grid.others = {seed: stored_points(seed) for seed in stored_seeds() if seed != arguments.seed}
    from benchmarks.accuracy.metrics import distribution

    for stack in ("peft", "builtin"):
        print(stack, distribution(p.error for p in grid.points if p.choices.stack == stack), file=sys.stderr)
    for seed, points in grid.others.items():
        print("seed", seed, distribution(p.error for p in points), file=sys.stderr)
    if not arguments.no_write:
        print(report.write(grid, run_traces=not arguments.no_trace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
