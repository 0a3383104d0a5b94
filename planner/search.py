"""The tiers high, balanced, low and safe: micro-batch, accumulation, checkpointing and length for one device.

All tiers take the same effective batch, so they train the same thing and differ in speed and headroom. Candidates
are evaluated as arrays of shape (candidates,); nothing loops over them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from planner.check import TIGHT_SHARE, check
from planner.errors import Infeasible, InvalidInput, NotModelled
from planner.records import Advice, CheckReport, Record
from planner.settings import check_length, fit_to_hardware
from planner.spec import HardwareProfile, ModelSpec, TrainingChoices
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.dataset import DatasetProfile

EFFECTIVE_BATCH_SIZE = 32
"""Sequences per optimizer step: what the guides' tiers have in common (8×4, 4×8, 2×16)."""

SAME_SPEED = 0.01
"""Candidates within this share of the fastest step count as equally fast; the one with the least memory is taken."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """How much of the budget a tier may fill."""

    name: str
    budget_share: float
    open_length: int
    """Longest length it takes where neither the user nor the data says one: those of training guide 1 (A10G)."""


TIERS = (
    Tier(name="high", budget_share=1.0, open_length=2048),
    Tier(name="balanced", budget_share=0.80, open_length=1024),
    Tier(name="low", budget_share=0.60, open_length=768),
    Tier(name="safe", budget_share=0.45, open_length=768),
)
"""Shares: training guide 1 (tiers for A10G and M3) uses 1 : 0.8 : 0.6 of the high tier on the A10G; its safe mode on
the M3 is the next step down. Training guide 3 too says to fill about 80 %."""

OPEN_LENGTHS = (2048, 1536, 1024, 768, 512, 384, 256, 128)

GOALS: dict[str, str] = {"fastest": "high", "balanced": "balanced", "safest": "safe"}
"""Which tier a goal recommends."""


class Recommendation(Record):
    """What `plan --json` prints: one recommended configuration and the tiers it was taken from."""

    schema_: Literal["tuneplan.recommendation/1"] = Field(default="tuneplan.recommendation/1", alias="schema")
    goal: str
    effective_batch_size: int
    recommended: CheckReport
    options: list[CheckReport]
    """One per tier, from high to safe."""
    notes: list[str]
    """Defaults that were taken, formats that were replaced, what the data says."""
    advice: list[Advice] = Field(default_factory=list)
    data: dict[str, Any] | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class NothingFits(Infeasible):
    """No candidate fits; `report` is the smallest one with what it lacks and what would help."""

    def __init__(self, message: str, report: CheckReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """Every configuration that was considered; all arrays have shape (candidates,)."""

    batch_size: IntArray
    accumulation: IntArray
    length: IntArray
    checkpointed_layers: IntArray
    variant: IntArray
    """Index into `variants`."""
    device: IntArray
    """Bytes on the device at the peak."""
    upper: IntArray
    """Upper end of the device peak's interval, bytes."""
    seconds: FloatArray
    """Seconds of one optimizer step; 0 everywhere where no speed is modelled."""
    variants: tuple[TrainingChoices, ...]
    """The choices that do not vary along the arrays."""

    def __len__(self) -> int:
        return len(self.batch_size)

    def choices(self, index: int, model: ModelSpec) -> TrainingChoices:
        """Candidate number `index` as choices."""
        layers = int(self.checkpointed_layers[index])
        return replace(
            self.variants[int(self.variant[index])],
            batch_size=int(self.batch_size[index]),
            gradient_accumulation_steps=int(self.accumulation[index]),
            max_length=int(self.length[index]),
            gradient_checkpointing=layers > 0,
            checkpoint_layers=layers if 0 < layers < model.num_layers else None,
        )


def recommend(
    model: ModelSpec,
    hardware: HardwareProfile,
    *,
    choices: TrainingChoices | None = None,
    fixed: Collection[str] = (),
    effective_batch_size: int | None = None,
    goal: str | None = None,
    scenario: str = "standard",
    budget_bytes: int | None = None,
    data: DatasetProfile | None = None,
    validation_split: float = 0.1,
    notes: Iterable[str] = (),
) -> Recommendation:
    """Finds the tiers.

    `choices` holds every setting; those named in `fixed` stay as they are, of the others batch_size,
    gradient_accumulation_steps, gradient_checkpointing, checkpoint_layers, max_length, loss and precision may change.
    `effective_batch_size`: sequences per optimizer step over all devices; None is the scenario's, usually 32.
    `goal`: fastest, balanced or safest; None is the scenario's, usually balanced.
    Raises `NothingFits` when no candidate fits, `InvalidInput` and `NotModelled` for requests without an answer.
    """
    from planner.advice import SCENARIOS, advise

    if scenario not in SCENARIOS:
        raise InvalidInput(f"--scenario {scenario!r} is unknown; choose one of {', '.join(SCENARIOS)}")
    goal = SCENARIOS[scenario].goal if goal is None else goal
    if goal not in GOALS:
        raise InvalidInput(f"--goal {goal!r} is unknown; choose one of {', '.join(GOALS)}")
    base = choices or TrainingChoices()
    fixed = set(fixed)
    if "max_length" in fixed:
        check_length(model, base)
    base, format_notes = fit_to_hardware(base, hardware, fixed=fixed)
    budget = hardware.budget_bytes if budget_bytes is None else budget_bytes
    wanted = effective_batch_size or (None if _batch_is_fixed(fixed) else SCENARIOS[scenario].effective_batch_size)
    pairs, effective, batch_notes = batch_pairs(base, fixed, wanted)
    lengths = candidate_lengths(model, base, fixed, data)
    candidates = evaluate(
        model, hardware, variants(base, fixed), pairs=pairs, lengths=lengths, layers=layer_counts(model, base, fixed)
    )
    picks = pick_tiers(candidates, budget, open_length="max_length" not in fixed and data is None)
    all_notes = [*notes, *format_notes, *batch_notes]
    if picks is None:
        smallest = candidates.choices(int(np.argmin(candidates.upper)), model)
        report = check(model, hardware, smallest, budget_bytes=budget, notes=all_notes)
        raise NothingFits(_nothing_fits(report), report)
    options = []
    for tier, index in zip(TIERS, picks, strict=True):
        chosen = candidates.choices(index, model)
        tokens = None
        if data is not None:
            tokens = data.tokens_per_epoch(
                chosen.max_length,
                batch_size=chosen.batch_size,
                padding=chosen.padding,
                examples=data.training_examples(validation_split),
            )
        options.append(
            check(
                model,
                hardware,
                chosen,
                budget_bytes=budget,
                tokens_per_epoch=tokens,
                tier=tier.name,
                with_remedies=False,
            )
        )
    recommended = next(report for report in options if report.tier == GOALS[goal])
    final = candidates.choices(picks[[tier.name for tier in TIERS].index(GOALS[goal])], model)
    if data is not None:
        all_notes += data_notes(data, final, validation_split, "max_length" in fixed)
    elif "max_length" not in fixed:
        all_notes.append("No data and no --max-length: each tier takes the length that the guides give it.")
    return Recommendation(
        goal=goal,
        effective_batch_size=effective,
        recommended=recommended,
        options=options,
        notes=all_notes,
        advice=advise(
            model,
            hardware,
            final,
            data=data,
            scenario=scenario,
            validation_split=validation_split,
            step_seconds=None if recommended.speed is None else recommended.speed.step_seconds,
        ),
        data=None if data is None else data.summary(),
    )


# --------------------------------------------------------------------------------------------------------------------
# Candidates


def _batch_is_fixed(fixed: Collection[str]) -> bool:
    return "batch_size" in fixed and "gradient_accumulation_steps" in fixed


def batch_pairs(
    base: TrainingChoices, fixed: Collection[str], effective_batch_size: int | None
) -> tuple[list[tuple[int, int]], int, list[str]]:
    """((micro-batch, accumulation), …), the effective batch they share, and what had to be said about it."""
    devices = base.num_gpus
    if _batch_is_fixed(fixed):
        effective = base.effective_batch_size
        if effective_batch_size is not None and effective_batch_size != effective:
            raise InvalidInput(
                f"--effective-batch-size {effective_batch_size} contradicts {base.batch_size} × "
                f"{base.gradient_accumulation_steps} × {devices} devices = {effective}; leave one of them out"
            )
        return [(base.batch_size, base.gradient_accumulation_steps)], effective, []
    wanted = EFFECTIVE_BATCH_SIZE if effective_batch_size is None else effective_batch_size
    if wanted < 1:
        raise InvalidInput(f"--effective-batch-size must be a whole number of at least 1, not {wanted}")
    if wanted % devices:
        raise InvalidInput(f"--effective-batch-size {wanted} cannot be shared evenly by {devices} devices")
    share = wanted // devices
    for name in ("batch_size", "gradient_accumulation_steps"):
        if name not in fixed:
            continue
        value = int(getattr(base, name))
        other = max(1, round(share / value))
        pair = (value, other) if name == "batch_size" else (other, value)
        effective = value * other * devices
        said = []
        if effective != wanted:
            flag = "--" + name.replace("_", "-")
            said = [f"Effective batch {effective} instead of {wanted}: {flag} {value} does not divide it."]
        return [pair], effective, said
    return [(size, share // size) for size in range(1, share + 1) if share % size == 0], wanted, []


def candidate_lengths(
    model: ModelSpec, base: TrainingChoices, fixed: Collection[str], data: DatasetProfile | None
) -> list[int]:
    """Lengths worth considering, the most wanted first."""
    if "max_length" in fixed:
        return [base.max_length]
    limit = model.max_positions or max(OPEN_LENGTHS)
    if data is None:
        return [length for length in OPEN_LENGTHS if length <= limit] or [limit]
    whole = [_rounded(data.longest), *(_rounded(data.percentile(share)) for share in (0.99, 0.95, 0.9))]
    shorter = [length for length in OPEN_LENGTHS if length < whole[-1]]
    return list(dict.fromkeys(min(length, limit) for length in [*whole, *shorter]))


def _rounded(length: int) -> int:
    """Up to a multiple of 8: the alignment at which half-precision matrix units run at full speed (NVIDIA, 2023)."""
    return max(16, -(-length // 8) * 8)


def layer_counts(model: ModelSpec, base: TrainingChoices, fixed: Collection[str]) -> list[int]:
    """How many layers may be checkpointed: any number on the builtin stack, all or none on the other."""
    if "checkpoint_layers" in fixed or ("gradient_checkpointing" in fixed):
        return [base.checkpointed_layers(model.num_layers)]
    if base.stack == "builtin":
        return list(range(model.num_layers + 1))
    return [0, model.num_layers]


def variants(base: TrainingChoices, fixed: Collection[str]) -> tuple[TrainingChoices, ...]:
    """The base choices, and with the chunked loss where that code is ours and the user left it open."""
    if "loss" in fixed or base.stack != "builtin":
        return (base,)
    return (replace(base, loss="full"), replace(base, loss="chunked"))


def evaluate(
    model: ModelSpec,
    hardware: HardwareProfile,
    variants: tuple[TrainingChoices, ...],
    *,
    pairs: list[tuple[int, int]],
    lengths: list[int],
    layers: list[int],
) -> Candidates:
    """Memory and step time of every combination of variant, (batch, accumulation), length and layers."""
    from planner import memory, speed

    pair, length, layer = (
        axis.ravel()
        for axis in np.meshgrid(np.arange(len(pairs)), np.asarray(lengths), np.asarray(layers), indexing="ij")
    )
    batches, accumulations = (np.asarray(values, dtype=np.int64) for values in zip(*pairs, strict=True))
    batch, accumulation = batches[pair], accumulations[pair]
    length, layer = length.astype(np.int64), layer.astype(np.int64)
    block = len(length) // len(pairs)
    devices, uppers, seconds = [], [], []
    for choices in variants:
        grid = memory.predict_grid(model, hardware, choices, batch, length, layer)
        devices.append(np.asarray(grid.device, dtype=np.int64))
        uppers.append(np.asarray(grid.upper, dtype=np.int64))
        # One call per pair: a step's time depends on its accumulation, which is a choice and no array.
        for number, (size, steps) in enumerate(pairs):
            part = slice(number * block, (number + 1) * block)
            paired = replace(choices, batch_size=size, gradient_accumulation_steps=steps)
            try:
                seconds.append(speed.step_seconds(model, hardware, paired, batch[part], length[part], layer[part]))
            except NotModelled:
                seconds.append(np.zeros(block))
    count = len(variants)
    return Candidates(
        batch_size=np.tile(batch, count),
        accumulation=np.tile(accumulation, count),
        length=np.tile(length, count),
        checkpointed_layers=np.tile(layer, count),
        variant=np.repeat(np.arange(count), len(batch)),
        device=np.concatenate(devices),
        upper=np.concatenate(uppers),
        seconds=np.concatenate(seconds).astype(np.float64),
        variants=variants,
    )


# --------------------------------------------------------------------------------------------------------------------
# Choice


def pick_tiers(candidates: Candidates, budget_bytes: int, *, open_length: bool) -> list[int] | None:
    """Index of each tier's candidate in the order of `TIERS`; None if nothing fits.

    Each lower tier is held under the one before, so memory never grows from tier to tier.
    """
    safe = (candidates.upper <= budget_bytes) & (candidates.device <= TIGHT_SHARE * budget_bytes)
    if not safe.any():
        # Only tight configurations are left: better said so than refused.
        safe = candidates.device <= budget_bytes
        if not safe.any():
            return None
    picks: list[int] = []
    ceiling = int(candidates.upper[safe].max())
    # dict.fromkeys keeps the order in which lengths are wanted.
    wanted = [int(length) for length in dict.fromkeys(candidates.length.tolist())]
    for tier in TIERS:
        under = safe & (candidates.upper <= ceiling)
        lengths = [n for n in wanted if not open_length or n <= tier.open_length] or [min(wanted)]
        length = next((n for n in lengths if (under & (candidates.length == n)).any()), None)
        if length is None:
            length = int(candidates.length[under].max())
        here = under & (candidates.length == length)
        inside = here & (candidates.upper <= tier.budget_share * budget_bytes)
        index = _fastest(candidates, inside) if inside.any() else _smallest(candidates, here)
        picks.append(index)
        ceiling = int(candidates.upper[index])
    return picks


def _fastest(candidates: Candidates, mask: NDArray[np.bool_]) -> int:
    seconds = candidates.seconds[mask]
    return _smallest(candidates, mask & (candidates.seconds <= seconds.min() * (1 + SAME_SPEED)))


def _smallest(candidates: Candidates, mask: NDArray[np.bool_]) -> int:
    where = np.flatnonzero(mask)
    # Among equal memory the fastest, then the fewest recomputed layers.
    order = np.lexsort((candidates.checkpointed_layers[where], candidates.seconds[where], candidates.upper[where]))
    return int(where[order[0]])


def _nothing_fits(report: CheckReport) -> str:
    needed, budget = report.memory.device_peak_bytes, report.memory.budget_bytes
    settings = report.settings
    return (
        f"{report.model.id} does not fit {report.hardware['title']}: even {settings['batch_size']} × "
        f"{settings['max_length']} tokens with {settings['method']} needs {format_bytes(needed)} "
        f"of {format_bytes(budget)}"
    )


def data_notes(data: DatasetProfile, chosen: TrainingChoices, validation_split: float, length_fixed: bool) -> list[str]:
    """What the data set's lengths mean for the chosen configuration."""
    length = chosen.max_length
    steps = data.steps_per_epoch(chosen.effective_batch_size, validation_split=validation_split)
    said = [
        f"{data.examples} examples ({data.format}), longest {data.longest} tokens, half have at most "
        f"{data.percentile(0.5)}; {data.basis}.",
        f"{steps} optimizer steps an epoch at an effective batch of {chosen.effective_batch_size}.",
    ]
    cut = data.share_truncated(length)
    if cut > 0:
        said.append(
            f"--max-length {length} cuts {cut:.1%} of the examples and "
            f"{data.share_tokens_lost(length):.1%} of the tokens."
        )
    elif length_fixed and length > 1.25 * data.longest:
        said.append(f"No example is longer than {data.longest}: --max-length {_rounded(data.longest)} would do.")
    if not data.exact and data.longest_upper > length >= data.longest:
        said.append(f"If the text makes short tokens, the longest example has up to {data.longest_upper} tokens.")
    if chosen.padding == "longest":
        grouped = data.padding_waste(length, batch_size=chosen.batch_size)
        mixed = data.padding_waste(length, batch_size=chosen.batch_size, group_by_length=False)
        said.append(f"Padding is {grouped:.1%} of the tokens with length grouping, {mixed:.1%} without.")
    return said
