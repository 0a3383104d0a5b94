"""What would make a configuration smaller, each change computed by running the prediction again.

A change keeps the effective batch. Changes that leave the training's result alone (batch against accumulation,
recomputation, chunked loss) come before changes of format, method, length or device, and the report says what each
costs in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from planner.contract.choices import MADE_AGAIN, TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.records import MemoryReport, Remedy, SpeedReport
from planner.contract.settings import check_length
from planner.decide.question import Question

Change = dict[str, Any]

LENGTHS = (8192, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 128)
"""Lengths that are offered as shorter ones: those of the guides and the powers of two around them."""

SAME_RESULT = 0
RESULT_CLASS = {"adapter_dtype": 1, "optimizer": 1, "precision": 1, "method": 2, "max_length": 3}
"""How deep a change goes; what is not listed leaves the training's result alone."""

WORTH_NAMING = 0.01
"""Share of the peak under which a change that does not make it fit is not worth a line."""

MUCH_SLOWER = 0.5
"""Share of a step's time by which another device may be slower and still be worth a line."""
OUT_OF_REACH = 1.25
"""What takes so many times the budget in tensors alone does not fit: measurements take no figure below 0.8 of itself
(`planner.calibration.reading`)."""
IN_THE_ALLOCATOR = {"expandable_segments", "garbage_collection_threshold"}
"""Choices that change what the allocator holds, and no tensor."""
OTHER_DEVICES = 3
"""How many other devices are named: the smallest ones on which the configuration fits as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A question with what its choices came to: what is to be made smaller."""

    question: Question
    """Its choices are those that were asked for."""
    choices: TrainingChoices
    """The choices as they were judged: in a number format that the device has."""
    memory: MemoryReport
    speed: SpeedReport | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hunt:
    """One search for remedies."""

    judged: Judged
    meanwhile: Callable[[], None]
    """Called before each prediction; what it raises ends the search."""

    @property
    def question(self) -> Question:
        """What was asked."""
        return self.judged.question

    @property
    def choices(self) -> TrainingChoices:
        """The choices as they were judged."""
        return self.judged.choices

    def after(self, change: Change) -> TrainingChoices:
        """The choices after a change."""
        return replace(self.choices, **change)

    def predict(self, asked: Question) -> MemoryReport | None:
        """None where the configuration is refused (not modelled on this model or device)."""
        from planner import memory

        self.meanwhile()
        try:
            check_length(asked.model, asked.choices)
            return memory.predict(
                asked.model, asked.hardware, asked.choices, budget_bytes=asked.budget_bytes, lengths=asked.lengths
            )
        except TuneplanError:
            return None

    def predict_after(self, change: Change) -> MemoryReport | None:
        """The memory after a change on the same device."""
        return self.predict(self.question.having(self.after(change)))

    def tensors_after(self, change: Change) -> int | None:
        """Bytes of the tensors after a change: quickly, since no allocator is played."""
        from planner import memory

        asked = self.question.having(self.after(change))
        try:
            check_length(asked.model, asked.choices)
            return memory.allocated_peak(asked.model, asked.hardware, asked.choices, asked.lengths)
        except TuneplanError:
            return None

    def settled(self, change: Change) -> Change:
        """The change with all that follows from it where the person named nothing: number format, optimizer's step.

        Whoever makes the change, from the settings or from the command line, so comes to the same configuration.
        """
        question = self.question
        changed = replace(question.choices, **change)
        usual = replace(question, choices=changed, fixed=question.fixed | change.keys()).completed()
        return {**change, **{name: getattr(usual, name) for name in _FOLLOWING if self._differs(usual, name)}}

    def _differs(self, usual: TrainingChoices, name: str) -> bool:
        return bool(getattr(usual, name) != getattr(self.choices, name))


_FOLLOWING = ("precision", "optimizer_implementation")
"""Choices that follow from others and the device until someone names them."""


def find_remedies(judged: Judged, *, meanwhile: Callable[[], None] | None = None) -> list[Remedy]:
    """Changes that save memory: those that fit the budget first, the gentlest and then the quickest foremost.

    `meanwhile`: called between predictions; what it raises ends the search.
    `saves_bytes` is what the change frees of the device peak; for another device, what the headroom grows by.
    """
    hunt, memory = _Hunt(judged=judged, meanwhile=meanwhile or (lambda: None)), judged.memory
    found: list[Remedy] = []
    singles: list[tuple[Change, int]] = []
    for change in _single_changes(hunt):
        change = hunt.settled(change)
        after = hunt.predict_after(change)
        if after is None:
            continue
        saves = memory.device_peak_bytes - after.device_peak_bytes
        if saves <= 0:
            continue
        singles.append((change, saves))
        if saves < WORTH_NAMING * memory.device_peak_bytes and not _inside(after):
            continue
        found.append(_remedy(hunt, change, saves, after))
    for limit in (SAME_RESULT, max(RESULT_CLASS.values())):
        # A change of method or length is combined only where the gentler ones can't do it, alone or together.
        if any(remedy.fits and _class(remedy.change) <= limit for remedy in found):
            continue
        gentle = [(change, saves) for change, saves in singles if _class(change) <= limit]
        combined = _combine(hunt, gentle)
        if combined is not None:
            change, after = combined
            found.append(_remedy(hunt, change, memory.device_peak_bytes - after.device_peak_bytes, after))
    found.sort(key=_order)
    return found + _other_devices(hunt)


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


def _remedy(hunt: _Hunt, change: Change, saves: int, after: MemoryReport) -> Remedy:
    from planner.decide.verdict import predict_speed, verdict_of

    cost = None
    if hunt.judged.speed is not None:
        then = predict_speed(hunt.question.model, hunt.question.hardware, hunt.after(change))
        if then is not None:
            cost = then.step_seconds - hunt.judged.speed.step_seconds
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


def _single_changes(hunt: _Hunt) -> Iterator[Change]:
    """Every change of one thing, in the order in which a combination takes them."""
    choices, hardware = hunt.choices, hunt.question.hardware
    yield from _batch_changes(hunt)
    yield from _checkpoint_changes(hunt)
    if choices.stack == "builtin" and choices.loss == "full":
        yield {"loss": "chunked"}
    if choices.stack == "builtin" and set(choices.made_again) != set(MADE_AGAIN):
        yield {"made_again": MADE_AGAIN}
    if choices.stack == "peft" and not choices.keep_logits and choices.transformers_version is None:
        yield {"stack": "builtin", "loss": "chunked"}
    if choices.keep_logits:
        yield {"keep_logits": False}
    if hardware.kind == "cuda" and choices.num_gpus == 1 and not choices.expandable_segments:
        further = {} if choices.garbage_collection_threshold is None else {"garbage_collection_threshold": None}
        yield {"expandable_segments": True, **further}
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
    yield from _length_changes(hunt)


def _batch_changes(hunt: _Hunt) -> Iterator[Change]:
    """The micro-batch halved (accumulation grows in step), and the largest one that fits."""
    choices = hunt.choices
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    smaller = [size for size in range(choices.batch_size - 1, 0, -1) if sequences % size == 0]
    if not smaller:
        return
    halved = next(size for size in smaller if size <= max(1, choices.batch_size // 2))
    fitting = next(iter(_fitting(hunt, choices, "batch_size", smaller)), 0)
    for size in dict.fromkeys((halved, fitting)):
        if size:
            yield {"batch_size": size, "gradient_accumulation_steps": sequences // size}


def _checkpoint_changes(hunt: _Hunt) -> Iterator[Change]:
    """All layers checkpointed, and on the builtin stack the fewest that fit."""
    choices, total = hunt.choices, hunt.question.model.total_layers
    now = choices.checkpointed_layers(total)
    if now >= total:
        return
    if choices.stack == "builtin":
        layers = list(range(now + 1, total))
        fitting = next(iter(_fitting(hunt, choices, "layers", layers)), 0)
        if fitting:
            yield {"gradient_checkpointing": True, "checkpoint_layers": fitting}
    yield {"gradient_checkpointing": True, "checkpoint_layers": None}


def _length_changes(hunt: _Hunt) -> Iterator[Change]:
    """The longest usual length that fits, or else half of what was asked for."""
    choices = hunt.choices
    shorter = [length for length in LENGTHS if length < choices.max_length]
    fitting = next(iter(_fitting(hunt, choices, "length", shorter)), 0)
    length = fitting or choices.max_length // 2
    if length >= 16:
        yield {"max_length": length}


def _fitting(
    hunt: _Hunt, choices: TrainingChoices, axis: Literal["batch_size", "length", "layers"], values: list[int]
) -> list[int]:
    """Those of the values along one axis with which the interval's upper end is inside the budget, by the grid."""
    import numpy as np

    from planner import memory

    if not values:
        return []
    hunt.meanwhile()
    question, here = hunt.question, np.ones(len(values), dtype=np.int64)
    axes = {
        "batch_size": here * choices.batch_size,
        "length": here * choices.max_length,
        "layers": here * choices.checkpointed_layers(question.model.total_layers),
        axis: np.asarray(values, dtype=np.int64),
    }
    grid = memory.predict_grid(question.model, question.hardware, choices, *axes.values(), data=question.lengths)
    return [value for value, upper in zip(values, grid.upper, strict=True) if upper <= question.budget_bytes]


def _combine(hunt: _Hunt, singles: list[tuple[Change, int]]) -> tuple[Change, MemoryReport] | None:
    """Changes added one after another while each still saves, until it fits; None if it never does.

    The micro-batch starts at one, which changes nothing of the result, and grows again to what then fits.
    """
    total: Change = {}
    choices = hunt.choices
    last: MemoryReport | None = hunt.judged.memory
    fewest, out_of_reach = hunt.tensors_after({}), OUT_OF_REACH * hunt.judged.memory.budget_bytes
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    # A micro-batch of one goes with every combination: it costs nothing of the result.
    steps: list[Change] = (
        [{"batch_size": 1, "gradient_accumulation_steps": sequences}] if choices.batch_size > 1 else []
    )
    steps += [change for change, _ in singles if "batch_size" not in change]
    for change in steps:
        wanted = hunt.settled({**total, **change})
        tensors = hunt.tensors_after(wanted)
        if tensors is None:
            continue
        if tensors > out_of_reach:
            if fewest is None or tensors < fewest or change.keys() <= IN_THE_ALLOCATOR:
                total, last, fewest = wanted, None, tensors
            continue
        after = hunt.predict_after(wanted)
        if after is None or (last is not None and after.device_peak_bytes >= last.device_peak_bytes):
            continue
        total, last, fewest = wanted, after, tensors
        if _inside(after):
            found = _largest_batch(hunt, total, after)
            return found if len(found[0]) > 1 else None
    return None


def _largest_batch(hunt: _Hunt, total: Change, single: MemoryReport) -> tuple[Change, MemoryReport]:
    """The combination with the largest micro-batch that still fits; `single` is what it takes as it stands."""
    choices = hunt.choices
    sequences = choices.batch_size * choices.gradient_accumulation_steps
    sizes = [size for size in range(choices.batch_size, 0, -1) if sequences % size == 0]
    rest = {name: value for name, value in total.items() if name not in ("batch_size", "gradient_accumulation_steps")}
    there = hunt.after(total)
    for size in _fitting(hunt, there, "batch_size", sizes):
        batch: Change = {"batch_size": size, "gradient_accumulation_steps": sequences // size}
        change = rest if size == choices.batch_size else {**batch, **rest}
        # The grid knows reserved bytes by a rule; whether it fits is said by the exact prediction alone.
        after = hunt.predict_after(change)
        if change and after is not None and _inside(after):
            return change, after
    return total, single


def _chip(device: str) -> str:
    """A profile's name without the memory that the chip comes with: m3 of m3-16gb."""
    return re.sub(r"-\d+gb$", "", device)


def _other_devices(hunt: _Hunt) -> list[Remedy]:
    """The smallest other devices of the same make on which the configuration fits unchanged; the same chip with more
    memory comes first.

    One that takes much longer for a step is named only where there is no other.
    """
    from planner.devices.profiles import all_profiles

    hardware, memory = hunt.question.hardware, hunt.judged.memory
    kinds = {hardware.kind} if hardware.kind in ("mps", "rocm") else {"cuda"}
    remedies: list[Remedy] = []
    slow: list[Remedy] = []
    larger = [p for p in all_profiles() if p.kind in kinds and p.name != hardware.name]
    chip = _chip(hardware.name)
    larger.sort(key=lambda p: (_chip(p.name) != chip, p.budget_bytes, -p.bandwidth_bytes_per_second))
    for profile in larger:
        # What the person set aside here is set aside there.
        aside = hardware.total_bytes - memory.budget_bytes
        budget = profile.budget_bytes if memory.budget_bytes == hardware.budget_bytes else profile.total_bytes - aside
        if budget < memory.allocated_peak_bytes:
            continue
        remedy = _moved(hunt, replace(hunt.question, hardware=profile, budget=budget))
        if remedy is not None:
            longer, speed = remedy.costs_seconds_per_step, hunt.judged.speed
            is_slow = longer is not None and speed is not None and longer > MUCH_SLOWER * speed.step_seconds
            (slow if is_slow else remedies).append(remedy)
        if len(remedies) == OTHER_DEVICES:
            break
    return remedies or slow[:OTHER_DEVICES]


def _moved(hunt: _Hunt, there: Question) -> Remedy | None:
    """The question on another device; None where it does not fit or isn't modelled there."""
    from planner.decide.verdict import predict_speed, verdict_of

    try:
        usual = there.completed()
    except TuneplanError:
        return None
    after = hunt.predict(there.having(usual))
    if after is None or not _inside(after):
        return None
    memory, speed = hunt.judged.memory, hunt.judged.speed
    faster = predict_speed(there.model, there.hardware, usual)
    following = {name: getattr(usual, name) for name in _FOLLOWING}
    return Remedy(
        change={
            "gpu": there.hardware.name,
            **{name: value for name, value in following.items() if value != getattr(hunt.choices, name)},
        },
        saves_bytes=(after.budget_bytes - after.device_peak_bytes) - (memory.budget_bytes - memory.device_peak_bytes),
        costs_seconds_per_step=None if faster is None or speed is None else faster.step_seconds - speed.step_seconds,
        fits=True,
        verdict=verdict_of(after),
    )
