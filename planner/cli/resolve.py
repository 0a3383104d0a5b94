"""From options to the question that the planner answers: model, device, choices, budget, data."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from planner.cli.asked import Aim, Batch, Source, Target
from planner.cli.talk import say
from planner.contract import allocator_conf, settings
from planner.contract.choices import DEFAULTS, TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.spec import HardwareProfile
from planner.contract.units import format_bytes
from planner.decide.question import Question
from planner.decide.verdict import budget_of
from planner.handover.places import loadable, tokenizer_folder

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile
    from planner.data.use import DataUse

DEFAULT_MODEL = "phi-2"
"""The guides' workload: phi-2 with LoRA r8, alpha 32, dropout 0.05 on q, k, v, dense, fc1, fc2 (all linear layers)."""

NO_DATA = Source()


def resolve(target: Target, source: Source = NO_DATA, aim: Batch | None = None) -> Question:
    """The question behind the options; every default that was taken is in its notes."""
    _check_split(source.validation_split)
    question = _without_data(target, task="classification" if source.format == "classification" else None)
    if isinstance(aim, Aim):
        question = replace(question, goal=aim.goal, tier=aim.tier, scenario=aim.scenario)
    if aim is not None:
        question = replace(question, effective_batch_size=aim.effective_batch_size)
    return replace(question, data=_data(source, question))


def _without_data(target: Target, *, task: str | None) -> Question:
    """Model, device, choices and budget. `task` replaces the model's head: labelled data puts a classifier on it."""
    from planner.models import recorded, sources

    notes: list[str] = []
    given, model = {name: value for name, value in target.settings.items() if value is not None}, target.model
    choices = settings.choices_from(given)
    _refuse_without_effect(given, choices)
    if model is not None and not model.strip():
        raise InvalidInput("--model is empty; 'plan models' lists all, and the path of a config.json is accepted too")
    if model is None:
        notes.append(f"No --model given: {DEFAULT_MODEL} with {_method_text(choices)} (the training guides' workload).")
    hardware, used, hardware_notes = _device(target.gpu)
    notes += hardware_notes
    budget = _budget(target.reserve, hardware, used)
    spec = sources.load_model(model or DEFAULT_MODEL, task=task)
    notes += [*sources.identity_notes(model or DEFAULT_MODEL), *recorded.notes(spec)]
    if "loss" not in given:
        choices = choices.with_usual_loss(spec.task)
    question = Question(
        model=spec,
        model_name=loadable(model or DEFAULT_MODEL),
        hardware=hardware,
        choices=choices,
        fixed=frozenset(given),
        budget=budget,
        notes=tuple(notes),
    )
    if hardware.kind == "cuda":
        question = replace(question, notes=(*notes, *allocator_conf.remarks(choices, os.environ)))
    implementation = question.completed().optimizer_implementation
    return question.having(replace(choices, optimizer_implementation=implementation))


def _budget(reserve: str | None, hardware: HardwareProfile, used: int) -> int:
    """Device bytes that the run may use; a device on which nothing is left is refused."""
    reserve_bytes = None if reserve is None else settings.parse_size(reserve, option="--reserve")
    budget = budget_of(hardware, reserve_bytes=reserve_bytes, used_by_others_bytes=used)
    if budget <= 0:
        raise InvalidInput(
            f"nothing of {hardware.title}'s {format_bytes(hardware.total_bytes)} is left to plan with: "
            f"{format_bytes(used)} held by others, {format_bytes(reserve_bytes or hardware.reserve_bytes)} reserved"
        )
    return budget


def _check_split(share: float | None) -> None:
    if share is not None and not 0 <= share < 1:
        raise InvalidInput(f"--validation-split must lie in [0, 1), not {share:g}")


def _refuse_without_effect(given: Mapping[str, object], choices: TrainingChoices) -> None:
    """Options that would be taken and change nothing."""
    if "checkpoint_layers" in given and given.get("gradient_checkpointing") is False:
        raise InvalidInput("--checkpoint-layers contradicts --no-gradient-checkpointing; leave one of them out")
    if "checkpoint_layers" in given and choices.stack == "peft":
        raise InvalidInput(
            f"--checkpoint-layers {choices.checkpoint_layers} is for --stack builtin: the stock Trainer recomputes "
            "every layer or none (--no-gradient-checkpointing)"
        )
    if choices.made_again != DEFAULTS.made_again and choices.stack == "peft":
        raise InvalidInput(
            "--made-again is for --stack builtin: the stock Trainer keeps all values of a layer, or none "
            "(--gradient-checkpointing); leave it out"
        )
    if "quantization" in given and choices.method != "qlora":
        raise InvalidInput(
            f"--quantization {choices.quantization} takes no effect with --method {choices.method}; "
            "use --method qlora, or leave it out"
        )
    if "kbit_preparation" in given and (choices.method != "qlora" or choices.stack != "peft"):
        raise InvalidInput("--kbit-preparation takes no effect but with --method qlora --stack peft; leave it out")
    if choices.liger_kernels != DEFAULTS.liger_kernels and not choices.liger:
        raise InvalidInput("--liger-kernels takes no effect without --liger; add it, or leave it out")
    if "strategy" in given and choices.strategy != "ddp" and choices.num_gpus == 1:
        raise InvalidInput(
            f"--strategy {choices.strategy} divides nothing on one device; add --num-gpus N, or leave it out"
        )


def _method_text(choices: TrainingChoices) -> str:
    if choices.method == "full":
        return "full fine-tuning"
    name = "QLoRA" if choices.method == "qlora" else "LoRA"
    return f"{name} r{choices.lora_r} on {', '.join(choices.lora_targets)}"


def _sizes_note(gpu: str, profile: HardwareProfile) -> list[str]:
    """Which memory was taken where a chip comes with several and the name says none."""
    from planner.devices import profiles

    words = "-".join(gpu.lower().replace("apple", " ").replace("nvidia", " ").split())
    sizes = [name for name in profiles.names() if re.fullmatch(re.escape(words) + r"-\d+gb", name)]
    others = sorted((name for name in sizes if name != profile.name), key=lambda name: int(name.split("-")[-1][:-2]))
    if not others or profile.name not in sizes:
        return []
    return [f"--gpu {gpu.strip()} is taken as {profile.name}; there are also {', '.join(others)}."]


def _device(gpu: str | None) -> tuple[HardwareProfile, int, list[str]]:
    """Profile, bytes that others hold now, and what has to be said."""
    from planner.calibration import attach

    if gpu is not None and gpu.strip().lower() != "auto":
        profile = attach.find(gpu)
        return profile, 0, _sizes_note(gpu, profile)
    found = attach.detect()
    notes = []
    if gpu is None:
        notes.append(f"No --gpu given: this machine's {found.title}.")
    if found.used_by_others_bytes:
        notes.append(f"Other processes hold {format_bytes(found.used_by_others_bytes)} of it now.")
    if found.note:
        notes.append(f"{found.note[0].upper()}{found.note[1:].rstrip('.')}.")
    return found.profile, found.used_by_others_bytes, notes


def _data(source: Source, question: Question) -> DataUse | None:
    """The measured data; None where none was named."""
    columns = parse_columns(source.columns)
    if source.data is None:
        if columns or source.format != "auto" or source.skip_invalid:
            raise InvalidInput("--format, --columns and --skip-invalid describe --data, which is not given")
        return None
    from planner.contract.run_settings import DataSettings
    from planner.data.use import DataUse
    from planner.decide.advice import validation_share

    profile = _measured(source, question, columns)
    split = validation_share(profile) if source.validation_split is None else source.validation_split
    reading = DataSettings(
        path=source.data,
        format=source.format,  # type: ignore[arg-type]
        columns=columns,
        validation_split=split,
        skip_invalid=source.skip_invalid,
    )
    return DataUse(profile=profile, settings=reading)


def _measured(source: Source, question: Question, columns: Mapping[str, str]) -> DatasetProfile:
    """The data set's profile, counted with the model's tokenizer where one is at hand; long reading is told."""
    from planner.data import dataset

    path, model = source.data or "", question.model
    if not path.strip():
        raise InvalidInput("--data is empty; name a file, or a folder of them")
    return dataset.profile(
        path,
        format=source.format,
        task=model.task,
        columns=columns,
        skip_invalid=source.skip_invalid,
        progress=_SignOfLife(),
        tokenizer=tokenizer_folder(question.model_name),
        vocab_size=model.vocab_size,
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
            say(f"reading {file}: {examples:,} examples")


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
