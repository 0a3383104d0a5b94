"""Runs of the trainer that are made to fail: each is a process of its own, forked after the slow imports.

The child is killed, its disk filled or its memory exhausted; what it said is read back from its run folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.contract import process

PRELOADED = "TUNEPLAN_FULL_DISK"
"""Environment variable with the path of the preloaded library, where there is one."""

SPARING = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20), "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""What a limited process sets for itself when it starts (`trainer.recovery.limits`), which is too late after a fork."""


def compile_full_disk(folder: Path) -> Path | None:
    """The library that makes writes fail; None where no C compiler is at hand or the system isn't Linux."""
    if sys.platform != "linux":
        return None
    library = folder / "full_disk.so"
    source = Path(__file__).with_name("full_disk.c")
    try:
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return library


def import_slow_parts() -> None:
    """What every run imports, once; afterwards a fork starts training at once."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers
    from transformers.models.llama import modeling_llama  # noqa: F401

    import trainer

    # All of it: every run is then of one version, also when the sources change meanwhile.
    for module in pkgutil.walk_packages(trainer.__path__, "trainer."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    import trainer.__main__
    from trainer.wire.events import quiet

    torch.set_num_threads(1)
    quiet()
    transformers.logging.disable_progress_bar()
    gc.collect()
    gc.freeze()  # a fork whose collector walked all this would copy every page of it


@dataclass
class Outcome:
    """How one process ended."""

    code: int
    """Exit code, or minus the signal's number."""
    seconds: float
    events: list[dict[str, Any]]
    """Events of this process, from its stdout."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Data of the events of a kind."""
        return [event["data"] for event in self.events if event["kind"] == kind]

    @property
    def message(self) -> str:
        """The line of its `failed` event."""
        return str((self.of("failed") or [{"message": ""}])[-1]["message"])


def run(
    plan: Path,
    output: Path,
    *,
    resume: bool = False,
    faults: str = "",
    kill_after: float | None = None,
    signal_after: float | None = None,
    fail_write: int = 0,
    names: Path | None = None,
    gradients: Path | None = None,
    room: int | None = None,
    group: Path | None = None,
) -> Outcome:
    """One process. `kill_after` and `signal_after` (seconds) send SIGKILL and SIGTERM; `fail_write` fills the disk;
    `room` is how many bytes of address space it may map beside what it starts with; `group` a memory cgroup's folder.
    """
    said = plan.parent / f".{output.name}-stdout"
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            if group is not None:
                # A new program: of a fork's pages most would stay on its parent's account.
                _become_member(plan, output, said, resume, group)
            if room is not None:
                _limit(room)
            code = _child(plan, output, said, resume, faults, fail_write, names, gradients)
        finally:
            os._exit(code)
    delay, number = (kill_after, signal.SIGKILL) if kill_after is not None else (signal_after, signal.SIGTERM)
    status: int | None = None
    if delay is not None:
        while time.perf_counter() - started < delay and status is None:
            done, found = os.waitpid(child, os.WNOHANG)
            status = found if done else None
            time.sleep(0.002)
        if status is None:
            os.kill(child, number)
    if status is None:
        _, status = os.waitpid(child, 0)
    events = []
    for line in said.read_text(errors="replace").splitlines() if said.exists() else []:
        try:
            events.append(json.loads(line))
        except ValueError:  # a killed process's last line
            continue
    return Outcome(os.waitstatus_to_exitcode(status), time.perf_counter() - started, events)


def _become_member(plan: Path, output: Path, said: Path, resume: bool, group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    for name, number in ((said, 1), (said.with_name(said.name + "-talk"), 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    command = process.command("trainer", "run", str(plan), "--output", str(output), "--device", "cpu")
    os.chdir(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.getcwd()
    os.execv(command[0], [*command, "--resume", "auto"] if resume else command)


def _limit(room: int) -> None:
    import resource

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + room, resource.RLIM_INFINITY))


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path | None]:
    """A memory cgroup of so many bytes within our own; None where none can be made (no root, no Linux)."""
    from trainer.recovery import limits

    made: Path | None = None
    for folder in limits.folders():
        made = folder / f"tuneplan-{os.getpid()}"
        try:
            made.mkdir()
            names = [name for name in ("memory.max", "memory.limit_in_bytes") if (made / name).exists()]
            (made / names[0]).write_text(str(limit))
            break
        except (OSError, IndexError):
            with contextlib.suppress(OSError):
                made.rmdir()
            made = None
    try:
        yield made
    finally:
        if made is not None:
            made.rmdir()


def _child(
    plan: Path,
    output: Path,
    said: Path,
    resume: bool,
    faults: str,
    fail_write: int,
    names: Path | None,
    gradients: Path | None,
) -> int:
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    talk = os.open(said.with_name(said.name + "-talk"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(talk, 2)
    os.environ["TUNEPLAN_FAULTS"] = faults
    library = os.environ.get(PRELOADED)
    if library:
        shim = ctypes.CDLL(library)
        folder = str(output.resolve()).encode()
        ctypes.memmove(ctypes.addressof((ctypes.c_char * 4096).in_dll(shim, "folder")), folder + b"\0", len(folder) + 1)
        ctypes.c_long.in_dll(shim, "fail_from").value = fail_write
        if names is not None:
            ctypes.c_int.in_dll(shim, "names").value = os.open(names, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if gradients is not None:
        _keep_gradients(gradients)
    from trainer.__main__ import main

    arguments = ["run", str(plan), "--output", str(output), "--device", "cpu"]
    return main([*arguments, "--resume", "auto"] if resume else arguments)


def _keep_gradients(folder: Path) -> None:
    """Writes the gradients of each update before they are clipped."""
    import torch

    from trainer.loop.trainer import LoopTrainer

    folder.mkdir(parents=True, exist_ok=True)
    original = LoopTrainer._clip_grad_norm

    def keeping(self: Any, model: Any) -> Any:
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        torch.save(found, folder / f"{self.state.global_step + 1}.pt")
        return original(self, model)

    LoopTrainer._clip_grad_norm = keeping  # type: ignore[method-assign]


def finish(plan: Path, output: Path, *, tries: int = 3) -> Outcome:
    """What a user does after a failure: resume, or start anew where there is nothing to resume yet."""
    outcome = run(plan, output, resume=True)
    for _ in range(tries):
        if outcome.code == 0:
            break
        outcome = run(plan, output, resume="start without --resume" not in outcome.message)
    return outcome
