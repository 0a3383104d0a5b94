"""Which recording a case asks for, and where it stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.sentence import named
from planner.contract.spec import ModelSpec
from planner.memory.engine.values import PIECE_ROWS, chunk_rows
from planner.models import recorded

if TYPE_CHECKING:
    from planner.memory.recorded.log import Log
    from planner.memory.step.case import Case

PIECES, CHUNKS, UNPADDED = 1, 2, 4
"""Bits of a regime: a lean function takes several pieces, the chunked loss several chunks; a recurrence's last piece is
a whole one, so that nothing is padded and cut off again."""
WITHOUT_EFFECT = (
    *("batch_size", "gradient_accumulation_steps", "max_length", "checkpoint_layers", "lora_alpha", "max_grad_norm"),
    *("optimizer", "optimizer_implementation", "eval_batch_size", "expandable_segments", "num_gpus", "strategy"),
    *("liger", "liger_kernels", "garbage_collection_threshold"),
)
"""Choices that leave forward and backward as they are, or are refused below."""
SPELT = ("method", "precision", "attention", "loss", "stack", "gradient_checkpointing")
"""Choices that are named in every key; others only where they aren't the default, so that a choice which a later
release adds leaves recordings in their place."""


def is_recorded(spec: ModelSpec) -> bool:
    """Whether the model was learned by tracing."""
    return "recorded" in spec.config


def recurrent_piece(spec: ModelSpec) -> int:
    """Tokens that a model's recurrence takes at a time; 0 where it has none."""
    return int(spec.config["recorded"]["recurrent_piece"]) if is_recorded(spec) else 0


def regimes(
    spec: ModelSpec, choices: TrainingChoices, batch: npt.NDArray[np.int64], length: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Which of a model's programs runs at each shape; 0 everywhere where one covers all."""
    if not is_recorded(spec):
        return 0 * batch * length
    tokens = batch * length
    pieces = (tokens > PIECE_ROWS) & (choices.stack == "builtin")
    chunks = (tokens - batch > chunk_rows(spec.vocab_size)) & (choices.loss == "chunked")
    recurrent = recurrent_piece(spec)
    found: npt.NDArray[np.int64] = pieces * PIECES + chunks * CHUNKS
    return found + (length % recurrent == 0) * UNPADDED if recurrent > 1 else found


def wanted(case: Case) -> dict[str, object]:
    """What tells one program of a model from another, as JSON values."""
    found = _circumstances(case)
    found["choices"] = _choices(case)
    return found


def _choices(case: Case) -> dict[str, object]:
    choices = {
        field.name: getattr(case.choices, field.name)
        for field in fields(case.choices)
        if field.name not in WITHOUT_EFFECT
    }
    for name in ("lora_targets", "modules_to_save", "made_again"):
        choices[name] = list(choices[name])
    choices["lora_dropout"] = 0.05 if choices["lora_dropout"] else 0.0
    if choices["method"] == "full":
        for name in ("lora_r", "lora_targets", "lora_dropout", "lora_variant", "modules_to_save", "adapter_dtype"):
            choices.pop(name)
    if choices["method"] != "qlora":
        choices.pop("quantization"), choices.pop("kbit_preparation")
    usual = _usual()
    return {name: value for name, value in choices.items() if name in SPELT or value != usual[name]}


def _usual() -> dict[str, object]:
    """The defaults of all choices that have an effect, as JSON values."""
    plain = TrainingChoices()
    found = {field.name: getattr(plain, field.name) for field in fields(plain) if field.name not in WITHOUT_EFFECT}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def assumed(asked: Mapping[str, Any]) -> dict[str, object]:
    """What a key leaves unsaid: kept with a program, which ends where a later release has other defaults."""
    return {name: value for name, value in _usual().items() if name not in asked["choices"]}


def _stale(content: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    now = assumed(asked)
    return any(now.get(name, value) != value for name, value in content.get("assumed", {}).items())


def _circumstances(case: Case) -> dict[str, object]:
    if case.choices.liger:
        raise NotModelled(named("liger"), f" for {case.spec.architecture}, which is recorded with its own code")
    if case.choices.num_gpus > 1:
        raise NotModelled(
            named("num_gpus"), f" {case.choices.num_gpus} for {case.spec.architecture}, which is recorded on one device"
        )
    if case.choices.loss == "chunked" and case.spec.task != "causal":
        raise NotModelled(
            named("loss"),
            f" chunked is made for causal models, not for {case.spec.architecture}; use ",
            named("loss"),
            " full",
        )
    if case.flat:
        raise NotModelled(f"flat rows of {case.spec.architecture}, which is recorded with padding")
    count = case.spec.total_layers
    return {
        "target": case.target,
        "padded": case.padded,
        "windowed": case.windowed,
        "unaligned": case.unaligned,
        "regime": case.regime,
        "single": case.choices.batch_size == 1,
        "evaluating": case.evaluating,
        "checkpointed": "none" if not case.checkpointed else "all" if case.checkpointed == count else "some",
    }


def path_of(config: dict[str, object], asked: dict[str, object]) -> Path:
    """File of a program."""
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
    return recorded.folder(config) / f"{name}.json"


def _of_other_dropout(config: dict[str, object], asked: dict[str, Any]) -> Path | None:
    """An evaluation drops nothing out, so that one program stands for both."""
    if not asked["evaluating"] or asked["choices"]["method"] == "full":
        return None
    choices = dict(asked["choices"])
    if choices.pop("lora_dropout", None) is None:
        choices["lora_dropout"] = 0.0
    return recorded.found_at(path_of(config, {**asked, "choices": choices}))


_LOGS: dict[str, Log] = {}


def log_of(case: Case) -> Log:
    """The program of a case; raises `Unlearned` where there is none, `NotModelled` where there can't be one."""
    asked, config = wanted(case), recorded.plain(case.spec)
    path = path_of(config, asked)
    known = _LOGS.get(str(path))
    if known is not None:
        return known
    place = recorded.found_at(path) or _of_other_dropout(config, asked)
    content = None if place is None else recorded.read(place)
    if place is None or content is None or recorded.outdated(content, place) or _stale(content, asked):
        raise recorded.Unlearned(
            f"{case.spec.id}: no program is recorded for these settings; 'plan learn {case.spec.id}' with the same "
            "settings records it",
            config,
            asked,
        )
    if content.get("schema") == recorded.REFUSED:
        further = "; 'plan trace' gives the figure of one shape" if content.get("traced", True) else ""
        raise NotModelled(f"{case.spec.id}: {content.get('reason')}{further}")
    from planner.memory.recorded.log import Log

    found = _LOGS[str(path)] = Log.read(content, str(path))
    return found
