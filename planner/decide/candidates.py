"""Candidate configurations and their memory and step time, as arrays of shape (candidates,).

Nothing loops over candidates: one call of the memory model covers all of them, one of the speed model each pair of
micro-batch and accumulation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.contract.choices import LARGEST_COUNT, TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.sentence import joined, named, sentence
from planner.contract.spec import ModelSpec
from planner.decide.question import Question

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

EFFECTIVE_BATCH_SIZE = 16
"""Sequences per optimizer step where no scenario says them."""

OPEN_LENGTHS = (2048, 1536, 1024, 768, 512, 384, 256, 128)
"""Lengths that are tried where neither the user nor the data says one."""

MOST_COUNTS = 64
"""Numbers of recomputed layers that are tried."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """Every configuration that was considered; all arrays have shape (candidates,)."""

    batch_size: IntArray
    accumulation: IntArray
    length: IntArray
    checkpointed_layers: IntArray
    device: IntArray
    """Bytes on the device at the peak."""
    upper: IntArray
    """Upper end of the device peak's interval, bytes."""
    seconds: FloatArray
    """Seconds of one optimizer step; 0 everywhere where no speed is modelled."""
    keeps: BoolArray
    """Which make nothing again in backward (`made_again`) where the base does."""
    base: TrainingChoices
    """The choices that do not vary along the arrays."""

    def __len__(self) -> int:
        return len(self.batch_size)

    def choices(self, index: int, model: ModelSpec) -> TrainingChoices:
        """Candidate number `index` as choices."""
        layers = int(self.checkpointed_layers[index])
        return replace(
            self.base,
            batch_size=int(self.batch_size[index]),
            gradient_accumulation_steps=int(self.accumulation[index]),
            max_length=int(self.length[index]),
            gradient_checkpointing=layers > 0,
            checkpoint_layers=layers if 0 < layers < model.total_layers else None,
            made_again=() if self.keeps[index] else self.base.made_again,
        )


def batch_is_fixed(fixed: Collection[str]) -> bool:
    """Whether the user gave both the micro-batch and the accumulation."""
    return "batch_size" in fixed and "gradient_accumulation_steps" in fixed


def batch_pairs(
    base: TrainingChoices, fixed: Collection[str], effective_batch_size: int | None
) -> tuple[list[tuple[int, int]], int, list[str]]:
    """((micro-batch, accumulation), …), the effective batch they share, and what had to be said about it."""
    devices = base.num_gpus
    if batch_is_fixed(fixed):
        effective = base.effective_batch_size
        if effective_batch_size is not None and effective_batch_size != effective:
            raise InvalidInput(
                named("effective_batch_size"),
                f" {effective_batch_size} contradicts {base.batch_size} × "
                f"{base.gradient_accumulation_steps} × {devices} devices = {effective}; leave one of them out",
            )
        return [(base.batch_size, base.gradient_accumulation_steps)], effective, []
    wanted = EFFECTIVE_BATCH_SIZE if effective_batch_size is None else effective_batch_size
    if wanted < 1:
        raise InvalidInput(named("effective_batch_size"), f" must be a whole number of at least 1, not {wanted}")
    if wanted > LARGEST_COUNT:
        raise InvalidInput(
            named("effective_batch_size"), f" {wanted} is beyond {LARGEST_COUNT}, the most that is modelled"
        )
    if wanted % devices:
        raise InvalidInput(named("effective_batch_size"), f" {wanted} cannot be shared evenly by {devices} devices")
    share = wanted // devices
    for name in ("batch_size", "gradient_accumulation_steps"):
        if name not in fixed:
            continue
        value = int(getattr(base, name))
        other = max(1, round(share / value))
        pair = (value, other) if name == "batch_size" else (other, value)
        effective = value * other * devices
        said: list[str] = []
        if effective != wanted:
            said += [
                sentence(
                    f"Effective batch {effective} instead of {wanted}: ", named(name), f" {value} does not divide it."
                )
            ]
        return [pair], effective, said
    return [(size, share // size) for size in range(1, share + 1) if share % size == 0], wanted, []


def with_effective_batch(question: Question) -> Question:
    """The question with the accumulation that makes its effective batch, where one was asked for."""
    effective, choices = question.effective_batch_size, question.choices
    if effective is None:
        return question
    given = question.fixed & {"batch_size", "gradient_accumulation_steps"} or {"batch_size"}
    pairs, _, said = batch_pairs(choices, given, effective)
    if said:
        parts: list[str] = [named(name) + f" {getattr(choices, name)}" for name in sorted(given)]
        product = joined(" × ", [*parts, f"{choices.num_gpus} device(s)"])
        raise InvalidInput(named("effective_batch_size"), f" {effective} is not a multiple of ", product)
    size, steps = pairs[0]
    return question.having(replace(choices, batch_size=size, gradient_accumulation_steps=steps))


def candidate_lengths(
    model: ModelSpec, base: TrainingChoices, fixed: Collection[str], data: DatasetProfile | None
) -> list[int]:
    """Lengths worth considering, the most wanted first."""
    if "max_length" in fixed:
        return [base.max_length]
    limit = model.max_positions or max(OPEN_LENGTHS)
    if data is None:
        return [length for length in OPEN_LENGTHS if length <= limit] or [limit]
    # Where lengths are estimated, at their upper end: what is cut is lost, what isn't there costs nothing.
    whole = [rounded(data.upper(n)) for n in (data.longest, *(data.percentile(share) for share in (0.99, 0.95, 0.9)))]
    shorter = [length for length in OPEN_LENGTHS if length < whole[-1]]
    return list(dict.fromkeys(min(length, limit) for length in [*whole, *shorter]))


def rounded(length: int) -> int:
    """Up to a multiple of 8: the alignment at which half-precision matrix units run at full speed (NVIDIA, 2023)."""
    return max(16, -(-length // 8) * 8)


def layer_counts(model: ModelSpec, base: TrainingChoices, fixed: Collection[str]) -> list[int]:
    """How many layers may be checkpointed: any number on the builtin stack, all or none on the other."""
    if "checkpoint_layers" in fixed or ("gradient_checkpointing" in fixed):
        return [base.checkpointed_layers(model.total_layers)]
    if "recorded" in model.config:  # each further number would have to be traced first
        return [0, model.total_layers]
    if base.stack == "builtin":
        return _numbers(model.total_layers)
    return [0, model.total_layers]


def _numbers(layers: int) -> list[int]:
    """Every number of layers, or `MOST_COUNTS` spread evenly: a program is made for each where the layers differ."""
    if layers < MOST_COUNTS:
        return list(range(layers + 1))
    return sorted({round(part * layers / (MOST_COUNTS - 1)) for part in range(MOST_COUNTS)})


def losses(base: TrainingChoices, fixed: Collection[str]) -> tuple[TrainingChoices, ...]:
    """The base choices with the losses to try, in this order.

    Where the loss is open and the code is ours the chunked one comes first: the same loss and gradient, never larger
    and never slower. The full one is left for models on which the chunked one is not modelled.
    """
    if "loss" in fixed or base.stack != "builtin":
        return (base,)
    return (replace(base, loss="chunked"), replace(base, loss="full"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What a search goes through: every combination of these with each other."""

    bases: tuple[TrainingChoices, ...]
    """The choices that do not vary; the first of them that is modelled is taken."""
    pairs: list[tuple[int, int]]
    """(micro-batch, accumulation)"""
    lengths: list[int]
    """The most wanted first."""
    layers: list[int]
    """How many layers are checkpointed."""
    keeping: bool = False
    """Whether that which makes nothing again is tried too, where no layer is recomputed."""


def may_keep(question: Question, base: TrainingChoices) -> bool:
    """Whether nobody named what is made again in backward, and keeping it in its place is worth a look.

    It is the cheapest way to save bytes, so it is the last to go: only where no layer is recomputed. On a CPU nothing
    is gained (measured: docs/lean.md, "Made again").
    """
    free = "made_again" not in question.fixed and base.stack == "builtin" and "recorded" not in question.model.config
    return free and question.hardware.kind != "cpu"


def evaluate(question: Question, space: Space) -> Candidates:
    """Memory and step time of everything in the space; where no base is modelled the last one's refusal stands.

    With data memory takes the heaviest micro-batch of it; without, every row is full.
    """
    found = _modelled(question, space)
    if not space.keeping or 0 not in space.layers or not found.base.made_again:
        return found
    try:
        kept = _evaluate(question, replace(space, layers=[0]), replace(found.base, made_again=()))
    except NotModelled:
        return found
    return Candidates(
        batch_size=np.concatenate([found.batch_size, kept.batch_size]),
        accumulation=np.concatenate([found.accumulation, kept.accumulation]),
        length=np.concatenate([found.length, kept.length]),
        checkpointed_layers=np.concatenate([found.checkpointed_layers, kept.checkpointed_layers]),
        device=np.concatenate([found.device, kept.device]),
        upper=np.concatenate([found.upper, kept.upper]),
        seconds=np.concatenate([found.seconds, kept.seconds]),
        keeps=np.concatenate([found.keeps, ~kept.keeps]),
        base=found.base,
    )


def _modelled(question: Question, space: Space) -> Candidates:
    for base in space.bases[:-1]:
        try:
            return _evaluate(question, space, base)
        except NotModelled:
            continue
    return _evaluate(question, space, space.bases[-1])


def _evaluate(question: Question, space: Space, base: TrainingChoices) -> Candidates:
    from planner import memory, speed

    model, hardware, pairs = question.model, question.hardware, space.pairs
    axes = (np.arange(len(pairs)), np.asarray(space.lengths, dtype=np.int64), np.asarray(space.layers, dtype=np.int64))
    pair, length, layer = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    batches, accumulations = (np.asarray(values, dtype=np.int64) for values in zip(*pairs, strict=True))
    batch, accumulation = batches[pair], accumulations[pair]
    grid = memory.predict_grid(model, hardware, base, batch, length, layer, data=question.lengths)
    block = len(space.lengths) * len(space.layers)
    seconds = np.zeros(len(batch))
    # One call per pair: a step's time depends on its accumulation, which is a choice and no array.
    for number, (size, steps) in enumerate(pairs):
        part = slice(number * block, (number + 1) * block)
        paired = replace(base, batch_size=size, gradient_accumulation_steps=steps)
        try:
            seconds[part] = speed.step_seconds(model, hardware, paired, batch[part], length[part], layer[part])
        except NotModelled:
            break
    return Candidates(
        batch_size=batch,
        accumulation=accumulation,
        length=length,
        checkpointed_layers=layer,
        device=np.asarray(grid.device, dtype=np.int64),
        upper=np.asarray(grid.upper, dtype=np.int64),
        seconds=seconds,
        keeps=np.zeros(len(batch), dtype=np.bool_),
        base=base,
    )
