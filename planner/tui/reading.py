"""The slow questions about what is chosen: look at this machine, read a model, measure data. UI-free.

Each returns a finished frozen snapshot and never raises: what went wrong is one line in `error`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planner.contract.errors import TuneplanError
from planner.contract.run_settings import DataSettings
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.handover.places import expand, loadable, tokenizer_folder
from planner.models.order import model_order
from planner.tui.samples import SampleText, first_samples
from planner.tui.state import WizardState
from planner.tui.work import error_line, learned

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

AT_ONCE = 8
"""Models whose answers are told together."""


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
    samples: tuple[SampleText, ...] = ()
    """Its first examples, as the model will see them."""


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

        found = learned(lambda: load_model(expand(name))) if final else load_model(expand(name))
        return ModelFound(name=name, model=found, final=final)
    except Exception as error:
        return ModelFound(name=name, final=final, error=error_line(error))


def fits(hardware: HardwareProfile, budget_bytes: int) -> Iterator[dict[str, str]]:
    """What of each model of the catalogue fits, a few at a time, in the order of the list."""
    from planner.decide.fits import fit_of
    from planner.models import catalogue
    from planner.models.sources import load_model

    found: dict[str, str] = {}
    for name, hub_id, _ in sorted(catalogue.models(), key=lambda model: model_order(model[0], None)):
        try:
            found[name] = fit_of(load_model(hub_id), hardware, budget_bytes=budget_bytes)
        except Exception as error:  # one model must not hide the others' answers
            error_line(error)
            found[name] = "unknown"
        if len(found) == AT_ONCE:
            yield found
            found = {}
            time.sleep(0.005)  # keys go first
    yield found


PLAINLY: dict[str, Any] = {"format": "auto", "columns": {}, "skip_invalid": False, "validation_path": None}
"""How a file is read of which nothing was said."""


def read_data(path: str, state: WizardState, *, final: bool, changes: Mapping[str, Any] | None = None) -> DataFound:
    """Measures a data set; exact where the model's own tokenizer is at hand. `changes` say how it is to be read."""
    from planner.contract.data.columns import Undecided

    settings = state.data
    if path != settings.path:  # how another file was read says nothing of this one
        settings = settings.model_copy(update=PLAINLY)
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
        ways = tuple(way for way in error.ways if possible(way, state))
        return DataFound(
            path=path, final=final, error=error_line(error), settings=settings, ways=ways, names=error.names
        )
    except Exception as error:
        return DataFound(path=path, final=final, error=error_line(error), settings=settings)
    return DataFound(
        path=path, dataset=found, final=final, settings=settings, model=model, samples=_samples(path, settings, state)
    )


def columns_of(path: str, state: WizardState) -> tuple[tuple[str, ...], bool]:
    """A readable file's columns, by its first row, and whether the chosen model can learn labels as a classifier."""
    from planner.contract.data import files, tables
    from planner.contract.data.account import Account

    try:
        account = Account()
        found = files.find(str(expand(path)), account)
        _, row = next(tables.rows(found.train[0], account))
        heads = possible(("", {"format": "classification"}), state)
    except Exception as error:
        error_line(error)
        return (), False
    return (tuple(str(name) for name in row) if isinstance(row, dict) else ()), heads


def again(path: str, state: WizardState) -> tuple[SampleText, ...]:
    """The first examples of a data set that was taken without a look at it."""
    return _samples(path, state.data, state)


def _samples(path: str, settings: DataSettings, state: WizardState) -> tuple[SampleText, ...]:
    """The first examples; none where they can't be rendered, which the training will say."""
    tokenizer = tokenizer_folder(loadable(state.model_name)) if state.model_name else None
    try:
        read = settings.model_copy(update={"path": str(expand(path))})
        return first_samples(read, tokenizer, all_learned=state.hyperparameters.train_on_prompt)
    except Exception as error:
        error_line(error)
        return ()


def possible(way: tuple[str, Mapping[str, Any]], state: WizardState) -> bool:
    """Whether the chosen model can do what a way of reading the data asks of it: to classify, or to answer."""
    from planner.contract.data.columns import ANSWER

    words, changes = way
    if state.model is None or not state.model_name:
        return True
    heads = state.model.task != "seq2seq" and classifies(state.model_name)  # T5's head is described, but has no program
    if words == ANSWER:
        return state.model.task != "masked" and not heads
    return changes.get("format") != "classification" or heads


def classifies(model_name: str) -> bool:
    """Whether a model with a classification head in place of its own can be planned."""
    from planner.memory.network.blocks.registry import program
    from planner.models.sources import load_model

    try:
        program(load_model(expand(model_name), task="classification"))
    except TuneplanError:
        return False
    return True


def _other_head(state: WizardState, settings: DataSettings) -> ModelSpec | None:
    """The chosen model as a classifier, or no longer as one, where the data asks for that."""
    labels = "classification"
    if not state.model_name or labels not in (settings.format, state.data.format):
        return None
    from planner.models.sources import load_model

    return load_model(expand(state.model_name), task=labels if settings.format == labels else None)
