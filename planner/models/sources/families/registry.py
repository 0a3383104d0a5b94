"""Finds an architecture's builder, and what works out keys of its own, by the names in its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from planner.contract.architectures import of, supported
from planner.contract.errors import NotModelled
from planner.contract.shown import shown
from planner.contract.spec import ModelSpec
from planner.models.sources.reading import ConfigReading
from planner.models.sources.schema import Config

Builder = Callable[[ConfigReading, str], ModelSpec]
Deriver = Callable[[Config, Mapping[str, object]], None]
"""Gets the completed config, into which it writes, and the raw one."""


def builder(model_type: str, origin: str) -> Builder:
    """The builder of a model type; an unknown one is refused by name."""
    name = of(model_type).builder
    if not name:
        raise NotModelled(
            f"{origin}: architecture {shown(model_type)} is not modelled; supported are {', '.join(supported())}"
        )
    found: Builder = _named(name)
    return found


def deriver(model_type: str) -> Deriver | None:
    """What works out keys of the model type's own, where there are some."""
    name = of(model_type).derives
    if not name:
        return None
    found: Deriver = _named(name)
    return found


def _named(name: str) -> Any:
    module, function = name.split(".")
    return getattr(import_module(f"planner.models.sources.families.{module}"), function)
