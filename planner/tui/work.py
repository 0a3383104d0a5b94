"""The slow questions that workers ask: look at this machine, read a model or data, judge, recommend. UI-free.

Each returns a finished frozen snapshot and never raises: what went wrong is one line in `error`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from planner.contract import edge
from planner.contract.choices import DEFAULTS, TrainingChoices
from planner.contract.errors import Infeasible, InvalidInput, TuneplanError
from planner.contract.records import Advice, CheckReport, Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.words import one_line
from planner.handover.places import expand, loadable, tokenizer_folder
from planner.tui import figures
from planner.tui.state import WizardState

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile
    from planner.decide.question import Question

Answer = TypeVar("Answer")
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
    settings: DataSettings = field(default_factory=DataSettings)
    """How it was read."""
    ways: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Where it was refused: what can be done about it, and the settings for that."""
    names: tuple[str, ...] = ()
    """Its columns, where nobody knows which is what."""
    model: ModelSpec | None = None
    """The model with the head that this data asks for, where it is another than before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The current configuration judged."""

    report: CheckReport | None = None
    whole_run: str | None = None
    """How long the whole run takes, where that can be said."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WizardAnswer:
    """Tiers and advice for one device, model and data set."""

    context: tuple[str, str, str] = ("", "", "")
    tiers: tuple[CheckReport, ...] = ()
    recommended: str | None = None
    """Name of the recommended tier."""
    advice: tuple[Advice, ...] = ()
    notes: tuple[str, ...] = ()
    """Defaults that were taken, what the data says."""
    start: CheckReport | None = None
    """The configuration to begin with: the recommended tier, or the smallest candidate where nothing fits."""
    error: str | None = None


WANTED: ContextVar[Callable[[], bool] | None] = ContextVar("WANTED", default=None)
"""Says whether the question that a worker is at is still wanted; None: it is."""


class Superseded(Exception):
    """A newer question has come: the answer to this one is no longer wanted."""


def _still_wanted() -> None:
    """Ends the question where a newer one has come."""
    wanted = WANTED.get()
    if wanted is not None and not wanted():
        raise Superseded


def error_line(error: BaseException) -> str:
    """Any exception as one clear line in the wizard's words; of what nobody foresaw the traceback is kept."""
    return one_line(figures.in_labels(error.sentence)) if isinstance(error, TuneplanError) else edge.account(error)[0]


def _learned(work: Callable[[], Answer]) -> Answer:
    """What `work` returns; a model without a written program is recorded on the way, where that is possible."""
    from planner.models.recorded import Unlearned

    try:
        return work()
    except Unlearned:
        from planner.handover.recorder import installed

        if not installed():
            raise
    from planner.decide import learning

    return learning.learned(work, lambda message: None, allowed=installed)


def look_at_machine() -> HardwareFound:
    """Finds this machine's device."""
    try:
        from planner.calibration import attach

        found = attach.detect()
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
        from planner.models.sources import load_model

        found = _learned(lambda: load_model(expand(name))) if final else load_model(expand(name))
        return ModelFound(name=name, model=found, final=final)
    except Exception as error:
        return ModelFound(name=name, final=final, error=error_line(error))


def read_data(path: str, state: WizardState, *, final: bool, changes: Mapping[str, Any] | None = None) -> DataFound:
    """Measures a data set; exact where the model's own tokenizer is at hand. `changes` say how it is to be read."""
    from planner.contract.data.columns import Undecided

    settings = state.data
    if path != settings.path:  # how another file was read says nothing of this one
        settings = settings.model_copy(update={"format": "auto", "columns": {}, "skip_invalid": False})
    settings = settings.model_copy(update=dict(changes or {}))
    try:
        from planner.data import dataset

        model = _other_head(state, settings)
        head = model or state.model
        found = dataset.profile(
            expand(path),
            format=settings.format,
            task=head.task if head else "causal",
            columns=settings.columns,
            skip_invalid=settings.skip_invalid,
            validation_path=settings.validation_path,
            tokenizer=tokenizer_folder(loadable(state.model_name)) if state.model_name else None,
            vocab_size=state.model.vocab_size if state.model else None,
            max_examples=settings.max_examples,
        )
    except Undecided as error:
        return DataFound(
            path=path, final=final, error=error_line(error), settings=settings, ways=error.ways, names=error.names
        )
    except Exception as error:
        return DataFound(path=path, final=final, error=error_line(error), settings=settings)
    return DataFound(path=path, dataset=found, final=final, settings=settings, model=model)


def _other_head(state: WizardState, settings: DataSettings) -> ModelSpec | None:
    """The chosen model as a classifier, or no longer as one, where the data asks for that."""
    labels = "classification"
    if not state.model_name or labels not in (settings.format, state.data.format):
        return None
    from planner.models.sources import load_model

    return load_model(expand(state.model_name), task=labels if settings.format == labels else None)


def evaluate(state: WizardState) -> Evaluation:
    """Judges the current configuration; `Superseded` where a newer question ended this one (see `WANTED`)."""
    question = state.question
    if question is None:
        return Evaluation(error=NEEDS_BOTH)
    try:
        from planner.decide.check import check

        report = _learned(lambda: check(question, meanwhile=_still_wanted))
    except Superseded:
        raise
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


def recommend(state: WizardState) -> WizardAnswer:
    """Tiers and advice at the current effective batch, with everything kept that the person set besides the shape."""
    question = state.question
    if question is None:
        return WizardAnswer(error=NEEDS_BOTH)
    from planner.decide import search

    # What an earlier answer chose for another device is open again.
    fresh = {name: getattr(DEFAULTS, name) for name in search.SEARCHED if name not in state.edited}
    question = question.having(replace(question.choices, **fresh))
    shaped, new = bool(state.edited & SHAPE), state.adopted != state.context
    own_batch = state.edited & {"gradient_accumulation_steps", "effective_batch_size"}
    effective = state.choices.effective_batch_size if own_batch or (shaped and not new) else None
    try:
        asked = replace(question, fixed=state.edited - SHAPE, effective_batch_size=effective)
        found = _learned(lambda: search.recommend(asked))
    except Infeasible as error:
        return _nothing_fits(state, question, error)
    except Exception as error:
        return WizardAnswer(context=state.context, error=error_line(error))
    start: CheckReport | None = found.recommended
    if shaped and new:
        start = _with_own_shape(replace(question, effective_batch_size=effective))
    return WizardAnswer(
        context=state.context,
        tiers=tuple(found.options),
        recommended=found.recommended.tier,
        advice=tuple(found.advice),
        notes=tuple(found.notes),
        start=start,
    )


def _nothing_fits(state: WizardState, question: Question, error: Infeasible) -> WizardAnswer:
    """The least that was tried, and how to learn with it all the same."""
    from planner.decide.advice import advise

    report: CheckReport | None = getattr(error, "report", None)
    advice = advise(question if report is None else question.having(report.settings))
    return WizardAnswer(context=state.context, advice=tuple(advice), start=report, error=error_line(error))


def _with_own_shape(question: Question) -> CheckReport | None:
    """The recommended configuration that keeps the person's own batch and checkpointing; None where none fits."""
    from planner.decide import search

    fixed = question.fixed - {"effective_batch_size"}
    own = {"batch_size", "gradient_accumulation_steps"} <= fixed
    effective = None if own else question.effective_batch_size
    try:
        found = search.recommend(replace(question, fixed=fixed, effective_batch_size=effective))
    except TuneplanError:
        return None
    return None if any(change.named for change in found.changed) else found.recommended


def adopt(state: WizardState, found: WizardAnswer) -> WizardState:
    """Takes the recommended configuration over, once per device, model and data, and the advice each time.

    What the person set stays. Advice changes only what leaves memory alone: how it learns, and the adapters' scale
    and dropout; rank, padding and the like are for the person to take. Where nothing fits the smallest candidate
    stands in, until something does. Returns the very same state when nothing changes.
    """
    if found.context != state.context:
        return state
    choices, adopted = state.choices, state.adopted
    taken: dict[str, Any] = {}
    if adopted != state.context and found.start is not None:
        taken = {
            each.name: getattr(found.start.settings, each.name)
            for each in fields(TrainingChoices)
            if each.name not in state.edited
        }
        choices = replace(choices, **taken)
    if found.tiers:
        adopted = state.context
    advised = {a.name: a.value for a in found.advice if a.name not in state.edited}
    scale = {name: advised[name] for name in ("lora_alpha", "lora_dropout") if name in advised}
    choices = replace(choices, **scale)
    learning = {name: new for name, new in advised.items() if name in Hyperparameters.model_fields}
    numbers = Hyperparameters.model_validate({**state.hyperparameters.model_dump(), **learning})
    data = state.data
    if "validation_split" in advised:
        data = data.model_copy(update={"validation_split": advised["validation_split"]})
    if (choices, numbers, data, adopted) == (state.choices, state.hyperparameters, state.data, state.adopted):
        return state
    target = None if taken else state.effective_target
    return replace(state, choices=choices, hyperparameters=numbers, data=data, adopted=adopted, effective_target=target)


def plan_of(state: WizardState, evaluation: Evaluation) -> Plan:
    """The plan of what was chosen and judged, with the advice for it."""
    from planner.decide.advice import advise
    from planner.decide.planning import make_plan

    report, question = evaluation.report, state.question
    if question is None or report is None:
        raise InvalidInput(evaluation.error or NEEDS_BOTH)
    seconds = None if report.speed is None else report.speed.step_seconds
    advice = advise(question.having(report.settings), step_seconds=seconds)
    return make_plan(question, report, hyperparameters=state.hyperparameters, advice=advice, data=state.data)


NAME_PART = 40
"""Characters of the model's and of the data's name that a run's folder keeps; a folder's name may have 255 bytes."""


def run_folder(state: WizardState, parent: Path, now: datetime | None = None) -> Path:
    """A folder for one run that is not there yet: model, data and time in its name."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    model = Path(state.model_name.rstrip("/")).name or "model"
    data = Path(state.data.path).stem if state.data.path else "data"
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part)[:NAME_PART].strip("-.") for part in (model, data)]
    name = "-".join(part for part in (*parts, stamp) if part)
    taken = [name, *(f"{name}-{number}" for number in range(2, 100))]
    free = (parent / each for each in taken if not (parent / each).exists() and not (parent / f"{each}.yaml").exists())
    return next(free, parent / name)
