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
    """goal, tier, scenario, as the question has them."""
    plan: Plan | None = None
    """A plan file: what it says goes before everything above but `gpu` and `data`."""


def opened(given: Opening) -> WizardState:
    """The first state. Raises `TuneplanError` for a start value that is wrong."""
    if given.plan is not None:
        return _planned(given, given.plan)
    start = replace(
        state.preset(given.settings, given.hyperparameters, given.reserve_bytes),
        **{name: value for name, value in given.aim.items() if value is not None},
    )
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
