"""The wizard's state and every change of it: pure functions from one frozen snapshot to the next. UI-free.

What is slow (judging a configuration, searching tiers, reading a data set) is a function here too, which workers call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.files import expanded
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.units import GIB
from planner.contract.words import shown
from planner.tui.field import Field, next_divisor, next_layers
from planner.tui.fields import BY_KEY, FIELDS
from planner.tui.visible import hidden_rows

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile
    from planner.data.use import DataUse
    from planner.decide.question import Question

BATCH, RESERVE = "effective_batch_size", "reserve_bytes"
SCALE = {RESERVE: GIB, "seconds": 3600}
"""What a row's unit is in what is held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WizardState:
    """Everything a person has chosen so far."""

    hardware: HardwareProfile | None = None
    this_machine: str | None = None
    """Name of this machine's own profile, once it was looked at."""
    used_by_others_bytes: int = 0
    """Device bytes that other processes hold; counts only while `hardware` is this machine's."""
    note: str = ""
    """What the look at this machine found worth saying."""
    reserve_bytes: int | None = None
    """Device bytes to leave free; None is the profile's own reserve."""
    model: ModelSpec | None = None
    model_name: str = ""
    dataset: DatasetProfile | None = None
    choices: TrainingChoices = field(default_factory=TrainingChoices)
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    data: DataSettings = field(default_factory=DataSettings)
    edited: frozenset[str] = frozenset()
    """Fields that the person set; neither a tier nor advice overwrites them unasked."""
    effective_target: int | None = None
    """Effective batch that a change of the batch size keeps as well as it divides; None is the present one."""
    scenario: str = "standard"
    goal: str | None = None
    seconds: float | None = None
    """Time that the whole run may take."""
    tier: str | None = None
    """What was asked for on the command line; the search keeps to it."""
    adopted: tuple[str, str, str] | None = None
    """Device, model and data for which the recommended tier and the advice were taken over."""

    def __post_init__(self) -> None:
        # No row of the plan: it follows from device, stack, optimizer and precision, whichever of them changes.
        if self.hardware is not None and "optimizer_implementation" not in self.edited:
            usual = self.choices.with_usual_implementation(self.hardware.kind)
            object.__setattr__(self, "choices", usual)

    @property
    def summary(self) -> str:
        """The choices so far in one short line."""
        parts = [self.hardware.name if self.hardware else "", self.short_model_name]
        parts.append(Path(self.data.path).name if self.data.path else "")
        return " · ".join(part for part in parts if part)

    @property
    def short_model_name(self) -> str:
        """The model's name without its folder or owner."""
        return self.model_name.rstrip("/").rsplit("/", 1)[-1]

    @property
    def budget_bytes(self) -> int:
        """Device bytes that a run may use."""
        from planner.decide.verdict import budget_of

        if self.hardware is None:
            return 0
        others = self.used_by_others_bytes if self.hardware.name == self.this_machine else 0
        return budget_of(self.hardware, reserve_bytes=self.reserve_bytes, used_by_others_bytes=others)

    @property
    def context(self) -> tuple[str, str, str]:
        """Device, model and data, by name."""
        return (self.hardware.name if self.hardware else "", self.model_name, self.data.path or "")

    @property
    def data_use(self) -> DataUse | None:
        """The data as a run uses it, with the advised split where the person set none; None without data."""
        if self.dataset is None:
            return None
        from planner.data.use import DataUse
        from planner.decide.advice import validation_share

        reading = self.data
        if "validation_split" not in self.edited:
            reading = reading.model_copy(update={"validation_split": validation_share(self.dataset)})
        numbers = self.hyperparameters
        return DataUse(
            profile=self.dataset, settings=reading, seed=numbers.seed, group_by_length=numbers.group_by_length
        )

    @property
    def question(self) -> Question | None:
        """What these choices ask of the planner; None until device and model are chosen."""
        if self.hardware is None or self.model is None:
            return None
        from planner.decide.question import Question

        return Question(
            model=self.model,
            model_name=self.model_name,
            hardware=self.hardware,
            choices=self.choices,
            fixed=self.edited,
            budget=self.budget_bytes,
            data=self.data_use,
            scenario=self.scenario,
            goal=self.goal,
            tier=self.tier,
        )


def preset(settings: Mapping[str, Any], hyperparameters: Mapping[str, Any], reserve_bytes: int | None) -> WizardState:
    """The state at the start; every given value counts as set by the person."""
    from planner.contract.settings import choices_from

    choices = choices_from(settings)
    try:
        numbers = Hyperparameters(**hyperparameters)
    except ValueError as error:
        raise InvalidInput(f"hyperparameters: {str(error).splitlines()[-1].strip()}") from None
    given = frozenset(name.replace("-", "_") for name, new in settings.items() if new is not None)
    return WizardState(
        choices=choices,
        hyperparameters=numbers,
        reserve_bytes=reserve_bytes,
        edited=given | frozenset(hyperparameters),
    )


# --------------------------------------------------------------------------------------------------------------------
# Choosing


def with_hardware(state: WizardState, profile: HardwareProfile) -> WizardState:
    """Another device; the number format follows what it has, unless the person set one."""
    from planner.contract.settings import fit_to_hardware

    if profile.kind != "cuda":  # no other allocator takes these settings
        plain = replace(state.choices, expandable_segments=False, garbage_collection_threshold=None)
        state = replace(state, choices=plain)
    if "precision" in state.edited:
        return replace(state, hardware=profile)
    wanted = replace(state.choices, precision=TrainingChoices().precision)
    choices, _ = fit_to_hardware(wanted, profile)
    return replace(state, hardware=profile, choices=choices)


def with_model(state: WizardState, model: ModelSpec, name: str) -> WizardState:
    """Another model; a length beyond its positions is brought down to them."""
    choices = state.choices
    if 0 < model.max_positions < choices.max_length:
        choices = replace(choices, max_length=model.max_positions)
    if choices.checkpoint_layers is not None:
        choices = replace(choices, checkpoint_layers=min(choices.checkpoint_layers, model.total_layers))
    return replace(state, model=model, model_name=name, choices=choices)


def with_dataset(
    state: WizardState,
    dataset: DatasetProfile | None,
    settings: DataSettings | None = None,
    model: ModelSpec | None = None,
) -> WizardState:
    """Another data set, or none; `settings` are those that it was read with, `model` the one with its head."""
    path = None if dataset is None else dataset.path
    return replace(
        state,
        dataset=dataset,
        model=model or state.model,
        data=(settings or state.data).model_copy(update={"path": path}),
    )


def with_rows_of(settings: DataSettings, rows: DataSettings) -> DataSettings:
    """How a file was read, with the values that the plan's rows have by now."""
    names = [entry.key for entry in FIELDS if entry.where == "data"]
    return settings.model_copy(update={name: getattr(rows, name) for name in names})


def without_validation(state: WizardState) -> WizardState:
    """No file of its own to evaluate on: the one that was named can't be read."""
    data = state.data.model_copy(update={"validation_path": None})
    return replace(state, data=data, edited=state.edited - {"validation_path"})


# --------------------------------------------------------------------------------------------------------------------
# Editing


def visible_fields(state: WizardState) -> tuple[Field, ...]:
    """The rows that mean something under the current choices."""
    task = "" if state.model is None else state.model.task
    out = hidden_rows(state.choices, state.hyperparameters.scheduler, state.data, task)
    return tuple(entry for entry in FIELDS if entry.key not in out)


def value(state: WizardState, key: str) -> Any:
    """The value of a field."""
    entry = BY_KEY[key]
    if key in SCALE:
        held = getattr(state, key)
        return None if held is None else held / SCALE[key]
    sources = {"choices": state.choices, "hyperparameters": state.hyperparameters, "data": state.data, "aim": state}
    return getattr(sources[entry.where], key)


def rows(state: WizardState) -> list[tuple[Field, str, bool]]:
    """Every visible field with its value as text and whether the person set it."""
    return [
        (entry, entry.format(value(state, entry.key)), entry.key in state.edited) for entry in visible_fields(state)
    ]


def change(state: WizardState, key: str, new: Any) -> WizardState:
    """One field set by the person; raises `InvalidInput` for a value that can't be."""
    entry = BY_KEY[key]
    edited = state.edited | {key}
    if key == BATCH:
        each = state.choices.batch_size * state.choices.num_gpus
        if new % each:
            raise InvalidInput(
                f"{entry.label}: {new} is no multiple of the batch size {each}; use {new // each * each or each} or "
                f"{(new // each + 1) * each}, or change the batch size"
            )
        steps = replace(state.choices, gradient_accumulation_steps=new // each)
        return replace(state, edited=edited | {"gradient_accumulation_steps"}, effective_target=None, choices=steps)
    if key == "batch_size" and _accumulates(state):
        target = state.effective_target or state.choices.effective_batch_size
        steps = max(1, round(target / (new * state.choices.num_gpus)))
        choices = replace(state.choices, batch_size=new, gradient_accumulation_steps=steps)
        return replace(state, edited=edited, effective_target=target, choices=choices)
    if key in ("gradient_accumulation_steps", "num_gpus"):
        state = replace(state, effective_target=None)
    if key == "gradient_accumulation_steps":
        edited -= {BATCH}
    if entry.where == "hyperparameters":
        return replace(state, edited=edited, hyperparameters=state.hyperparameters.model_copy(update={key: new}))
    if entry.where == "aim":  # another recommendation is taken over then, as for another device
        new = round(new * SCALE[key]) if key in SCALE and new is not None else new
        numbers = state.hyperparameters
        if key == "seconds" and "max_steps" not in state.edited:
            numbers = numbers.model_copy(update={"max_steps": None})  # what another limit asked for
        return replace(state, edited=edited, adopted=None, hyperparameters=numbers, **{key: new})
    if key == "validation_path" and new is not None:
        new = str(expanded(new))
        if not os.path.exists(new):
            raise InvalidInput(f"{entry.label}: there is no file {shown(new)}")
    if entry.where == "data":
        return replace(state, edited=edited, data=state.data.model_copy(update={key: new}))
    if key == "max_length" and state.model and 0 < state.model.max_positions < new:
        raise InvalidInput(f"{entry.label}: {state.model.id} has {state.model.max_positions} positions, not {new}")
    if key == "checkpoint_layers" and new is not None and state.model and new > state.model.total_layers:
        raise InvalidInput(f"{entry.label}: {state.model.id} has {state.model.total_layers} layers, not {new}")
    return replace(state, edited=edited, choices=replace(state.choices, **{key: new}))


def _accumulates(state: WizardState) -> bool:
    """Whether the accumulation makes up for another micro-batch: the effective batch decides what is learnt."""
    return "gradient_accumulation_steps" not in state.edited or BATCH in state.edited


def type_text(state: WizardState, key: str, text: str) -> WizardState:
    """One field as typed."""
    return change(state, key, BY_KEY[key].parse(text))


def step(state: WizardState, key: str, direction: int) -> WizardState:
    """One field moved to the value before (-1) or after (+1); unchanged where there is none."""
    now = value(state, key)
    entry = BY_KEY[key]
    new = entry.neighbour(now, direction)
    if key == BATCH:
        new = _next_multiple(state, direction)
    elif key == "batch_size" and _accumulates(state):
        whole = state.effective_target or state.choices.effective_batch_size
        new = next_divisor(entry, now, direction, whole // state.choices.num_gpus)
    elif key == "max_length" and state.model and state.model.max_positions:
        new = min(new, state.model.max_positions)
    elif key == "checkpoint_layers" and state.model:
        new = next_layers(now, direction, state.model.total_layers)
    return state if new == now else change(state, key, new)


def _next_multiple(state: WizardState, direction: int) -> int:
    ladder = BY_KEY["gradient_accumulation_steps"]
    steps = ladder.neighbour(state.choices.gradient_accumulation_steps, direction)
    return int(steps) * state.choices.batch_size * state.choices.num_gpus


def take_settings(state: WizardState, choices: TrainingChoices) -> WizardState:
    """A tier's settings, all of them; the shape is no longer the person's own."""
    moved = {
        name for name in BY_KEY if hasattr(choices, name) and getattr(choices, name) != getattr(state.choices, name)
    }
    return replace(state, choices=choices, effective_target=None, edited=state.edited - moved - {BATCH})


def take_remedy(state: WizardState, change_: dict[str, Any]) -> WizardState:
    """The change of one remedy; `gpu` means another device."""
    from planner.contract.settings import convert

    values = {name: convert(name, new) for name, new in change_.items() if name != "gpu"}
    choices = replace(state.choices, **values)
    state = replace(state, choices=choices, effective_target=None, edited=state.edited | values.keys())
    if "gpu" in change_:
        from planner.devices.profiles import load

        state = with_hardware(state, load(str(change_["gpu"])))
    return state


def only_advised(before: WizardState, after: WizardState) -> bool:
    """Whether nothing changed but what advice sets by itself, which leaves memory alone; no value of the person's."""
    scale = {name: getattr(before.choices, name) for name in ("lora_alpha", "lora_dropout")}
    kept = replace(
        after,
        choices=replace(after.choices, **scale),
        hyperparameters=before.hyperparameters,
        data=after.data.model_copy(update={"validation_split": before.data.validation_split}),
    )
    return kept == before and all(_of_person(before, name) == _of_person(after, name) for name in after.edited)


def _of_person(state: WizardState, name: str) -> object:
    holders = (state.choices, state.hyperparameters, state.data, state)
    return next((getattr(holder, name) for holder in holders if hasattr(holder, name)), None)


def reset(state: WizardState) -> WizardState:
    """Every editable value as it is before anyone set one; what is no row of the plan stays."""
    from planner.contract.settings import fit_to_hardware

    choices, numbers, data, plain = TrainingChoices(), Hyperparameters(), DataSettings(), WizardState()
    if state.hardware is not None:
        choices, _ = fit_to_hardware(choices, state.hardware)
    if state.model is not None and 0 < state.model.max_positions < choices.max_length:
        choices = replace(choices, max_length=state.model.max_positions)

    def rows_of(where: str) -> list[str]:
        return [entry.key for entry in FIELDS if entry.where == where and entry.key != "effective_batch_size"]

    return replace(
        state,
        edited=frozenset(),
        effective_target=None,
        adopted=None,
        choices=replace(state.choices, **{key: getattr(choices, key) for key in rows_of("choices")}),
        hyperparameters=state.hyperparameters.model_copy(
            update={key: getattr(numbers, key) for key in rows_of("hyperparameters")}
        ),
        data=state.data.model_copy(update={key: getattr(data, key) for key in rows_of("data")}),
        scenario=plain.scenario,
        goal=plain.goal,
        seconds=plain.seconds,
        reserve_bytes=plain.reserve_bytes,
    )


Change = Callable[[WizardState], WizardState]
"""One change of the state; may raise `TuneplanError`."""


def back_to(before: WizardState, now: WizardState) -> WizardState:
    """An earlier state with what has been learnt of the machine and the data since."""
    same_device = before.hardware is not None and now.hardware is not None and before.hardware.name == now.hardware.name
    return replace(
        before,
        hardware=now.hardware if same_device else before.hardware,
        this_machine=now.this_machine,
        used_by_others_bytes=now.used_by_others_bytes,
        note=now.note,
        model=now.model,
        dataset=now.dataset,
    )
