"""What the part of the device that a plan leaves free is good for, each use held by the exact check."""

from __future__ import annotations

from dataclasses import replace

from planner.contract.errors import TuneplanError
from planner.contract.records import CheckReport
from planner.contract.units import format_bytes
from planner.decide import limits
from planner.decide.question import Question

MUCH = 0.25
"""Share of the budget from which it is worth saying what it is good for."""
ROUND_LENGTH = 1.25
"""A longer length is named where it is at least so much longer."""
RANKS = (256,)
"""One rank is tried: whoever needs another asks for the largest."""


def line(question: Question, chosen: CheckReport) -> str | None:
    """One line on the free part; None where there is little of it."""
    memory = chosen.memory
    free = memory.budget_bytes - memory.device_peak_bytes
    if free < MUCH * memory.budget_bytes:
        return None
    # What is kept for speed gives way to any of these uses.
    settings = replace(chosen.settings, made_again=question.choices.made_again)
    here = replace(question, notes=()).having(settings)
    uses = []
    try:
        found = limits.longest(here) if question.data is None else None  # the data has the length that it has
    except TuneplanError:
        found = None
    if found is not None and int(found.value) >= ROUND_LENGTH * here.choices.max_length:
        uses.append(f"length {int(found.value):,}")
    model = _larger_model(here, chosen, free)
    if model is not None:
        uses.append(model)
    if here.choices.lora_r < RANKS[0]:
        rank = limits.largest_rank(here, RANKS)
        if rank is not None:
            uses.append(f"rank {rank.value}")
    if not uses:
        return f"The other {format_bytes(free)} stay free."
    return f"The other {format_bytes(free)} are good for {', or '.join(uses)} (plan max)."


def _larger_model(here: Question, chosen: CheckReport, free: int) -> str | None:
    """The largest model of the catalogue that may fit, if it does: one try, by the bytes of its weights."""
    weights = limits.WEIGHT_BYTES.get(here.choices.method, 2.0)
    # What is not weights grows about as the root of the model does.
    room = (0.9 * chosen.memory.budget_bytes) / weights
    if here.model.task != "causal" or free <= 0:
        return None
    found = next(limits.largest_models(here, most=1, tries=1, room=room, above=int(1.5 * here.model.parameters)), None)
    return None if found is None else str(found.value)
