"""`plan check --from FILE`: another trainer's file as a request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from planner.cli.asked import Target
from planner.contract.errors import InvalidInput, NotModelled
from planner.decide.question import Question
from planner.exchange import recognise
from planner.exchange.foreign import Foreign, Note
from planner.exchange.here import mirrored


def asked(files: list[str], tool: str | None, target: Target) -> tuple[Foreign, Target]:
    """What the files say, and the target with their model and settings under those of the command line."""
    if not all(name.strip() for name in files):
        raise InvalidInput("--from is empty; name a trainer's file")
    foreign = recognise.read([Path(name) for name in files], tool=tool)
    if foreign.no_figure:
        raise NotModelled(foreign.no_figure)
    given = {name: value for name, value in target.settings.items() if value is not None}
    chosen = target.model or foreign.model
    if chosen is None:
        raise InvalidInput(f"{foreign.where}: names no model; add --model")
    if target.model is None and (original := mirrored(chosen)) is not None:
        said = Note(key="model", how="assumed", text=f"{original}, which {chosen} republishes")
        foreign, chosen = replace(foreign, notes=(*foreign.notes, said)), original
    if foreign.several is not None and "num_gpus" not in given:
        raise InvalidInput(
            f"{foreign.where}: {foreign.several} divides the run over devices, and how many isn't in the file; "
            "add --num-gpus N"
        )
    values = {**target.settings, **foreign.values, **given}
    if values.get("gradient_checkpointing") is False:
        values["checkpoint_reentrant"] = None
    return foreign, replace(target, model=chosen, settings=values)


def order_notes(question: Question) -> list[str]:
    """What other trainers' orders do to reserved bytes (`python -m benchmarks.accuracy.epochs`)."""
    choices = question.choices
    grows = choices.padding == "longest" and not choices.expandable_segments
    if not grows or question.hardware.kind not in ("cuda", "rocm"):
        return []
    return [
        "Where lengths vary, CUDA's allocator keeps segments of shorter micro-batches beside those of longer ones, and "
        "the card fills up (no error by itself); PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True avoids it."
    ]
