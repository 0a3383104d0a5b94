"""`python -m benchmarks.throughput`: our training step beside other trainers, as a table and as JSON.

    python -m benchmarks.throughput [--device cpu|cuda] [--rounds N] [--quick] [--pieces] [--docs]

Every contender trains one epoch on the same sequences with the same settings, each in a process of its own, one after
the other, round by round; ratios are made within a round. Peaks come from a shorter run of their own, in which every
tensor storage is counted. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.throughput import contenders, docs, report, rounds, workload
from planner.contract.files import write_named

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=1, help="every contender runs so often (default 1)")
    parser.add_argument("--quick", action="store_true", help="a quarter of the lengths; goals are for the full one")
    parser.add_argument("--pieces", action="store_true", help="our step less one piece each, instead of other trainers")
    without = [f"{contenders.OURS}-without-{piece}" for piece in contenders.PIECES]
    known = [*contenders.TITLES, *without]
    parser.add_argument("--contenders", nargs="+", choices=known, help=f"default: {', '.join(contenders.USUAL)}")
    parser.add_argument("--data", nargs="+", choices=(workload.RAGGED, workload.FIXED))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help=f"file for the JSON (default: in {RESULTS.name}/, not under --quick)")
    parser.add_argument("--docs", action="store_true", help="puts the table into docs/lean.md")
    given = parser.parse_args()
    names = list(given.contenders or contenders.USUAL)
    if given.pieces:
        names = [contenders.OURS, *without]
    if contenders.OURS not in names:
        names.insert(0, contenders.OURS)
    absent = {name: reason for name in names if (reason := contenders.missing(name))}
    skipped = [f"{contenders.title(name)}: {reason}" for name, reason in absent.items()]
    for line in skipped:
        print(f"left out: {line}", file=sys.stderr)
    names = [name for name in names if name not in absent]
    data = given.data or [workload.RAGGED, workload.FIXED]
    load, began = workload.chosen(given.device, quick=given.quick), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        model, log = Path(folder) / "model", Path(tempfile.gettempdir()) / "throughput.log"
        log.write_text("")
        workload.write(model, load)
        base = {"model": str(model), "device": given.device, "quick": given.quick, "threads": given.threads}
        try:
            runs = list(rounds.run(names, data, given.rounds, base, log, lambda line: print(line, file=sys.stderr)))
        except rounds.Failed as error:
            print(f"error: {error}", file=sys.stderr)
            return 4
    failed = {name for kind, _, name, _ in runs if kind == "failed"}
    skipped += [f"{contenders.title(name)}: it failed, see {log}" for name in failed]
    runs = [run for run in runs if run[2] not in failed]
    found = report.summarize(runs, load, given.device)
    verdicts = report.judge(found, load, given.device) if not given.pieces else []
    shown = report.text(found, verdicts, skipped)
    content = {**about(given), "workload": {**load.config(), "precision": load.precision}, **found}
    name = f"{given.device}{'-pieces' if given.pieces else ''}.json"
    target = given.out or (None if given.quick else RESULTS / name)
    if target is not None:
        write_named(target, (json.dumps(content, indent=1) + "\n").encode())
    if given.docs:
        docs.replace("pieces" if given.pieces else given.device, shown, content)
    print(shown)
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0 if all(met for _, met in verdicts) or given.quick else 1


def about(given: argparse.Namespace) -> dict[str, Any]:
    """When, on what and with which releases."""
    versions = {}
    for package in ("torch", "transformers", "peft", "trl", "accelerate"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": processor() if given.device == "cpu" else card(),
        "threads": given.threads,
        "rounds": given.rounds,
        "quick": given.quick,
        "versions": versions,
    }


def processor() -> str:
    """The processor's name, family and model, and its widest instructions."""
    import torch

    from trainer.measure import processor as measured

    return f"{measured.processor().title}, {torch.backends.cpu.get_cpu_capability()}"


def card() -> str:
    """The GPU's name."""
    import torch

    return str(torch.cuda.get_device_name())


if __name__ == "__main__":
    sys.exit(main())
