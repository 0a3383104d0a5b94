"""Tokens/s and peak of our step beside transformers + PEFT and TRL packed, a line as soon as one is measured.

    python benchmarks/gpu_throughput.py --out DIR [--device cuda|cpu] [--seconds 150]

One round of `benchmarks.throughput` on its quick workload, fixed rows first. DIR/throughput.jsonl has a line a run,
summary.md the table of what is whole so far.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.throughput import contenders, report, rounds, workload  # noqa: E402

NAMES = (contenders.OURS, "transformers", "trl-packed", "ours-checkpointed")


def main() -> int:
    """Runs the contenders one after the other until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + given.seconds
    load = workload.chosen(given.device, quick=True)
    absent = {name: reason for name in NAMES if (reason := contenders.missing(name))}
    for name, reason in absent.items():
        talk(f"left out: {contenders.title(name)}: {reason}")
    names = [name for name in NAMES if name not in absent]
    runs: list[report.Run] = []
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        model = Path(folder) / "model"
        workload.write(model, load)
        base: dict[str, Any] = {"model": str(model), "device": given.device, "quick": True, "threads": 1}
        with open(given.out / "throughput.jsonl", "w", encoding="utf-8") as lines:
            # A CPU's bytes are counted in runs of their own: fixed rows are whole before ragged ones begin.
            sets = [workload.FIXED, workload.RAGGED]
            groups = [[data] for data in sets] if given.device == "cpu" else [sets]
            log, began, longest = given.out / "workers.txt", time.monotonic(), 0.0
            try:
                for kind, data, name, result in chain.from_iterable(
                    rounds.run(names, group, 1, base, log, talk) for group in groups
                ):
                    runs.append((kind, data, name, result))
                    lines.write(json.dumps({"kind": kind, "data": data, "name": name, **result}) + "\n")
                    lines.flush()
                    (given.out / "summary.md").write_text(table(runs, load, given.device), encoding="utf-8")
                    now = time.monotonic()
                    began, longest = now, max(longest, now - began)
                    if now + longest > until:  # the next one would be cut off
                        break
            except rounds.Failed as error:
                talk(f"error: {error}")
                return 4
    return 0 if any(kind == "timed" for kind, *_ in runs) else 1


def talk(line: str) -> None:
    """To stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def table(runs: list[report.Run], load: workload.Workload, device: str) -> str:
    """Of the data sets on which ours was measured whole, the trainers that were; empty before that."""
    needed = {"timed", "metered"} if device == "cpu" else {"timed"}  # a GPU counts its bytes by itself
    seen: dict[tuple[str, str], set[str]] = {}
    for kind, data, name, _ in runs:
        seen.setdefault((data, name), set()).add(kind)
    whole = {key for key, kinds in seen.items() if kinds >= needed}
    known = {data for data, name in whole if name == contenders.OURS}
    kept = [run for run in runs if run[0] == "peak" or ((run[1], run[2]) in whole and run[1] in known)]
    return report.text(report.summarize(kept, load, device), [], []) if known else ""


if __name__ == "__main__":
    sys.exit(main())
