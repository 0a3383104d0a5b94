"""`plan trace`: the child process traces a step, the planner adds what the allocator makes of it, and shows both."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.cli.children import require_train_extra
from planner.cli.learning import learned
from planner.cli.talk import print_json, say
from planner.contract import process
from planner.contract.errors import Interrupted, InvalidInput, NotModelled, RunFailed
from planner.contract.settings import check_length, to_flags

if TYPE_CHECKING:
    from planner.cli.asked import Target
    from planner.contract.records import MemoryReport
    from planner.decide.question import Question
    from planner.export.timeline import Timeline


def run_trace(target: Target, *, as_json: bool, timeline: str | None = None, memory_viewer: str | None = None) -> int:
    """Traces one configuration and judges it; exit code 3 when it does not fit."""
    from planner.cli.resolve import resolve
    from planner.decide.reasons import explain
    from planner.decide.verdict import verdict_of

    require_train_extra("trace")
    picture_format = None
    if timeline is not None:
        from planner.export import timeline_plot

        picture_format = timeline_plot.check_format(timeline)
    for option, name in (("--timeline", timeline), ("--memory-viewer", memory_viewer)):
        _refuse_unwritable(option, name)
    question = learned(lambda: resolve(target))
    check_length(question.model, question.choices)
    if question.choices.num_gpus > 1:
        raise NotModelled(
            f"--num-gpus {question.choices.num_gpus} is not traced: sharding is in plan check's figures only; "
            "leave it out to trace what one device does alone"
        )
    memory, course = trace(question)
    verdict = verdict_of(memory)
    if as_json:
        print_json(memory.model_dump(mode="json"))
    else:
        from planner.report.memory_view import breakdown, instants_line
        from planner.report.words import make_console

        console = make_console()
        console.print(f"Traced: {question.model.id} on {question.hardware.title}", style="bold")
        console.print(breakdown(console, memory))
        for sentence in [*question.notes, *explain(memory, verdict)]:
            console.print(sentence)
        console.print(instants_line(memory))
    if timeline is not None and picture_format is not None:
        shape = f"{question.choices.batch_size} x {question.choices.max_length}"
        title = f"{question.model.id}, {shape} on {question.hardware.title}"
        _write(timeline, timeline_plot.picture(course, title=title, file_format=picture_format))
    if memory_viewer is not None:
        from planner.export import memory_viewer as viewer

        _write(memory_viewer, viewer.pickled(course))
        say(f"open {memory_viewer} at pytorch.org/memory_viz")
    return 3 if verdict == "does_not_fit" else 0


def trace(question: Question) -> tuple[MemoryReport, Timeline]:
    """The memory of one traced step, and its course: reserved bytes are the step's own events, replayed."""
    from planner.export.timeline import Timeline

    choices, notes = question.fitted()
    for note in notes:
        say(note)
    from planner.memory import device
    from planner.models import recorded

    workspaces = int(device.workspace_bytes(question.hardware))
    target = "cuda" if question.hardware.kind == "rocm" else question.hardware.kind
    command = process.command("trainer.trace", "--config", "-", "--json", "--events", "--evaluate", "--target", target)
    command += ["--cublas-workspace-bytes", str(workspaces), *to_flags(choices)]
    # What depends on stack and device where nobody names it is named always, or a default would be taken for silence.
    command += ["--loss", choices.loss, "--optimizer-implementation", choices.optimizer_implementation]
    if choices.padding == "max" and choices.stack == "peft":
        command.append("--padded")  # stack `builtin` hands no mask over
    if target == "cuda" and not question.hardware.has_flash_attention:
        command += ["--kernel", "pre-ampere"]
    say("tracing one step on fake tensors …")
    try:
        # In its own session: a Ctrl-C is answered here and ends the child, which has nothing to keep.
        child = subprocess.run(
            command,
            env=process.environment(),
            input=json.dumps(recorded.plain(question.model)),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            start_new_session=True,
        )
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing of the trace is kept, start it again") from None
    if child.returncode != 0:
        last = (child.stderr.strip().split("\n") or ["no message"])[-1]
        raise process.failure(child.returncode, f"the trace failed: {last}")
    try:
        found = json.loads(child.stdout.strip().split("\n")[-1])
        course = Timeline.from_trace(found)
        return _complete(found["memory"], course, question), course
    except (ValueError, IndexError, KeyError):
        raise RunFailed("the trace printed no result") from None


def _complete(found: Mapping[str, Any], course: Timeline, question: Question) -> MemoryReport:
    """A trace's allocated bytes with reserved and device bytes, so that it can be laid beside a prediction."""
    import numpy as np

    from planner.contract.records import MemoryReport
    from planner.memory import device

    hardware = question.hardware
    peak = int(found["allocated_peak_bytes"])
    allocated, persistent = np.array([peak]), np.array([found["instants"]["load"]])
    if hardware.kind in ("cuda", "rocm"):
        from planner.memory.reserved.replay import SegmentRules, alike, held

        limit = question.budget_bytes - hardware.context_bytes
        first = [hardware.cublas_workspace_bytes] * device.CUBLAS_HANDLES
        replay = held(
            alike(first + course.persistent_sizes(), course.log()),
            limit=limit if peak <= limit else None,
            rules=SegmentRules.of(question.choices, hardware),
        )
        blocks = max(replay.allocated_bytes, peak)
        most = max(replay.free_bytes, blocks)
        reserved = max(replay.limited_bytes or most, blocks)
    else:
        blocks = peak
        reserved = most = int(device.reserved(allocated, persistent)[0])
    total = reserved + hardware.context_bytes
    components = {name: size for name, size in found["components"].items() if size}
    components["fragmentation"] = reserved - peak
    components["context"] = hardware.context_bytes
    return MemoryReport(
        allocated_peak_bytes=blocks,
        tensors_peak_bytes=peak,
        reserved_peak_bytes=reserved,
        device_peak_bytes=total,
        interval_bytes=(
            int(device.lower(np.array([total]), allocated, persistent)[0]),
            int(device.upper(np.array([most + hardware.context_bytes]), allocated, persistent)[0]),
        ),
        budget_bytes=question.budget_bytes,
        binding_instant=found["binding_instant"],
        instants=found["instants"],
        components=components,
    )


def _refuse_unwritable(option: str, name: str | None) -> None:
    """Before minutes are spent: can a file of this name be written?"""
    if name is None:
        return
    path = Path(name).absolute()
    if not name.strip() or path.is_dir():
        raise InvalidInput(f"{option} {name!r} is no file name")
    if not path.parent.is_dir():
        raise InvalidInput(f"{option} {name}: there is no folder {Path(name).parent}")
    if not os.access(path.parent, os.W_OK):
        raise InvalidInput(f"{option} {name}: the folder {Path(name).parent} cannot be written to")


def _write(name: str, content: bytes) -> None:
    from planner.contract.files import write_named

    try:
        write_named(Path(name), content)
    except OSError as error:
        raise RunFailed(f"{name} cannot be written: {error.strerror or error}") from None
    say(f"wrote {name}")
