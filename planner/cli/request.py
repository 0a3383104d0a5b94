"""From options to what the planner computes with: model, device, choices, budget, data."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planner.contract import settings
from planner.contract.errors import InvalidInput
from planner.contract.spec import HardwareProfile, ModelSpec, TrainingChoices
from planner.contract.units import format_bytes
from planner.decide.verdict import budget_of
from planner.handover.making import loadable, tokenizer_folder

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

DEFAULT_MODEL = "phi-2"
"""The guides' workload: phi-2 with LoRA r8, alpha 32, dropout 0.05 on q, k, v, dense, fc1, fc2 (all linear layers)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CliRequest:
    """What the user asked for, resolved."""

    model: ModelSpec
    model_name: str
    """As the trainer will load it: hub id or path."""
    hardware: HardwareProfile
    gpu_name: str
    choices: TrainingChoices
    fixed: frozenset[str]
    """Names of the choices that the user gave."""
    budget_bytes: int
    notes: tuple[str, ...]


def resolve(
    *, gpu: str | None, model: str | None, reserve: str | None, values: Mapping[str, Any], task: str | None = None
) -> CliRequest:
    """The request behind the options; every default that was taken is in `notes`. `task` replaces the model's head."""
    from planner.models import recorded, sources

    notes: list[str] = []
    given = {name: value for name, value in values.items() if value is not None and name in settings.BY_NAME}
    choices = settings.choices_from(given)
    _refuse_without_effect(given, choices)
    if model is not None and not model.strip():
        raise InvalidInput("--model is empty; 'plan models' lists all, and the path of a config.json is accepted too")
    if model is None:
        notes.append(f"No --model given: {DEFAULT_MODEL} with {_method_text(choices)} (the training guides' workload).")
    hardware, used, hardware_notes = _device(gpu)
    notes += hardware_notes
    reserve_bytes = None if reserve is None else settings.parse_size(reserve, option="--reserve")
    budget = budget_of(hardware, reserve_bytes=reserve_bytes, used_by_others_bytes=used)
    if budget <= 0:
        raise InvalidInput(
            f"nothing of {hardware.title}'s {format_bytes(hardware.total_bytes)} is left to plan with: "
            f"{format_bytes(used)} held by others, {format_bytes(reserve_bytes or hardware.reserve_bytes)} reserved"
        )
    spec = sources.load_model(model or DEFAULT_MODEL, task=task)
    notes += [*sources.identity_notes(model or DEFAULT_MODEL), *recorded.notes(spec)]
    if "loss" not in given:
        choices = choices.with_usual_loss(spec.task)
    if "optimizer_implementation" not in given:
        fitted, _ = settings.fit_to_hardware(choices, hardware, fixed=given)
        usual = fitted.with_usual_implementation(hardware.kind).optimizer_implementation
        choices = replace(choices, optimizer_implementation=usual)
    return CliRequest(
        model=spec,
        model_name=loadable(model or DEFAULT_MODEL),
        hardware=hardware,
        gpu_name=hardware.name,
        choices=choices,
        fixed=frozenset(given),
        budget_bytes=budget,
        notes=tuple(notes),
    )


def _refuse_without_effect(given: Mapping[str, Any], choices: TrainingChoices) -> None:
    """Options that would be taken and change nothing."""
    if "checkpoint_layers" in given and given.get("gradient_checkpointing") is False:
        raise InvalidInput("--checkpoint-layers contradicts --no-gradient-checkpointing; leave one of them out")
    if "checkpoint_layers" in given and choices.stack == "peft":
        raise InvalidInput(
            f"--checkpoint-layers {choices.checkpoint_layers} is for --stack builtin: the stock Trainer recomputes "
            "every layer or none (--no-gradient-checkpointing)"
        )
    if "quantization" in given and choices.method != "qlora":
        raise InvalidInput(
            f"--quantization {choices.quantization} takes no effect with --method {choices.method}; "
            "use --method qlora, or leave it out"
        )
    if "kbit_preparation" in given and (choices.method != "qlora" or choices.stack != "peft"):
        raise InvalidInput("--kbit-preparation takes no effect but with --method qlora --stack peft; leave it out")
    if "strategy" in given and choices.strategy != "ddp" and choices.num_gpus == 1:
        raise InvalidInput(
            f"--strategy {choices.strategy} divides nothing on one device; add --num-gpus N, or leave it out"
        )


def _method_text(choices: TrainingChoices) -> str:
    if choices.method == "full":
        return "full fine-tuning"
    name = "QLoRA" if choices.method == "qlora" else "LoRA"
    return f"{name} r{choices.lora_r} on {', '.join(choices.lora_targets)}"


def _device(gpu: str | None) -> tuple[HardwareProfile, int, list[str]]:
    """Profile, bytes that others hold now, and what has to be said."""
    from planner.calibration import attach

    if gpu is not None and gpu.strip().lower() != "auto":
        return attach.find(gpu), 0, []
    found = attach.detect()
    notes = []
    if gpu is None:
        notes.append(f"No --gpu given: this machine's {found.title}.")
    if found.used_by_others_bytes:
        notes.append(f"Other processes hold {format_bytes(found.used_by_others_bytes)} of it now.")
    if found.note:
        notes.append(f"{found.note[0].upper()}{found.note[1:].rstrip('.')}.")
    return found.profile, found.used_by_others_bytes, notes


def load_data(
    path: str,
    request: CliRequest,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
) -> DatasetProfile:
    """The data set's profile, counted with the model's tokenizer where one is at hand; long reading is told."""
    from planner.data import dataset

    if not path.strip():
        raise InvalidInput("--data is empty; name a file, or a folder of them")
    return dataset.profile(
        path,
        format=format,
        task=request.model.task,
        columns=columns,
        skip_invalid=skip_invalid,
        progress=_SignOfLife(),
        tokenizer=tokenizer_folder(request.model_name),
        vocab_size=request.model.vocab_size,
    )


class _SignOfLife:
    """A line on stderr every other second while a large data set is read."""

    EVERY_SECONDS = 2.0

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, examples: int, file: str) -> None:
        now = time.monotonic()
        if now - self._said >= self.EVERY_SECONDS:
            self._said = now
            print(f"plan: reading {file}: {examples:,} examples", file=sys.stderr)


def parse_columns(entries: list[str] | None) -> dict[str, str]:
    """`role=name` pairs as a mapping."""
    from planner.contract.data.columns import ROLES

    columns: dict[str, str] = {}
    for entry in entries or []:
        for pair in entry.split(","):
            role, separator, name = pair.partition("=")
            if not separator or role.strip() not in ROLES or not name.strip():
                raise InvalidInput(f"--columns {pair!r} must be role=name with a role of {', '.join(ROLES)}")
            columns[role.strip()] = name.strip()
    return columns
