"""What the wizard opens with: the state that start values make, or a plan file. UI-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from planner.contract.choices import DEFAULTS
from planner.contract.errors import InvalidInput
from planner.contract.records import Plan
from planner.contract.run_settings import Hyperparameters
from planner.contract.spec import HardwareProfile
from planner.exchange.foreign import Foreign, Note
from planner.tui import reading, state
from planner.tui.fields import BY_KEY
from planner.tui.state import WizardState


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """Start values; what is given is chosen already and counts as set by the person."""

    gpu: str | HardwareProfile | None = None
    model: str | None = None
    data: str | Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Training choices by name."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    reserve_bytes: int | None = None
    effective_batch_size: int | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    """How the data is read: fields of `DataSettings`."""
    aim: Mapping[str, Any] = field(default_factory=dict)
    """goal, tier, scenario, as the question has them; seconds, the time that the whole run may take."""
    plan: Plan | None = None
    """A plan file: what it says goes before everything above but `gpu` and `data`."""
    foreign: Foreign | None = None
    """Another trainer's file: what it says counts as set; `gpu`, `model` and `data` are named beside it."""


def opened(given: Opening) -> WizardState:
    """The first state. Raises `TuneplanError` for a start value that is wrong."""
    if given.plan is not None:
        return _planned(given, given.plan)
    if given.foreign is not None:
        bare = WizardState(reserve_bytes=given.reserve_bytes)
        start = bare if given.gpu is None else state.with_hardware(bare, _device(given.gpu))
        start, _ = imported(start, given.foreign, given.model)
        return start if given.data is None else _with_data(start, str(given.data), given.reading)
    start = state.preset(given.settings, given.hyperparameters, given.reserve_bytes)
    aim = {name: value for name, value in given.aim.items() if value is not None}
    own = {name for name in BY_KEY if name in aim and aim[name] != getattr(start, name)}
    own |= {state.RESERVE} if given.reserve_bytes is not None else set()
    start = replace(start, **aim, edited=start.edited | own)
    if given.gpu is not None:
        start = state.with_hardware(start, _device(given.gpu))
    if given.model is not None:
        start = _with_model(start, given.model)
    if given.effective_batch_size is not None:
        start = state.change(start, state.BATCH, given.effective_batch_size)
    changes = dict(given.reading)
    if (share := changes.pop("validation_split", None)) is not None:
        start = state.change(start, "validation_split", share)
    return start if given.data is None else _with_data(start, str(given.data), changes)


def _planned(given: Opening, plan: Plan) -> WizardState:
    """The state in which this plan was made: what it says against the advice counts as set by the person."""
    advised = {advice.name: advice.value for advice in plan.advice}
    plain = Hyperparameters()
    edited = {
        name
        for name in Hyperparameters.model_fields
        if getattr(plan.hyperparameters, name) not in (getattr(plain, name), advised.get(name))
    }
    edited |= {
        name
        for name in BY_KEY
        if hasattr(DEFAULTS, name) and getattr(plan.settings, name) not in (getattr(DEFAULTS, name), advised.get(name))
    }
    start = WizardState(
        choices=plan.settings, hyperparameters=plan.hyperparameters, data=plan.data, edited=frozenset(edited)
    )
    start = replace(start, hardware=_device(given.gpu or plan.gpu))
    start = _with_model(start, plan.model)
    path = str(given.data) if given.data is not None else plan.data.path
    if path:
        try:
            start = _with_data(start, path, {})
        except InvalidInput:
            if given.data is not None:
                raise
            # The plan is looked at on another machine: it stands without its data, which is asked for.
            start = state.with_dataset(start, None)
    return replace(start, choices=plan.settings, adopted=start.context)


def imported(start: WizardState, foreign: Foreign, model: str | None = None) -> tuple[WizardState, Foreign]:
    """The state with all that another trainer's file says, and the file with notes on what was taken otherwise.

    `model`: where the file names none. Raises `TuneplanError` for what can't be.
    """
    from planner.exchange import here

    name = model or foreign.model or start.model_name
    if not name:
        raise InvalidInput(f"{foreign.where}: names no model; choose one first")
    if (original := here.mirrored(name)) is not None:
        said = Note(key="model", how="assumed", text=f"{original}, which {name} republishes")
        foreign, name = replace(foreign, notes=(*foreign.notes, said)), original
    if foreign.several is not None:
        text = f"1 device: {foreign.several} divides the run over several, and how many isn't in the file"
        foreign = replace(foreign, notes=(*foreign.notes, Note(key="num_gpus", how="assumed", text=text)))
    values = dict(foreign.values)
    if values.get("gradient_checkpointing") is False:
        values["checkpoint_reentrant"] = None
    said_there = state.preset(values, foreign.hyperparameters, start.reserve_bytes)
    new = replace(
        start,
        choices=said_there.choices,
        hyperparameters=said_there.hyperparameters,
        edited=said_there.edited,
        effective_target=None,
        adopted=None,
    )
    if new.hardware is not None:
        new = state.with_hardware(new, new.hardware)
    new = _with_model(new, name)
    if (question := new.question) is not None:
        question, foreign = here.without_unmodelled_kernels(here.in_model_words(question, foreign), foreign)
        new = replace(new, choices=question.choices)
    return new, foreign


def _device(gpu: str | HardwareProfile) -> HardwareProfile:
    from planner.calibration import attach

    return attach.find(gpu) if isinstance(gpu, str) else gpu


def _with_model(start: WizardState, name: str) -> WizardState:
    found = reading.read_model(name, final=True)
    if found.model is None:
        raise InvalidInput(found.error or f"{name}: not a model")
    return state.with_model(start, found.model, name)


def _with_data(start: WizardState, path: str, changes: Mapping[str, Any]) -> WizardState:
    measured = reading.read_data(path, start, final=True, changes=changes)
    if measured.dataset is None:
        raise InvalidInput(measured.error or f"{path}: not a data set")
    return state.with_dataset(start, measured.dataset, measured.settings, measured.model)
