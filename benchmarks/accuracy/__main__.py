"""`python -m benchmarks.accuracy`: traces what is missing from the grid, then writes docs/accuracy.md."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time

from benchmarks.accuracy import evaluate, report
from benchmarks.accuracy.grid import configurations
from benchmarks.accuracy.store import Store, stored_seeds
from planner.contract.errors import NotModelled


def run_grid(seed: int, count: int, *, fresh: bool, trace: bool, seconds: float) -> report.Grid:
    """Traces until `count` configurations can be compared, or time is up; earlier traces are used again.

    Without `trace` all that was kept is compared, whatever the grid would draw today: a larger catalogue draws others.
    """
    store, grid, began = Store(seed), report.Grid(seed), time.monotonic()
    if not trace:
        grid.points, grid.older = stored_points(seed), len(store.older())
        return grid
    for number, configuration in enumerate(itertools.islice(configurations(seed), 2 * count)):
        if len(grid.points) >= count:
            break
        spec, choices, rows = configuration.spec, configuration.choices, configuration.rows
        try:
            predicted = evaluate.closed_form(spec, choices, rows=rows)
        except NotModelled as error:
            grid.planner_refused[str(error)] += 1
            continue
        line = store.find(configuration, any_code=not fresh)
        if line is None:
            if time.monotonic() - began > seconds:
                continue
            line = store.measure(configuration)
            print(f"\r{number + 1} drawn, {len(grid.points)} compared", end="", file=sys.stderr)
        if "refused" in line:
            grid.trace_refused[line["refused"]] += 1
        elif "trace_failed" in line:
            grid.trace_failed.append(f"{configuration.model}: {line['trace_failed']}")
        elif "instants" in line:
            grid.older += line["code"] != evaluate.trace_code()
            full = configuration.layers is None
            grid.points.append(report.Point(spec, choices, full, line["instants"], predicted, rows))
    store.tidy()
    return grid


def stored_points(seed: int) -> list[report.Point]:
    """The kept traces of another seed beside today's closed form."""
    points = []
    for configuration, line in Store(seed).configurations():
        try:
            predicted = evaluate.closed_form(configuration.spec, configuration.choices, rows=configuration.rows)
        except NotModelled:
            continue
        full = configuration.layers is None
        points.append(
            report.Point(
                configuration.spec, configuration.choices, full, line["instants"], predicted, configuration.rows
            )
        )
    return points


def trace_again(seconds: float) -> None:
    """Repeats the kept traces of all seeds that an earlier state of the trace's code made, until time is up."""
    began = time.monotonic()
    for seed in stored_seeds():
        store = Store(seed)
        for number, configuration in enumerate(store.older()):
            if time.monotonic() - began > seconds:
                break
            store.measure(configuration)
            print(f"\rseed {seed}: {number + 1} traced again", end="", file=sys.stderr)
        store.tidy()


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--seed", type=int, default=2027, help="seed of the random grid")
    parser.add_argument("--configurations", type=int, default=400, help="configurations to compare")
    parser.add_argument("--minutes", type=float, default=60, help="stop tracing after this time; a later call resumes")
    parser.add_argument("--fresh", action="store_true", help="repeat traces by older trace code")
    parser.add_argument("--again", action="store_true", help="first repeat such traces of every seed that is kept")
    parser.add_argument("--no-trace", action="store_true", help="use finished traces only")
    parser.add_argument("--no-write", action="store_true", help="print the summary only (another seed, say)")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    if arguments.again:
        trace_again(60 * arguments.minutes)
    grid = run_grid(
        arguments.seed,
        arguments.configurations,
        fresh=arguments.fresh,
        trace=not arguments.no_trace,
        seconds=60 * arguments.minutes,
    )
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
