"""The slow questions that workers ask of a plan: judge it, find tiers and remedies, look around it. UI-free.

Each returns a finished frozen snapshot and never raises: what went wrong is one line in `error`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from planner.contract import edge
from planner.contract.choices import DEFAULTS, TrainingChoices
from planner.contract.errors import Infeasible, InvalidInput, TuneplanError
from planner.contract.records import Advice, CheckReport, Plan
from planner.contract.run_settings import Hyperparameters
from planner.contract.words import one_line
from planner.tui import around, figures
from planner.tui.around import Surroundings
from planner.tui.state import WizardState

if TYPE_CHECKING:
    from planner.decide.learning import Teacher
    from planner.decide.question import Question
    from planner.decide.search import Recommendation

Answer = TypeVar("Answer")
NEEDS_BOTH = "choose hardware and a model first"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The current configuration judged."""

    report: CheckReport | None = None
    whole_run: str | None = None
    """How long the whole run takes, where that can be said."""
    error: str | None = None
    complete: bool = True
    """Whether its remedies have been looked for."""


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


def learned(work: Callable[[], Answer]) -> Answer:
    """What `work` returns; a model without a written program is recorded on the way, where that is possible."""
    from planner.models.recorded import Unlearned

    try:
        return work()
    except Unlearned:
        from planner.handover.recorder import installed

        if not installed():
            raise
    from planner.decide import learning

    with _TEACHING:
        if _TIRED:
            _TIRED.pop().cancel()
        try:
            return learning.learned(work, lambda message: None, allowed=installed, teacher=_teacher)
        finally:
            tired = threading.Timer(KEPT_SECONDS, _let_go)
            tired.daemon = True
            tired.start()
            _TIRED.append(tired)


KEPT_SECONDS = 60.0
"""How long the children that trace are kept for a next question: each takes seconds to start, and memory."""
_TEACHING = threading.RLock()
_TIRED: list[threading.Timer] = []


@cache
def _teacher() -> Teacher:
    """One for all questions."""
    import atexit

    from planner.decide import learning

    made = learning.Teacher(lambda message: None)
    atexit.register(made.close)
    return made


def _let_go() -> None:
    with _TEACHING:
        _teacher().close()


def evaluate(state: WizardState) -> Evaluation:
    """Judges the current configuration, without remedies; `Superseded` where a newer question ended it (`WANTED`)."""
    question = state.question
    if question is None:
        return Evaluation(error=NEEDS_BOTH)
    try:
        from planner.decide.check import check

        report = learned(lambda: check(question, with_remedies=False, meanwhile=_still_wanted))
    except Superseded:
        raise
    except Exception as error:
        return Evaluation(error=error_line(error))
    numbers = state.hyperparameters
    whole = figures.total_time(report, numbers.epochs, numbers.max_steps)
    return Evaluation(report=report, whole_run=whole, complete=report.verdict == "fits")


def with_remedies(state: WizardState, judged: Evaluation) -> Evaluation:
    """The judgement with what would help; the very same one where that can't be said."""
    question = state.question
    if question is None or judged.report is None:
        return replace(judged, complete=True)
    try:
        from planner.decide.check import check

        report = check(question, meanwhile=_still_wanted)
    except Superseded:
        raise
    except Exception as error:
        return replace(judged, complete=True, error=error_line(error))
    return replace(judged, report=report, complete=True)


def surroundings(state: WizardState, judged: Evaluation) -> Surroundings:
    """The step's memory moment by moment, and other batches and lengths."""
    question = state.question
    if question is None or judged.report is None:
        return Surroundings()
    try:
        return around.surroundings(question, judged.report, _still_wanted)
    except Superseded:
        raise
    except Exception as error:
        return Surroundings(error=error_line(error))


SHAPE = {
    "batch_size",
    "gradient_accumulation_steps",
    "effective_batch_size",
    "gradient_checkpointing",
    "checkpoint_layers",
}
"""Fields that tiers differ in, whatever the person set; everything else that was set is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchAsked:
    """What a search is asked for: equal ones have equal answers."""

    context: tuple[str, str, str]
    question: Question
    """Its open choices at their defaults, its effective batch kept where the person set one."""
    seconds: float | None
    """Time that the whole run may take."""
    own_shape: Question | None
    """The same with the person's own batch and checkpointing, where the first answer has to keep them."""


def asked(state: WizardState) -> SearchAsked | None:
    """The search that a state asks for; None until device and model are chosen."""
    question = state.question
    if question is None:
        return None
    from planner.decide import search

    # What an earlier answer chose for another device is open again.
    fresh = {name: getattr(DEFAULTS, name) for name in search.SEARCHED if name not in state.edited}
    question = question.having(replace(question.choices, **fresh))
    shaped, new = bool(state.edited & SHAPE), state.adopted != state.context
    own_batch = state.edited & {"gradient_accumulation_steps", "effective_batch_size"}
    effective = state.choices.effective_batch_size if own_batch or (shaped and not new) else None
    own = replace(question, effective_batch_size=effective) if shaped and new else None
    # The search makes the shape itself: what it is now asks nothing.
    plain = replace(question.choices, **{name: getattr(DEFAULTS, name) for name in _SEARCHED_SHAPE})
    wanted = replace(question.having(plain), fixed=state.edited - SHAPE, effective_batch_size=effective)
    return SearchAsked(context=state.context, question=wanted, seconds=state.seconds, own_shape=own)


_SEARCHED_SHAPE = ("batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "checkpoint_layers")


def recommend(state: WizardState) -> WizardAnswer:
    """Tiers and advice at the current effective batch, with everything kept that the person set besides the shape."""
    wanted = asked(state)
    if wanted is None:
        return WizardAnswer(error=NEEDS_BOTH)
    from planner.report.timing import deadline_lines

    try:
        found = learned(lambda: _searched(wanted))
    except Superseded:
        raise
    except Infeasible as error:
        return _nothing_fits(state, wanted.question, error)
    except Exception as error:
        return WizardAnswer(context=state.context, error=error_line(error))
    start: CheckReport | None = found.recommended
    if wanted.own_shape is not None:
        start = _with_own_shape(wanted.own_shape)
    limits = [line.replace("--max-length", figures.label("max_length")) for line in deadline_lines(found)]
    return WizardAnswer(
        context=state.context,
        tiers=tuple(found.options),
        recommended=found.recommended.tier,
        advice=tuple(found.advice),
        notes=(*limits, *found.notes),
        start=start,
    )


def _searched(wanted: SearchAsked) -> Recommendation:
    from planner.decide import deadline, search

    if wanted.seconds is not None:
        return deadline.recommend_in(wanted.question, wanted.seconds)
    return search.recommend(wanted.question, meanwhile=_still_wanted, with_remedies=False)


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
