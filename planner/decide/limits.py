"""The question turned round: the longest context, the largest micro-batch, rank or model that fits.

Each limit is searched on the grid and then held by the exact check: what is returned fits, with its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.contract.choices import LARGEST_TOKENS, TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.records import CheckReport
from planner.decide.candidates import Candidates, Space, evaluate, layer_counts
from planner.decide.check import check
from planner.decide.question import Question

if TYPE_CHECKING:
    from planner.models.catalogue import CatalogueEntry

LONGEST_TRIED = 2**20
"""Tokens; where a model names no last position."""
LENGTH_STEP = 64
"""Lengths are whole multiples of this: matrix units run at full speed on them."""
REACH, FINE = 1.6, 0.03
"""How far beyond the grid's length the exact check looks, and how finely."""
LARGEST_BATCH = 1024
RANKS = (1024, 512, 256, 128, 64, 32, 16)
ALIKE = 3
"""Models of one size that are tried: where three are too large, a fourth hardly fits."""
WEIGHT_BYTES = {"lora": 2.0, "full": 8.0, "qlora": 0.55}
"""Bytes of a parameter at the least, to leave out models that can't fit before one looks at them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The largest value of one thing that fits, with the judgement that says so."""

    what: str
    """length, batch, rank or model"""
    value: int | str
    report: CheckReport
    bound: str = ""
    """What ends it where it isn't memory: the model's last position, the largest that is looked at."""


def longest(question: Question, *, exactly: bool = False) -> Limit | None:
    """The longest sequence at micro-batch 1, as many layers recomputed as that takes; None where none fits.

    `exactly` goes beyond what the grid's rules allow as far as the exact check does, which takes several of them.
    """
    question = replace(question, data=None)  # rows as long as asked, not as the data has them
    last = question.model.max_positions or LONGEST_TRIED
    steps = _steps(question)
    base = replace(question.completed(), batch_size=1, gradient_accumulation_steps=steps)
    top = max(LENGTH_STEP, min(last, LONGEST_TRIED) // LENGTH_STEP * LENGTH_STEP)
    coarse = _multiples(np.geomspace(LENGTH_STEP, top, 48))
    fitting = _fitting_lengths(question, base, steps, coarse)
    if not fitting:
        return None
    best = max(fitting)
    above = [length for length in coarse if length > best]
    if above:
        fine = _multiples(np.linspace(best, above[0], 33))
        best = max([best, *_fitting_lengths(question, base, steps, fine)])
    for share in (1.0, 0.99, 0.98, 0.96, 0.93, 0.9, 0.8, 0.6):
        length = max(LENGTH_STEP, int(best * share) // LENGTH_STEP * LENGTH_STEP)
        report = _held(question, replace(base, max_length=length))
        if report is not None:
            if exactly:
                length, report = _further(question, base, length, top, report)
            bound = f"{question.model.id} has {last:,} positions" if length >= top and last < LONGEST_TRIED else ""
            return Limit(what="length", value=length, report=report, bound=bound)
    return None


def _further(
    question: Question, base: TrainingChoices, length: int, top: int, report: CheckReport
) -> tuple[int, CheckReport]:
    """The longest length by the exact check alone: the grid's margin for the allocator is a rule, often too wide."""
    if "gradient_checkpointing" in question.fixed or "checkpoint_layers" in question.fixed:
        return length, report
    least, most = length, min(top, int(REACH * length))
    while most - least > max(LENGTH_STEP, FINE * least):
        middle = (least + most) // 2 // LENGTH_STEP * LENGTH_STEP
        tried = replace(base, max_length=middle, gradient_checkpointing=True, checkpoint_layers=None)
        found = check(replace(question, notes=()).having(tried), with_remedies=False)
        if found.verdict == "fits":
            least, report = middle, found
        else:
            most = middle
    return least, report


def largest_batch(question: Question) -> Limit | None:
    """The largest micro-batch at the question's length; None where not even 1 fits."""
    base = replace(question.completed(), gradient_accumulation_steps=1)
    most = min(LARGEST_BATCH, LARGEST_TOKENS // base.max_length)
    sizes = sorted({*range(1, min(most, 64) + 1), *(int(n) for n in np.geomspace(1, most, 64))})
    found = evaluate(
        question,
        Space(
            bases=(base,),
            pairs=[(size, 1) for size in sizes],
            lengths=[base.max_length],
            layers=_layers(question, base),
        ),
    )
    safe = found.upper <= question.budget_bytes
    for size in sorted({int(size) for size in found.batch_size[safe]}, reverse=True)[:8]:
        report = _held(question, replace(base, batch_size=size, eval_batch_size=None))
        if report is not None:
            bound = f"none beyond {LARGEST_BATCH} is looked at" if size == LARGEST_BATCH else ""
            return Limit(what="batch", value=size, report=report, bound=bound)
    return None


def largest_rank(question: Question, ranks: Iterable[int] = RANKS) -> Limit | None:
    """The largest usual rank that fits with everything else as it is; None where none does or none is trained."""
    base = question.completed()
    if base.method == "full":
        return None
    width = question.model.hidden_size
    for rank in ranks:
        if rank > width:
            continue
        report = _held(question, replace(base, lora_r=rank))
        if report is not None:
            return Limit(
                what="rank", value=rank, report=report, bound="" if rank < RANKS[0] else "none beyond is tried"
            )
    return None


def largest_models(
    question: Question, most: int = 5, *, tries: int = 24, room: float | None = None, above: int = 0
) -> Iterator[Limit]:
    """The largest models of the catalogue that fit, one of each size, at the question's length and settings.

    Of one size the most used family comes first, and in it the newest version.

    Those of more than `room` parameters (what the weights alone leave possible) or of no more than `above` are not
    looked at, and no more than `tries` of the others.
    """
    from planner.models import catalogue, sources
    from planner.models.order import model_order

    base = question.completed()
    steps = _steps(question)
    most_parameters = room or question.budget_bytes / WEIGHT_BYTES[base.method]
    known = [entry for entry in catalogue.entries() if above < entry.parameters <= most_parameters]
    known.sort(key=lambda entry: (-float(_size(entry)), model_order(entry.name, entry.parameters)))
    tried: Counter[str] = Counter()
    shown: set[str] = set()
    for entry in known:
        size = _size(entry)
        if size in shown or tried[size] == ALIKE or len(shown) == most or tried.total() == tries:
            continue
        try:
            model = sources.load_model(entry.name)
            if model.task != question.model.task or (model.max_positions or base.max_length) < base.max_length:
                continue
            tried[size] += 1
            there = replace(question, model=model, model_name=entry.hub_id)
            report = _held(there, replace(base, batch_size=1, gradient_accumulation_steps=steps))
        except TuneplanError:
            continue
        if report is not None:
            shown.add(size)
            yield Limit(what="model", value=entry.name, report=report)


def _size(entry: CatalogueEntry) -> str:
    """Parameters in two digits: models of one size are alternatives, of which the most used is shown."""
    return f"{entry.parameters:.1e}"


def _steps(question: Question) -> int:
    """Accumulation that keeps the effective batch at a micro-batch of 1."""
    choices = question.choices
    return max(1, (question.effective_batch_size or choices.effective_batch_size) // choices.num_gpus)


def _multiples(values: np.ndarray) -> list[int]:
    return sorted({max(LENGTH_STEP, int(value) // LENGTH_STEP * LENGTH_STEP) for value in values})


def _layers(question: Question, base: TrainingChoices) -> list[int]:
    """All or none recomputed, or what the person said."""
    counts = layer_counts(question.model, base, question.fixed)
    return sorted({counts[0], counts[-1]})


def _fitting_lengths(question: Question, base: TrainingChoices, steps: int, lengths: list[int]) -> list[int]:
    found: Candidates = evaluate(
        question, Space(bases=(base,), pairs=[(1, steps)], lengths=lengths, layers=_layers(question, base))
    )
    return [int(length) for length in found.length[found.upper <= question.budget_bytes]]


def _held(question: Question, choices: TrainingChoices) -> CheckReport | None:
    """The judgement with the fewest layers recomputed that fit, or None where it fits in no way."""
    base = replace(choices, gradient_checkpointing=False, checkpoint_layers=None)
    space = Space(
        bases=(base,),
        pairs=[(choices.batch_size, choices.gradient_accumulation_steps)],
        lengths=[choices.max_length],
        layers=layer_counts(question.model, choices, question.fixed),
    )
    try:
        found = evaluate(question, space)
        fitting = np.flatnonzero(found.upper <= question.budget_bytes)
        if not fitting.size:
            return None
        fewest = int(fitting[np.argmin(found.checkpointed_layers[fitting])])
        every = int(fitting[np.argmax(found.checkpointed_layers[fitting])])
        for index in dict.fromkeys((fewest, every)):
            report = check(
                replace(question, notes=()).having(found.choices(index, question.model)), with_remedies=False
            )
            if report.verdict == "fits":
                return report
    except TuneplanError:
        return None
    return None
