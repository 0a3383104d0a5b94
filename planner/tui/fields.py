"""What the plan screen lets a person edit: a row for each field that has a label, made of what it is. UI-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from planner.contract.about import AIM, COUNTS, GROUPS, SHAPE, About
from planner.contract.choices import CHOICES
from planner.contract.record import Record
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.decide.advice_sources import SCENARIOS
from planner.decide.question import GOALS
from planner.tui.field import Field, Kind, Where

_KINDS: dict[type, Kind] = {int: "whole", float: "number", bool: "switch", tuple: "names", str: "text"}

EFFECTIVE_BATCH = Field(
    key="effective_batch_size",
    label="Effective batch",
    group=SHAPE,
    where="choices",
    kind="whole",
    low=1,
    help="Batch × accumulation: what the training result depends on. Changing it changes the accumulation.",
    ladder=(*COUNTS, 384, 512, 768, 1024),
)
"""Derived from three choices; stands after the accumulation."""

AIMS = (
    Field(
        key="scenario", label="Scenario", group=AIM, where="aim", kind="choice", options=tuple(SCENARIOS),
        help="The guides' presets of epochs, rate, evaluations and goal; what you set yourself stays.",
    ),
    Field(
        key="goal", label="Goal", group=AIM, where="aim", kind="choice", options=tuple(GOALS), none="scenario's",
        help="Which tier is recommended: the fastest, the balanced or the safest.",
    ),
    Field(
        key="reserve_bytes", label="Reserve in GiB", group=AIM, where="aim", kind="number", low=0, none="usual",
        help="Memory of the device to leave free; the budget is the rest. Usual: what the device's profile says.",
        ladder=(0, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24),
    ),
    Field(
        key="seconds", label="Hours at most", group=AIM, where="aim", kind="number", low=0, open="low", none="any",
        help="Time for the whole run: the fastest tier, then fewer steps or shorter rows are taken until it is kept.",
        ladder=(0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 24, 48, 72),
    ),
)  # fmt: skip
"""Rows of the question itself, fields of the wizard's state."""


def _field(key: str, where: Where, kind: type, about: About) -> Field:
    return Field(
        key=key,
        label=about.label,
        group=about.group,
        where=where,
        kind="choice" if kind is str and about.allowed else _KINDS[kind],
        help=about.more or about.help,
        options=about.allowed,
        ladder=about.steps,
        low=about.low,
        high=about.high,
        open=about.open,
        none=about.none,
    )


def _choices() -> Iterator[Field]:
    for name, (kind, about) in CHOICES.items():
        if about.label:
            yield _field(name, "choices", kind, about)
        if name == "gradient_accumulation_steps":
            yield EFFECTIVE_BATCH


def _settings(record: type[Record], where: Where) -> Iterator[Field]:
    """The fields of a record, their kinds and bounds read from its annotations."""
    for name, annotation in get_type_hints(record, include_extras=True).items():
        if name not in record.model_fields:
            continue
        parts = list(_parts(annotation))
        about = next(part for part in parts if isinstance(part, About))
        if about.label:
            kind = next(part for part in parts if part in _KINDS)
            yield _field(name, where, kind, _bounded(about, parts))


def _parts(annotation: Any) -> Iterator[Any]:
    """What an annotation is made of, innermost type last."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from get_args(annotation)[1:]
        yield from _parts(get_args(annotation)[0])
    elif origin is Literal:
        yield from (About(help="", allowed=get_args(annotation)), str)
    elif origin is tuple:
        yield tuple
    elif get_args(annotation):
        for member in get_args(annotation):
            yield from _parts(member)
    else:
        yield annotation


def _bounded(about: About, parts: Iterable[Any]) -> About:
    """What a field is, with the bounds and words that its annotation holds."""
    for part in parts:
        if isinstance(part, About) and part.allowed:
            about = replace(about, allowed=part.allowed)
        for bound in getattr(part, "metadata", ()):
            for name, side in (("ge", "low"), ("gt", "low"), ("le", "high"), ("lt", "high")):
                if (value := getattr(bound, name, None)) is not None:
                    open_side = side if name in ("gt", "lt") else about.open
                    about = replace(about, **{side: value, "open": open_side})
    return about


_FOUND = (*_settings(DataSettings, "data"), *_settings(Hyperparameters, "hyperparameters"), *_choices(), *AIMS)
FIELDS: tuple[Field, ...] = tuple(sorted(_FOUND, key=lambda field: GROUPS.index(field.group)))
BY_KEY: dict[str, Field] = {field.key: field for field in FIELDS}
