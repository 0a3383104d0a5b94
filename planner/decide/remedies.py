"""What would make a configuration smaller, each change computed by running the prediction again.

A change keeps the effective batch. Changes that leave the training's result alone (batch against accumulation,
recomputation, chunked loss) come before changes of format, method, length or device, and the report says what each
costs in time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planner.contract.errors import TuneplanError
from planner.contract.records import MemoryReport, Remedy, SpeedReport
from planner.contract.settings import check_length, fit_to_hardware
from planner.contract.spec import HardwareProfile, ModelSpec, TrainingChoices

if TYPE_CHECKING:
    from planner.data.lengths import Lengths

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """What is to be made smaller, as it was judged."""

    model: ModelSpec
    hardware: HardwareProfile
    asked: TrainingChoices
    """The choices as they were asked for."""
    choices: TrainingChoices
    """The choices as they were judged: in a number format that the device has."""
    fixed: frozenset[str]
    """Names of the choices that the person gave."""
    budget: int
    data: Lengths | None
    speed: SpeedReport | None
    meanwhile: Callable[[], None]
    """Called before each prediction; what it raises ends the search."""

    def after(self, change: Change) -> TrainingChoices:
        """The choices after a change."""
        return replace(self.choices, **change)

    def predict(self, choices: TrainingChoices) -> MemoryReport | None:
        """None where the configuration is refused (not modelled on this model or device)."""
        return _predict(self, self.hardware, choices, self.budget)

    def settled(self, change: Change) -> Change:
        """The change with all that follows from it where the person named nothing: number format, optimizer's step.

        Whoever makes the change, from the settings or from the command line, so comes to the same configuration.
        """
        usual = _usual(replace(self.asked, **change), self.hardware, self.fixed | change.keys())
        return {**change, **{name: getattr(usual, name) for name in _FOLLOWING if self._differs(usual, name)}}

    def _differs(self, usual: TrainingChoices, name: str) -> bool:
        return bool(getattr(usual, name) != getattr(self.choices, name))


_FOLLOWING = ("precision", "optimizer_implementation")
"""Choices that follow from others and the device until someone names them."""


def _usual(choices: TrainingChoices, hardware: HardwareProfile, fixed: Collection[str]) -> TrainingChoices:
    """The choices as `plan check` completes them on a device."""
    fitted, _ = fit_to_hardware(choices, hardware, fixed=fixed)
    if "optimizer_implementation" in fixed:
        return fitted
    return fitted.with_usual_implementation(hardware.kind)


def find_remedies(
    model: ModelSpec,
    hardware: HardwareProfile,
    asked: TrainingChoices,
    memory: MemoryReport,
    speed: SpeedReport | None,
    data: Lengths | None = None,
    *,
    choices: TrainingChoices | None = None,
    fixed: Collection[str] = (),
    meanwhile: Callable[[], None] | None = None,
) -> list[Remedy]:
    """Changes that save memory: those that fit the budget first, the gentlest and then the quickest foremost.

    `asked`: the choices as they were asked for; `choices`: as `memory` was predicted for them (default: the same).
    `data`: the lengths that `memory` was predicted for. `fixed`: names of the choices that the person gave.
    `meanwhile`: called between predictions; what it raises ends the search.
    `saves_bytes` is what the change frees of the device peak; for another device, what the headroom grows by.
    """
    question = _Question(
        model=model,
        hardware=hardware,
        asked=asked,
        choices=asked if choices is None else choices,
        fixed=frozenset(fixed),
        budget=memory.budget_bytes,
        data=data,
        speed=speed,
        meanwhile=meanwhile or (lambda: None),
    )
    found: list[Remedy] = []
    singles: list[tuple[Change, int]] = []
    for change in _single_changes(question):
        change = question.settled(change)
        after = question.predict(question.after(change))
        if after is None:
            continue
        saves = memory.device_peak_bytes - after.device_peak_bytes
        if saves <= 0:
            continue
        singles.append((change, saves))
        if saves < WORTH_NAMING * memory.device_peak_bytes and not _inside(after):
            continue
        found.append(_remedy(question, change, saves, after))
    for limit in (SAME_RESULT, max(RESULT_CLASS.values())):
        # A change of method or length is combined only where the gentler ones can't do it, alone or together.
        if any(remedy.fits and _class(remedy.change) <= limit for remedy in found):
            continue
        gentle = [(change, saves) for change, saves in singles if _class(change) <= limit]
        combined = _combine(question, gentle)
        if combined is not None:
            change, after = combined
            found.append(_remedy(question, change, memory.device_peak_bytes - after.device_peak_bytes, after))
    found.sort(key=_order)
    return found + _other_devices(question, memory)


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


def _predict(
    question: _Question, hardware: HardwareProfile, choices: TrainingChoices, budget: int
) -> MemoryReport | None:
    from planner import memory

    question.meanwhile()
    try:
        check_length(question.model, choices)
        return memory.predict(question.model, hardware, choices, budget_bytes=budget, lengths=question.data)
    except TuneplanError:
        return None


def _remedy(question: _Question, change: Change, saves: int, after: MemoryReport) -> Remedy:
    from planner.decide.verdict import predict_speed, verdict_of

    cost = None
    if question.speed is not None:
        then = predict_speed(question.model, question.hardware, question.after(change))
        if then is not None:
            cost = then.step_seconds - question.speed.step_seconds
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


def _single_changes(question: _Question) -> Iterator[Change]:
    """Every change of one thing, in the order in which a combination takes them."""
    choices, hardware = question.choices, question.hardware
    yield from _batch_changes(question)
    yield from _checkpoint_changes(question)
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
    yield from _length_changes(question)


def _batch_changes(question: _Question) -> Iterator[Change]:
    """The micro-batch halved (accumulation grows in step), and the largest one that fits."""
    choices = question.choices
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    smaller = [size for size in range(choices.batch_size - 1, 0, -1) if sequences % size == 0]
    if not smaller:
        return
    halved = next(size for size in smaller if size <= max(1, choices.batch_size // 2))
    fitting = next((n for n, upper in _uppers(question, choices, batches=smaller) if upper <= question.budget), 0)
    for size in dict.fromkeys((halved, fitting)):
        if size:
            yield {"batch_size": size, "gradient_accumulation_steps": sequences // size}


def _checkpoint_changes(question: _Question) -> Iterator[Change]:
    """All layers checkpointed, and on the builtin stack the fewest that fit."""
    choices, total = question.choices, question.model.total_layers
    now = choices.checkpointed_layers(total)
    if now >= total:
        return
    if choices.stack == "builtin":
        layers = list(range(now + 1, total))
        fitting = next((n for n, upper in _uppers(question, choices, layers=layers) if upper <= question.budget), 0)
        if fitting:
            yield {"gradient_checkpointing": True, "checkpoint_layers": fitting}
    yield {"gradient_checkpointing": True, "checkpoint_layers": None}


def _length_changes(question: _Question) -> Iterator[Change]:
    """The longest usual length that fits, or else half of what was asked for."""
    choices = question.choices
    shorter = [length for length in LENGTHS if length < choices.max_length]
    fitting = next((n for n, upper in _uppers(question, choices, lengths=shorter) if upper <= question.budget), 0)
    length = fitting or choices.max_length // 2
    if length >= 16:
        yield {"max_length": length}


def _uppers(
    question: _Question,
    choices: TrainingChoices,
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
    question.meanwhile()
    here, checkpointed = np.ones(len(axis), dtype=np.int64), choices.checkpointed_layers(question.model.total_layers)
    grid = memory.predict_grid(
        question.model,
        question.hardware,
        choices,
        np.asarray(batches, dtype=np.int64) if batches else here * choices.batch_size,
        np.asarray(lengths, dtype=np.int64) if lengths else here * choices.max_length,
        np.asarray(layers, dtype=np.int64) if layers else here * checkpointed,
        data=question.data,
    )
    return [(value, int(upper)) for value, upper in zip(axis, grid.upper, strict=True)]


def _combine(question: _Question, singles: list[tuple[Change, int]]) -> tuple[Change, MemoryReport] | None:
    """Changes added one after another while each still saves, until it fits; None if it never does.

    The micro-batch starts at one, which changes nothing of the result, and grows again to what then fits.
    """
    total: Change = {}
    choices = question.choices
    last: MemoryReport | None = question.predict(choices)
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    # A micro-batch of one goes with every combination: it costs nothing of the result.
    steps: list[Change] = (
        [{"batch_size": 1, "gradient_accumulation_steps": sequences}] if choices.batch_size > 1 else []
    )
    steps += [change for change, _ in singles if "batch_size" not in change]
    for change in steps:
        wanted = question.settled({**total, **change})
        after = question.predict(question.after(wanted))
        if after is None or (last is not None and after.device_peak_bytes >= last.device_peak_bytes):
            continue
        total, last = wanted, after
        if _inside(after):
            found = _largest_batch(question, total, after)
            return found if len(found[0]) > 1 else None
    return None


def _largest_batch(question: _Question, total: Change, single: MemoryReport) -> tuple[Change, MemoryReport]:
    """The combination with the largest micro-batch that still fits; `single` is what it takes as it stands."""
    choices = question.choices
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    sizes = [size for size in range(choices.batch_size, 0, -1) if sequences % size == 0]
    rest = {name: value for name, value in total.items() if name not in ("batch_size", "gradient_accumulation_steps")}
    there = question.after(total)
    for size in [n for n, upper in _uppers(question, there, batches=sizes) if upper <= question.budget]:
        batch: Change = {"batch_size": size, "gradient_accumulation_steps": sequences // size}
        change = rest if size == choices.batch_size else {**batch, **rest}
        # The grid knows reserved bytes by a rule; whether it fits is said by the exact prediction alone.
        after = question.predict(question.after(change))
        if change and after is not None and _inside(after):
            return change, after
    return total, single


def _other_devices(question: _Question, memory: MemoryReport) -> list[Remedy]:
    """The smallest other devices of the same make on which the configuration fits unchanged."""
    from planner.decide.verdict import predict_speed, verdict_of
    from planner.devices.profiles import all_profiles

    hardware, speed = question.hardware, question.speed
    kinds = {hardware.kind} if hardware.kind in ("mps", "rocm") else {"cuda"}
    remedies: list[Remedy] = []
    larger = [p for p in all_profiles() if p.kind in kinds and p.name != hardware.name]
    larger.sort(key=lambda profile: (profile.budget_bytes, -profile.bandwidth_bytes_per_second))
    for profile in larger:
        # What the person set aside here is set aside there.
        aside = hardware.total_bytes - memory.budget_bytes
        budget = profile.budget_bytes if memory.budget_bytes == hardware.budget_bytes else profile.total_bytes - aside
        if budget < memory.allocated_peak_bytes:
            continue
        try:
            there = _usual(question.asked, profile, question.fixed)
        except TuneplanError:
            continue
        after = _predict(question, profile, there, budget)
        if after is None or not _inside(after):
            continue
        saves = (after.budget_bytes - after.device_peak_bytes) - (memory.budget_bytes - memory.device_peak_bytes)
        faster = predict_speed(question.model, profile, there)
        cost = None if faster is None or speed is None else faster.step_seconds - speed.step_seconds
        other = {name: getattr(there, name) for name in _FOLLOWING}
        remedies.append(
            Remedy(
                change={
                    "gpu": profile.name,
                    **{name: value for name, value in other.items() if value != getattr(question.choices, name)},
                },
                saves_bytes=saves,
                costs_seconds_per_step=cost,
                fits=True,
                verdict=verdict_of(after),
            )
        )
        if len(remedies) == OTHER_DEVICES:
            break
    return remedies
