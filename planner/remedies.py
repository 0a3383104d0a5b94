"""What would make a configuration smaller, each change computed by running the prediction again.

A change keeps the effective batch. Changes that leave the training's result alone (batch against accumulation,
recomputation, chunked loss) come before changes of format, method, length or device, and the report says what each
costs in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planner.contract.errors import TuneplanError
from planner.contract.records import MemoryReport, Remedy, SpeedReport
from planner.contract.settings import fit_to_hardware
from planner.contract.spec import HardwareProfile, ModelSpec, TrainingChoices

if TYPE_CHECKING:
    from planner.ragged import Lengths

Change = dict[str, Any]

LENGTHS = (8192, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 128)
"""Lengths that are offered as shorter ones: those of the guides and the powers of two around them."""

SAME_RESULT = 0
RESULT_CLASS = {"adapter_dtype": 1, "optimizer": 1, "precision": 1, "method": 2, "max_length": 3}
"""How deep a change goes; what is not listed leaves the training's result alone."""

WORTH_NAMING = 0.01
"""Share of the peak under which a change that does not make it fit is not worth a line."""

OTHER_DEVICES = 3
"""How many other devices are named: the smallest ones on which the configuration fits as it is."""


def find_remedies(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    memory: MemoryReport,
    speed: SpeedReport | None,
    data: Lengths | None = None,
) -> list[Remedy]:
    """Changes that save memory: those that fit the budget first, the gentlest and then the quickest foremost.

    `data`: the lengths that `memory` was predicted for.
    `saves_bytes` is what the change frees of the device peak; for another device, what the headroom grows by.
    """
    budget = memory.budget_bytes
    found: list[Remedy] = []
    singles: list[tuple[Change, int]] = []
    for change in _single_changes(model, hardware, choices, budget, data):
        after = _predict(model, hardware, _apply(choices, change), budget, data)
        if after is None:
            continue
        saves = memory.device_peak_bytes - after.device_peak_bytes
        if saves <= 0:
            continue
        singles.append((change, saves))
        if saves < WORTH_NAMING * memory.device_peak_bytes and not _inside(after):
            continue
        found.append(_remedy(model, hardware, choices, change, saves, after, speed))
    for limit in (SAME_RESULT, max(RESULT_CLASS.values())):
        # A change of method or length is combined only where the gentler ones can't do it, alone or together.
        if any(remedy.fits and _class(remedy.change) <= limit for remedy in found):
            continue
        gentle = [(change, saves) for change, saves in singles if _class(change) <= limit]
        combined = _combine(model, hardware, choices, gentle, budget, data)
        if combined is not None:
            change, after = combined
            saves = memory.device_peak_bytes - after.device_peak_bytes
            found.append(_remedy(model, hardware, choices, change, saves, after, speed))
    found.sort(key=_order)
    return found + _other_devices(model, hardware, choices, memory, speed, data)


def _class(change: Change) -> int:
    """How deep a change goes: the deepest of its parts."""
    return max(RESULT_CLASS.get(name, SAME_RESULT) for name in change)


def _order(remedy: Remedy) -> tuple[bool, int, float, int]:
    cost = remedy.costs_seconds_per_step
    if not remedy.fits:
        return True, 0, 0.0, -remedy.saves_bytes
    return False, _class(remedy.change), float("inf") if cost is None else cost, -remedy.saves_bytes


def _inside(memory: MemoryReport) -> bool:
    return memory.interval_bytes[1] <= memory.budget_bytes


def _apply(choices: TrainingChoices, change: Change) -> TrainingChoices:
    return replace(choices, **change)


def _predict(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, budget: int, data: Lengths | None
) -> MemoryReport | None:
    """None where the changed configuration is refused (not modelled on this model or device)."""
    from planner import memory

    try:
        return memory.predict(model, hardware, choices, budget_bytes=budget, lengths=data)
    except TuneplanError:
        return None


def _remedy(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    change: Change,
    saves: int,
    after: MemoryReport,
    speed: SpeedReport | None,
) -> Remedy:
    from planner.check import predict_speed, verdict_of

    cost = None
    if speed is not None:
        then = predict_speed(model, hardware, _apply(choices, change))
        if then is not None:
            cost = then.step_seconds - speed.step_seconds
    return Remedy(
        change=_listed(change),
        saves_bytes=saves,
        costs_seconds_per_step=cost,
        fits=_inside(after),
        verdict=verdict_of(after),
    )


def _listed(change: Change) -> Change:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in change.items()}


# --------------------------------------------------------------------------------------------------------------------
# The changes


def _single_changes(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, budget: int, data: Lengths | None
) -> Iterator[Change]:
    """Every change of one thing, in the order in which a combination takes them."""
    yield from _batch_changes(model, hardware, choices, budget, data)
    yield from _checkpoint_changes(model, hardware, choices, budget, data)
    if choices.stack == "builtin" and choices.loss == "full":
        yield {"loss": "chunked"}
    if choices.stack == "peft" and not choices.keep_logits and choices.transformers_version is None:
        yield {"stack": "builtin", "loss": "chunked"}
    if choices.keep_logits:
        yield {"keep_logits": False}
    if hardware.kind == "cuda" and choices.num_gpus == 1 and not choices.expandable_segments:
        yield {"expandable_segments": True}
    if choices.attention == "eager":
        yield {"attention": "sdpa"}
    if choices.method != "full" and choices.adapter_dtype == "fp32" and choices.precision == "bf16":
        yield {"adapter_dtype": "bf16"}
    if choices.optimizer == "adamw" and hardware.kind == "cuda":
        yield {"optimizer": "adamw-8bit"}
    if choices.method == "full":
        yield {"method": "lora"}
    if choices.method == "lora" and hardware.kind == "cuda":
        yield {"method": "qlora"}
    if choices.precision.endswith("-mixed") and choices.method != "full":
        yield {"precision": choices.precision.removesuffix("-mixed")}
    yield from _length_changes(model, hardware, choices, budget, data)


def _batch_changes(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, budget: int, data: Lengths | None
) -> Iterator[Change]:
    """The micro-batch halved (accumulation grows in step), and the largest one that fits."""
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    smaller = [size for size in range(choices.batch_size - 1, 0, -1) if sequences % size == 0]
    if not smaller:
        return
    halved = next(size for size in smaller if size <= max(1, choices.batch_size // 2))
    fitting = next((n for n, upper in _uppers(model, hardware, choices, data, batches=smaller) if upper <= budget), 0)
    for size in dict.fromkeys((halved, fitting)):
        if size:
            yield {"batch_size": size, "gradient_accumulation_steps": sequences // size}


def _checkpoint_changes(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, budget: int, data: Lengths | None
) -> Iterator[Change]:
    """All layers checkpointed, and on the builtin stack the fewest that fit."""
    now = choices.checkpointed_layers(model.total_layers)
    if now >= model.total_layers:
        return
    if choices.stack == "builtin":
        layers = list(range(now + 1, model.total_layers))
        fitting = next((n for n, upper in _uppers(model, hardware, choices, data, layers=layers) if upper <= budget), 0)
        if fitting:
            yield {"gradient_checkpointing": True, "checkpoint_layers": fitting}
    yield {"gradient_checkpointing": True, "checkpoint_layers": None}


def _length_changes(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, budget: int, data: Lengths | None
) -> Iterator[Change]:
    """The longest usual length that fits, or else half of what was asked for."""
    shorter = [length for length in LENGTHS if length < choices.max_length]
    fitting = next((n for n, upper in _uppers(model, hardware, choices, data, lengths=shorter) if upper <= budget), 0)
    length = fitting or choices.max_length // 2
    if length >= 16:
        yield {"max_length": length}


def _uppers(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    data: Lengths | None,
    *,
    batches: list[int] | None = None,
    lengths: list[int] | None = None,
    layers: list[int] | None = None,
) -> list[tuple[int, int]]:
    """(value, upper end of the device peak in bytes) along the one axis that is given."""
    import numpy as np

    from planner import memory

    axis = batches or lengths or layers or []
    if not axis:
        return []
    here = np.ones(len(axis), dtype=np.int64)
    grid = memory.predict_grid(
        model,
        hardware,
        choices,
        np.asarray(batches, dtype=np.int64) if batches else here * choices.batch_size,
        np.asarray(lengths, dtype=np.int64) if lengths else here * choices.max_length,
        np.asarray(layers, dtype=np.int64) if layers else here * choices.checkpointed_layers(model.total_layers),
        data=data,
    )
    return [(value, int(upper)) for value, upper in zip(axis, grid.upper, strict=True)]


def _combine(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    singles: list[tuple[Change, int]],
    budget: int,
    data: Lengths | None,
) -> tuple[Change, MemoryReport] | None:
    """Changes added one after another while each still saves, until it fits; None if it never does.

    The micro-batch starts at one, which changes nothing of the result, and grows again to what then fits.
    """
    total: Change = {}
    last: MemoryReport | None = _predict(model, hardware, choices, budget, data)
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    # A micro-batch of one goes with every combination: it costs nothing of the result.
    steps: list[Change] = (
        [{"batch_size": 1, "gradient_accumulation_steps": sequences}] if choices.batch_size > 1 else []
    )
    steps += [change for change, _ in singles if "batch_size" not in change]
    for change in steps:
        after = _predict(model, hardware, _apply(choices, {**total, **change}), budget, data)
        if after is None or (last is not None and after.device_peak_bytes >= last.device_peak_bytes):
            continue
        total, last = {**total, **change}, after
        if _inside(after):
            found = _largest_batch(model, hardware, choices, total, after, budget, data)
            return found if len(found[0]) > 1 else None
    return None


def _largest_batch(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    total: Change,
    single: MemoryReport,
    budget: int,
    data: Lengths | None,
) -> tuple[Change, MemoryReport]:
    """The combination with the largest micro-batch that still fits; `single` is what it takes as it stands."""
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    sizes = [size for size in range(choices.batch_size, 0, -1) if sequences % size == 0]
    rest = {name: value for name, value in total.items() if name not in ("batch_size", "gradient_accumulation_steps")}
    there = _apply(choices, total)
    for size in [n for n, upper in _uppers(model, hardware, there, data, batches=sizes) if upper <= budget]:
        batch: Change = {"batch_size": size, "gradient_accumulation_steps": sequences // size}
        change = rest if size == choices.batch_size else {**batch, **rest}
        # The grid knows reserved bytes by a rule; whether it fits is said by the exact prediction alone.
        after = _predict(model, hardware, _apply(choices, change), budget, data)
        if change and after is not None and _inside(after):
            return change, after
    return total, single


def _other_devices(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    memory: MemoryReport,
    speed: SpeedReport | None,
    data: Lengths | None,
) -> list[Remedy]:
    """The smallest other devices of the same make on which the configuration fits unchanged."""
    from hardware_profiles.loader import all_profiles
    from planner.check import predict_speed, verdict_of

    kinds = {hardware.kind} if hardware.kind in ("mps", "rocm") else {"cuda"}
    remedies: list[Remedy] = []
    larger = [p for p in all_profiles() if p.kind in kinds and p.name != hardware.name]
    larger.sort(key=lambda profile: (profile.budget_bytes, -profile.bandwidth_bytes_per_second))
    needed = memory.allocated_peak_bytes
    for profile in larger:
        if profile.budget_bytes < needed:
            continue
        try:
            there, _ = fit_to_hardware(choices, profile, fixed=("precision",))
        except TuneplanError:
            continue
        after = _predict(model, profile, there, profile.budget_bytes, data)
        if after is None or not _inside(after):
            continue
        saves = (after.budget_bytes - after.device_peak_bytes) - (memory.budget_bytes - memory.device_peak_bytes)
        faster = predict_speed(model, profile, there)
        cost = None if faster is None or speed is None else faster.step_seconds - speed.step_seconds
        remedies.append(
            Remedy(
                change={"gpu": profile.name},
                saves_bytes=saves,
                costs_seconds_per_step=cost,
                fits=True,
                verdict=verdict_of(after),
            )
        )
        if len(remedies) == OTHER_DEVICES:
            break
    return remedies
