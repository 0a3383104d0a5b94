"""The slow questions that workers ask: look at this machine, read a model or data, judge, recommend. UI-free.

Each returns a finished frozen snapshot and never raises: what went wrong is one line in `error`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import InvalidInput, TuneplanError
from planner.records import Advice, CheckReport, Plan
from planner.settings import choices_from
from planner.spec import HardwareProfile, ModelSpec
from planner.tui import figures
from planner.tui.fields import BY_KEY
from planner.tui.state import WizardState, as_field, change

if TYPE_CHECKING:
    from planner.dataset import DatasetProfile

NEEDS_BOTH = "choose hardware and a model first"


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareFound:
    """This machine's own device."""

    profile: HardwareProfile | None = None
    title: str = ""
    used_by_others_bytes: int = 0
    note: str = ""
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFound:
    """A model read from the catalogue, a folder or the hub; `final` is False for a mere preview."""

    name: str
    model: ModelSpec | None = None
    final: bool = False
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataFound:
    """A data set that was measured; `final` is False for a mere preview."""

    path: str
    dataset: DatasetProfile | None = None
    final: bool = False
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The current configuration judged."""

    report: CheckReport | None = None
    whole_run: str | None = None
    """How long the whole run takes, where that can be said."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """Tiers and advice for one device, model and data set."""

    context: tuple[str, str, str] = ("", "", "")
    tiers: tuple[CheckReport, ...] = ()
    recommended: str | None = None
    """Name of the recommended tier."""
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    """Defaults that were taken, what the data says."""
    error: str | None = None


def error_line(error: BaseException) -> str:
    """Any exception as one clear line; what is not ours is called an internal error."""
    if isinstance(error, TuneplanError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file'}: {error.strerror}"
    return f"internal error, please report it: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def look_at_machine() -> HardwareFound:
    """Finds this machine's device."""
    try:
        from planner import hardware

        found = hardware.detect()
    except Exception as error:
        return HardwareFound(error=error_line(error))
    return HardwareFound(
        profile=found.profile,
        title=found.title,
        used_by_others_bytes=found.used_by_others_bytes,
        note=found.note or "",
    )


def read_model(name: str, *, final: bool) -> ModelFound:
    """Reads a catalogue name, hub id, config.json or folder."""
    try:
        from planner.sources import load_model

        return ModelFound(name=name, model=load_model(expand(name)), final=final)
    except Exception as error:
        return ModelFound(name=name, final=final, error=error_line(error))


def read_data(path: str, state: WizardState, *, final: bool) -> DataFound:
    """Measures a data set; exact where the model's own tokenizer is at hand."""
    try:
        from planner import dataset

        folder = expand(state.model_name) if state.model_name else ""
        found = dataset.profile(
            expand(path),
            format=state.data.format,
            columns=state.data.columns,
            tokenizer=folder if folder and Path(folder).is_dir() else None,
            vocab_size=state.model.vocab_size if state.model else None,
            max_examples=state.data.max_examples,
        )
    except Exception as error:
        return DataFound(path=path, final=final, error=error_line(error))
    return DataFound(path=path, dataset=found, final=final)


def expand(text: str) -> str:
    """A typed path with `~` and variables filled in; names pass unchanged."""
    return os.path.expandvars(os.path.expanduser(text.strip()))


def evaluate(state: WizardState) -> Evaluation:
    """Judges the current configuration."""
    if state.hardware is None or state.model is None:
        return Evaluation(error=NEEDS_BOTH)
    try:
        from planner.check import check

        report = check(
            state.model,
            state.hardware,
            state.choices,
            budget_bytes=state.budget_bytes,
            tokens_per_epoch=state.tokens_per_epoch,
            lengths=state.lengths,
            fixed=state.edited,
        )
    except Exception as error:
        return Evaluation(error=error_line(error))
    numbers = state.hyperparameters
    return Evaluation(report=report, whole_run=figures.total_time(report, numbers.epochs, numbers.max_steps))


SHAPE = {
    "batch_size",
    "gradient_accumulation_steps",
    "effective_batch_size",
    "gradient_checkpointing",
    "checkpoint_layers",
}
"""Fields that tiers differ in, whatever the person set; everything else that was set is kept."""


def recommend(state: WizardState) -> Recommendation:
    """Tiers and advice at the current effective batch, with everything kept that the person set besides the shape."""
    if state.hardware is None or state.model is None:
        return Recommendation(error=NEEDS_BOTH)
    from planner import search

    fixed = state.edited - SHAPE
    effective = state.choices.effective_batch_size if state.edited & SHAPE else None
    try:
        found = search.recommend(
            state.model,
            state.hardware,
            choices=state.choices,
            fixed=fixed,
            effective_batch_size=effective,
            budget_bytes=state.budget_bytes,
            data=state.dataset,
            validation_split=state.data.validation_split,
        )
    except Exception as error:
        return Recommendation(context=state.context, error=error_line(error))
    return Recommendation(
        context=state.context,
        tiers=tuple(found.options),
        recommended=found.recommended.tier,
        advice=tuple(found.advice),
        notes=tuple(found.notes),
    )


def adopt(state: WizardState, found: Recommendation) -> WizardState:
    """Takes the recommended tier and the advice over, once per device, model and data; keeps what the person set."""
    if found.context != state.context or state.adopted == state.context or not found.tiers:
        return state
    tier = next((t for t in found.tiers if t.tier == found.recommended), found.tiers[0])
    taken = {name: new for name, new in tier.settings.items() if name not in state.edited}
    choices = choices_from({k: v for k, v in taken.items() if v is not None}, base=state.choices)
    if "checkpoint_layers" in taken:
        choices = replace(choices, checkpoint_layers=taken["checkpoint_layers"])
    state = replace(state, choices=choices, adopted=state.context)
    for advice in found.advice:
        state = _take_advice(state, advice)
    return state


def _take_advice(state: WizardState, advice: Advice) -> WizardState:
    """One advised value, unless the person set the field or the shape's tier already decided it."""
    entry = BY_KEY.get(advice.name)
    if entry is None or advice.name in state.edited or advice.name in SHAPE | {"max_length"} or advice.value is None:
        return state
    try:
        new = entry.parse(entry.format(as_field(entry, advice.value)))
        return replace(change(state, advice.name, new), edited=state.edited)
    except InvalidInput:
        return state


def make_plan(state: WizardState, evaluation: Evaluation, recommendation: Recommendation | None) -> Plan:
    """The plan file's content: the choices, what was advised and what is promised."""
    import planner
    from planner.settings import to_settings

    if state.hardware is None or state.model is None or evaluation.report is None:
        raise InvalidInput(evaluation.error or NEEDS_BOTH)
    data = state.data.model_copy(update={"path": absolute(state.data.path) if state.data.path else None})
    return Plan(
        model=absolute(state.model_name) if Path(expand(state.model_name)).exists() else state.model_name,
        model_config_inline=dict(state.model.config),
        gpu=state.hardware.name,
        settings=to_settings(state.choices),
        hyperparameters=state.hyperparameters,
        advice=list(recommendation.advice) if recommendation else [],
        data=data,
        predicted=evaluation.report.memory,
        predicted_speed=evaluation.report.speed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tuneplan_version=planner.__version__,
    )


def absolute(text: str) -> str:
    """A typed path as the trainer needs it, wherever that is started."""
    return str(Path(expand(text)).absolute())


def run_folder(state: WizardState, parent: Path, now: datetime | None = None) -> Path:
    """A folder for one run: model, data and time in its name."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    model = Path(state.model_name.rstrip("/")).name or "model"
    data = Path(state.data.path).stem if state.data.path else "data"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-{data}-{stamp}")
    return parent / name
