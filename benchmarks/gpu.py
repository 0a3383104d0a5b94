"""Everything that this project wants to know of a GPU, in one command of nine minutes, the most valuable first.

    python benchmarks/gpu.py --minutes 9 --out DIR [--device cuda|cpu] [--wheels DIR]

Runs from a checkout without a network; wants torch, transformers and numpy. What else is missing comes from wheels that
`benchmarks/gpu_wheels.py` packed on a machine with a network. Four sections, each a process of its own with a share of
the time; what one leaves goes to those behind it, and none takes another down with it:

- facts: what kernels allocate inside themselves, and blocks instead of tensors, on 12 points (gpu_observe)
- observe: some 120 real steps beside their predictions: allocated, reserved, device, by instant, time (gpu_observe)
- checks: 16-bit parity of our step, saved inputs in host memory, a real overflow (gpu_checks)
- throughput: tokens/s and peak of ours beside transformers + PEFT and TRL packed on 1.2 billion parameters

DIR gets a folder for each section, which grows line by line, its log, and sections.json with rows, seconds and exit
code, written anew after each. Exit code 1 where a section is empty. `--device cpu` runs all of it on small models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LAST_SECONDS = 6.0
"""Kept for what is written at the end."""
PATIENCE = 10.0
"""Seconds between a section's time being up and its end."""
SITE = "site-packages"
"""Folder of unpacked wheels. dill, which `datasets` pickles with, takes modules elsewhere for the program's own and
pickles them whole, which fails (dill 0.4.1, `_is_builtin_module`)."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the nine minutes."""

    name: str
    script: str
    share: float
    """Of all the time."""
    rows: str
    """The file that grows, in the section's folder."""
    options: tuple[str, ...] = ()

    def command(self, out: Path, device: str, seconds: float) -> list[str]:
        """Its process, which ends by itself within the seconds given."""
        time_option = ("--minutes", f"{seconds / 60:.3f}") if self.script == "gpu_observe.py" else ()
        time_option = time_option or ("--seconds", f"{seconds:.0f}")
        common = ["--out", str(out / self.name), "--device", device, *time_option]
        return [sys.executable, str(HERE / self.script), *self.options, *common]


SECTIONS = (
    Section(
        name="facts", script="gpu_observe.py", share=0.14, rows="observations.jsonl", options=("--points", "facts")
    ),
    Section(name="observe", script="gpu_observe.py", share=0.42, rows="observations.jsonl"),
    Section(name="checks", script="gpu_checks.py", share=0.15, rows="checks.jsonl"),
    Section(name="throughput", script="gpu_throughput.py", share=0.29, rows="throughput.jsonl"),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a section ended."""

    name: str
    rows: int
    seconds: float
    code: int | None
    """Of its process; None where it had to be ended."""
    said: str
    """The last line of its log, where it didn't end well."""


def run(section: Section, out: Path, device: str, seconds: float, environment: dict[str, str]) -> Result:
    """One section, ended when its time is up; whatever becomes of it is a result."""
    folder, began, code = out / section.name, time.monotonic(), None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / section.rows).unlink(missing_ok=True)  # of an earlier run
    log = folder / "log.txt"
    try:
        with open(log, "w", encoding="utf-8") as said:
            command = section.command(out, device, seconds)
            child = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
            )
            try:
                code = child.wait(timeout=seconds + PATIENCE)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(child)
    except OSError as error:
        log.write_text(f"{error}\n", encoding="utf-8")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return Result(
        name=section.name,
        rows=count(folder / section.rows),
        seconds=round(time.monotonic() - began, 1),
        code=code,
        said="" if code == 0 or not lines else lines[-1][:300],
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """The process, where it still runs, and those that it started, which share its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(timeout=3.0)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def count(path: Path) -> int:
    """Whole JSON lines of a file that may not be there or may end in the middle of one."""
    if not path.exists():
        return 0
    found = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            json.loads(line)
        except ValueError:
            continue
        found += 1
    return found


ASKED = """
import json, torch, importlib.metadata as m
found = {}
for name in ('torch', 'transformers', 'peft', 'trl', 'accelerate', 'bitsandbytes', 'triton'):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        found[name] = None
card = None
if torch.cuda.is_available():
    p = torch.cuda.get_device_properties(0)
    card = {'name': p.name, 'total_bytes': p.total_memory, 'capability': [p.major, p.minor]}
print(json.dumps({'versions': found, 'card': card, 'cuda': torch.version.cuda}))
"""


def machine(environment: dict[str, str]) -> dict[str, Any]:
    """What runs here: card and libraries, asked in a process of its own, since torch may be broken."""
    told: dict[str, Any] = {"python": platform.python_version(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        return {**told, **json.loads(done.stdout.splitlines()[-1])}
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return {**told, "unknown": f"{type(error).__name__}: {error}"[:300]}


def write(out: Path, told: dict[str, Any], results: Sequence[Result]) -> None:
    """sections.json as it stands, under a temporary name first."""
    content = {"machine": told, "sections": [asdict(result) for result in results]}
    temporary = out / ".sections.json"
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out / "sections.json")


def environment_of(out: Path, wheels: Path | None) -> dict[str, str]:
    """The sections': no network, a home of their own, and what is missing here from wheels."""
    paths = [str(ROOT)]
    if wheels is not None:
        import gpu_wheels

        taken = gpu_wheels.unpack_missing(wheels, out / SITE)
        print(f"gpu: from wheels: {', '.join(taken) or 'nothing is missing'}", file=sys.stderr, flush=True)
        paths.append(str(out / SITE))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    # Corrections that were learned on this machine would flatter the model; this home has none.
    return {**os.environ, **OFFLINE, "TUNEPLAN_HOME": str(out / "home"), "PYTHONPATH": os.pathsep.join(paths)}


def main() -> int:
    """Runs the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--wheels", type=Path, help="folder that gpu_wheels.py filled; what is missing comes from it")
    names = [section.name for section in SECTIONS]
    parser.add_argument("--sections", nargs="+", choices=names, default=names, help="default: all")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes - LAST_SECONDS
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    environment = environment_of(out, given.wheels)
    told, results = machine(environment), list[Result]()
    write(out, told, results)
    wanted = [section for section in SECTIONS if section.name in given.sections]
    for number, section in enumerate(wanted):
        share = section.share / sum(one.share for one in wanted[number:])
        seconds = max(1.0, (until - time.monotonic()) * share - PATIENCE / 2)
        print(f"gpu: {section.name}, {seconds:.0f} s", file=sys.stderr, flush=True)
        result = run(section, out, given.device, seconds, environment)
        results.append(result)
        write(out, told, results)
        print(f"gpu: {section.name}: {result.rows} rows in {result.seconds:.0f} s", file=sys.stderr, flush=True)
    for result in results:
        ended = "" if result.code == 0 else "cut off " if result.code is None else f"code {result.code} "
        print(f"{result.name:<12}{result.rows:>5} rows {result.seconds:>7.1f} s  {ended}{result.said}")
    return 0 if results and all(result.rows for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
