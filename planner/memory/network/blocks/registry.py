"""Finds an architecture's layer program by the module that its record names; only that module is loaded."""

from __future__ import annotations

from importlib import import_module

from planner.contract.spec import ModelSpec
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import unmodelled


def program(spec: ModelSpec) -> Program:
    """The architecture's program; `NotModelled` where none exists."""
    name = spec.facts.layers
    if not name:
        raise unmodelled(f"memory of architecture {spec.architecture!r}")
    found: Program = import_module(f"planner.memory.network.blocks.{name}").PROGRAM
    if found.finish is None and all(module.path != found.head for module in reversed(spec.modules)):
        raise unmodelled(f"memory of {spec.architecture} with a {spec.task} head")
    return found
