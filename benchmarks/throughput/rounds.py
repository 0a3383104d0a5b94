"""Runs the contenders one after the other, round by round, each in a fresh process; the order turns with the round."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.throughput.contenders import OURS
from benchmarks.throughput.worker import PEAK
from planner.contract import process

ROOT = Path(__file__).resolve().parent.parent.parent


class Failed(Exception):
    """A contender's process ended without a result."""


def ask(request: dict[str, Any], log: Path) -> dict[str, Any]:
    """A worker's answer; what it says on stderr goes to `log`."""
    threads = str(request["threads"])
    environment = process.environment(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, HF_HUB_OFFLINE="1")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    command = process.command("benchmarks.throughput.worker", json.dumps(request))
    with open(log, "a", encoding="utf-8") as stderr:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT)
    if done.returncode or not done.stdout.strip():
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise Failed(f"{request['name']} ended with code {done.returncode}: {' '.join(last)} (see {log})")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(
    names: list[str], data: list[str], count: int, base: dict[str, Any], log: Path, talk: Callable[[str], None]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(`timed`, `metered`, `peak` or `failed`, data, contender, result) of every run, as they come.

    A contender that fails is not run again; if it is ours, or the products cannot be timed, the benchmark ends.
    """
    left = list(names)

    def attempt(name: str, kind: str, *, metered: bool) -> dict[str, Any] | None:
        try:
            return ask({**base, "name": name, "data": kind, "metered": metered}, log)
        except Failed as error:
            if name == OURS:
                raise
            left.remove(name)
            talk(str(error))
            return None

    def turns(start: int) -> Iterator[tuple[str, str]]:
        for kind in data:
            for name in names[start % len(names) :] + names[: start % len(names)]:
                if name in left:
                    yield kind, name

    for number in range(count):
        yield "peak", "", PEAK, ask({**base, "name": PEAK}, log)
        for kind, name in turns(number):
            result = attempt(name, kind, metered=False)
            if result is not None:
                talk(f"round {number + 1}/{count}, {kind}, {name}: {result['seconds']:.1f} s")
                yield "timed", kind, name, result
    if base["device"] == "cpu":  # other devices count by themselves, at no cost
        for kind, name in turns(0):
            result = attempt(name, kind, metered=True)
            if result is not None:
                talk(f"metered, {kind}, {name}: {result['peak_bytes'] / 2**20:.0f} MiB")
                yield "metered", kind, name, result
    for name in names:
        if name not in left:
            yield "failed", "", name, {}
