"""Transient bytes of the trainer's own update, which runs over parts of the parameters so that it can be undone.

As in `trainer.recovery.updates`: optimizers that write while they still allocate take the parameters in up to
`PARTS` runs of about equal bytes and copy parameters and state of a run first; kernels that allocate nothing once their
state exists (fused, 8-bit) take all at once and copy nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby

from planner.contract.choices import DEFAULTS, UPDATE_PARTS, TrainingChoices
from planner.memory.step.optimizers import TrainedTensor, state_bytes, step_bytes


def update_bytes(tensors: list[TrainedTensor], choices: TrainingChoices) -> int:
    """Most that any part takes: its copies, and what the optimizer itself makes for it (`optimizers.step_bytes`).

    On stack `peft` the optimizer updates everything at once and nothing is copied.
    """
    kind, implementation = choices.optimizer, choices.optimizer_implementation
    rule = replace(DEFAULTS, stack=choices.stack, optimizer=kind, optimizer_implementation=implementation)
    return _update_bytes(tuple(tensors), rule)


@lru_cache(maxsize=64)  # the same for every batch and length, and thousands of tensors
def _update_bytes(tensors: tuple[TrainedTensor, ...], choices: TrainingChoices) -> int:
    if choices.stack != "builtin" or writes_late(choices):
        return step_bytes(tensors, choices)
    return max((_part_bytes(part, choices) for part in parts(list(one_by_one(tensors)))), default=0)


def writes_late(choices: TrainingChoices) -> bool:
    """Whether an update fails before it writes: fused and 8-bit kernels allocate nothing once their state exists."""
    fused = choices.optimizer_implementation == "fused" and choices.optimizer in ("adamw", "sgd")
    return fused or choices.optimizer in ("adamw-8bit", "paged-adamw-8bit")


def one_by_one(tensors: Sequence[TrainedTensor]) -> Iterator[TrainedTensor]:
    """Every single tensor in the order of the update: those with weight decay first, layer after layer."""
    for decayed in (True, False):
        group = [tensor for tensor in tensors if tensor.decayed is decayed]
        for copies, run in groupby(group, lambda tensor: tensor.copies):
            layer = [replace(tensor, copies=1) for tensor in run]
            for _ in range(copies):
                yield from layer


def parts(members: list[TrainedTensor]) -> list[list[TrainedTensor]]:
    """Runs of consecutive tensors: one that begins in the next share of the bytes begins the next run."""
    total = sum(member.size for member in members)
    found: list[list[TrainedTensor]] = []
    current: list[TrainedTensor] = []
    before = 0
    for member in members:
        if current and before * UPDATE_PARTS >= (len(found) + 1) * total:
            found.append(current)
            current = []
        current.append(member)
        before += member.size
    return [*found, current] if current else found


def _part_bytes(part: list[TrainedTensor], choices: TrainingChoices) -> int:
    copies = sum(tensor.size for tensor in part) + state_bytes(part, choices)
    # Groups with and without weight decay are updated one after the other.
    groups = [[tensor for tensor in part if tensor.decayed is decayed] for decayed in (True, False)]
    return copies + max(step_bytes(group, choices) for group in groups)
