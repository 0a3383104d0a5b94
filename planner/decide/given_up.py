"""What an answer gives up of what was asked, and how that is said."""

from __future__ import annotations

from collections.abc import Iterable

from planner.contract.choices import CHOICES, TrainingChoices
from planner.contract.record import Record
from planner.contract.records import CheckReport
from planner.decide.question import Question


class Changed(Record):
    """One named choice that had to be given up, or one open one that is not the usual."""

    name: str
    asked: object
    taken: object
    named: bool
    """Whether the person had named it."""


TOLD = (
    *(
        "method",
        "strategy",
        "max_length",
        "precision",
        "stack",
        "optimizer",
        "checkpoint_offload",
        "attention",
        "adapter_dtype",
    ),
    *("batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "checkpoint_layers"),
    "made_again",
)
"""Choices whose change is told first, in this order; after them every other that was named."""
USUAL_OPEN = ("method", "strategy", "stack", "checkpoint_offload", "optimizer")
"""Open choices that are told of where they are not the usual ones."""


def changed(question: Question, asked: TrainingChoices, taken: TrainingChoices) -> list[Changed]:
    """What the answer gave up; open choices only as far as the result or the machine feels them."""
    found = []
    for name in (*TOLD, *sorted((question.fixed & CHOICES.keys()) - set(TOLD))):
        before, after, named = getattr(asked, name), getattr(taken, name), name in question.fixed
        if before != after and (named or name in USUAL_OPEN):
            found.append(Changed(name=name, asked=before, taken=after, named=named))
    return found


def notes(given_up: list[Changed]) -> list[str]:
    """What was changed, in one sentence; nothing where nothing was."""
    if not given_up:
        return []
    opening = "Does not fit as asked:" if any(item.named for item in given_up) else "Fits only with"
    return [f"{opening} {_words(given_up)}."]


def _words(given_up: Iterable[Changed]) -> str:
    return ", ".join(
        f"{item.name.replace('_', ' ')} {_word(item.taken)} instead of {_word(item.asked)}"
        + (" as you asked" if item.named else "")
        for item in given_up
    )


def of_single_tiers(
    question: Question, asked: TrainingChoices, reports: Iterable[CheckReport], given_up: list[Changed]
) -> list[str]:
    """What a tier gives up beside what the recommended one does."""
    told = {item.name for item in given_up}
    said = []
    for report in reports:
        items = [item for item in changed(question, asked, report.settings) if item.named and item.name not in told]
        said += [f"Tier {report.tier}: {_words(items)}."] if items else []
    return said


def _word(value: object) -> str:
    return "all layers" if value is None else ("on" if value else "off") if isinstance(value, bool) else str(value)
