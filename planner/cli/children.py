"""Commands that need torch: it runs in a child process, `plan` reads what the child prints."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planner.errors import InvalidInput, NotModelled, RunFailed
from planner.settings import check_length, fit_to_hardware, to_flags

if TYPE_CHECKING:
    from planner.cli.request import Request
    from planner.records import MemoryReport

EXTRA = "pip install 'tuneplan[train]'"


def require_train_extra(command: str) -> None:
    """Refuses in one line where torch, transformers or peft is not installed. Looks for them, imports nothing."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(f"plan {command} needs {', '.join(missing)}: {EXTRA}")


def run_trace(
    *, gpu: str | None, model: str | None, reserve: str | None, as_json: bool, settings: Mapping[str, Any]
) -> int:
    """Traces one configuration and judges it; exit code 3 when it does not fit."""
    from planner.check import explain, verdict_of
    from planner.cli.request import resolve

    require_train_extra("trace")
    request = resolve(gpu=gpu, model=model, reserve=reserve, values=settings)
    check_length(request.model, request.choices)
    memory = trace(request)
    verdict = verdict_of(memory)
    if as_json:
        print(json.dumps(memory.model_dump(mode="json"), indent=2))
    else:
        from planner.report.memory_view import breakdown, instants_line
        from planner.report.words import make_console

        console = make_console()
        console.print(f"Traced: {request.model.id} on {request.hardware.title}", style="bold")
        console.print(breakdown(console, memory))
        for sentence in [*request.notes, *explain(memory, verdict)]:
            console.print(sentence)
        console.print(instants_line(memory))
    return 3 if verdict == "does_not_fit" else 0


def trace(request: Request) -> MemoryReport:
    """The memory of one traced step: allocated bytes are traced, reserved and device bytes follow the planner."""
    choices, notes = fit_to_hardware(request.choices, request.hardware, fixed=request.fixed)
    for note in notes:
        print(f"plan: {note}", file=sys.stderr)
    from planner.memory import device

    workspaces = int(device.workspace_bytes(request.hardware))
    target = "cuda" if request.hardware.kind == "rocm" else request.hardware.kind
    command = [sys.executable, "-m", "trainer.trace", "--config", "-", "--json", "--target", target]
    command += ["--cublas-workspace-bytes", str(workspaces), *to_flags(choices)]
    if choices.padding == "max" and choices.stack == "peft":
        command.append("--padded")  # stack `builtin` hands no mask over
    print("plan: tracing one step on fake tensors …", file=sys.stderr)
    child = subprocess.run(
        command, input=json.dumps(dict(request.model.config)), capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        error = NotModelled if child.returncode == 2 else RunFailed
        raise error(f"the trace failed: {last}")
    try:
        found = json.loads(child.stdout.strip().splitlines()[-1])["memory"]
    except (ValueError, IndexError, KeyError):
        raise RunFailed("the trace printed no result") from None
    return _complete(found, request)


def _complete(found: Mapping[str, Any], request: Request) -> MemoryReport:
    """A trace's allocated bytes with reserved and device bytes, so that it can be laid beside a prediction."""
    import numpy as np

    from planner.memory import device
    from planner.records import MemoryReport

    allocated, persistent = np.array([found["allocated_peak_bytes"]]), np.array([found["instants"]["load"]])
    reserved = int(device.reserved(allocated, persistent)[0])
    total = reserved + request.hardware.context_bytes
    totals = np.array([total])
    components = {name: size for name, size in found["components"].items() if size}
    components["fragmentation"] = reserved - int(allocated[0])
    components["context"] = request.hardware.context_bytes
    return MemoryReport(
        allocated_peak_bytes=int(allocated[0]),
        reserved_peak_bytes=reserved,
        device_peak_bytes=total,
        interval_bytes=(
            int(device.lower(totals, allocated, persistent)[0]),
            int(device.upper(totals, allocated, persistent)[0]),
        ),
        budget_bytes=request.budget_bytes,
        binding_instant=found["binding_instant"],
        instants=found["instants"],
        components=components,
    )


def run_train(
    plan_file: str,
    *,
    data: str | None,
    output: str | None,
    resume: bool,
    device: str,
    as_json: bool,
    adapter: str | None = None,
    extra: Sequence[str] = (),
) -> int:
    """Starts the trainer on a plan file and shows it to its end."""
    from planner import plans, runs
    from planner.cli.progress import Follower, summary_lines

    plan = plans.load(plan_file)
    if data is None and plan.data.path is None:
        raise InvalidInput(f"{plan_file} names no data; give it with --data")
    if resume and output is None:
        raise InvalidInput("--resume needs --output, the run folder to go on in")
    require_train_extra("train")
    run = runs.start(
        plan_file,
        data=data,
        output=output,
        resume="auto" if resume else None,
        device=device,
        adapter=adapter,
        extra=extra,
    )
    follower = Follower(raw=as_json)
    code = follower.follow(run)
    if follower.finished is not None and not as_json:
        for line in summary_lines(follower.finished):
            print(line)
    return code
