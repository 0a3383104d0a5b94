"""`plan check --from FILE`: another trainer's file as a request."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from planner.cli.asked import Target
from planner.contract.errors import InvalidInput, NotModelled
from planner.decide.question import Question
from planner.exchange import recognise, targets
from planner.exchange.foreign import Foreign, Note


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


MIRRORS = ("nousresearch", "unsloth", "mlx-community", "casperhansen", "alpindale")
"""Accounts of the hub that republish others' models under the same name, with or without a quantisation in it."""
_QUANTISED = re.compile(r"(-unsloth)?(-bnb)?-(4bit|8bit|bf16|fp16)(-mlx)?$", re.IGNORECASE)


def mirrored(model: str) -> str | None:
    """The hub id of the original that a well-known mirror republishes, where the catalogue has it."""
    from planner.models import catalogue

    account, _, name = model.partition("/")
    if account.lower() not in MIRRORS or catalogue.look_up(model) is not None:
        return None
    found = catalogue.look_up(_QUANTISED.sub("", name))
    return None if found is None else found.hub_id


def without_unmodelled_kernels(question: Question, foreign: Foreign) -> tuple[Question, Foreign]:
    """The question with plain code in place of Liger's where the file asks for that and it has no model; said so."""
    from planner.memory.network import liger

    choices = question.choices
    if not (choices.liger and foreign.values.get("liger")):
        return question, foreign
    try:
        liger.check(question.model, choices)
    except NotModelled as error:
        fused = "fused_linear_cross_entropy" in choices.liger_kernels
        plain = replace(choices, liger=False, loss="chunked" if fused else choices.loss)
        text = f"plain code, which keeps no less, so the figure is an upper bound: {error}"
        note = Note(key="liger", how="assumed", text=text)
        return question.having(plain), replace(foreign, notes=(*foreign.notes, note))
    return question, foreign


def in_model_words(question: Question, foreign: Foreign) -> Question:
    """The question with the file's targets as the model calls them."""
    choices = question.choices
    if choices.lora_targets != foreign.values.get("lora_targets"):
        return question
    return question.having(replace(choices, lora_targets=targets.in_words_of(question.model, choices.lora_targets)))


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
