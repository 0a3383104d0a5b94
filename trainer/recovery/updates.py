"""The optimizer's update, such that memory that runs out half way through leaves nothing half updated.

An optimizer writes in place: first the moments, then the weights. If it fails in between, the step can neither be
repeated nor skipped. So the update runs over parts of the parameters, each copied before. A sixteenth of the parameters
four times over, three copies and its square roots, is a quarter of what the multi-tensor implementation takes for a
whole update. `planner.memory.step.updates` counts the same parts.
"""

from __future__ import annotations

import contextlib
import logging
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from planner.contract.choices import UPDATE_PARTS, TrainingChoices
from planner.contract.shown import clause
from trainer.measure import devices

log = logging.getLogger("trainer")

Member = tuple[int, torch.Tensor]
"""Number of the parameter group, parameter."""


def guard(
    optimizer: torch.optim.Optimizer,
    choices: TrainingChoices,
    *,
    failed: Callable[[bool], None],
    strike: Callable[[], None] = lambda: None,
) -> None:
    """Makes `optimizer.step` survive out-of-memory.

    `failed(divisible)` is called after the failed part was undone and raises when the run can't go on. `strike` may
    raise out-of-memory on demand.
    """
    original = optimizer.step
    # Fused and 8-bit kernels take nothing once the state exists, so they fail before they write.
    writes_late = choices.optimizer in ("adamw-8bit", "paged-adamw-8bit") or (
        choices.optimizer_implementation == "fused" and choices.optimizer in ("adamw", "sgd")
    )
    count = 1 if writes_late else UPDATE_PARTS

    def step(self: Any, closure: Any = None) -> Any:
        if closure is not None:
            return original(closure)
        members = [(n, p) for n, group in enumerate(self.param_groups) for p in group["params"] if p.grad is not None]
        pending = deque(parts(members, count))
        while pending:
            part = pending.popleft()
            saved: Saved | None = None
            try:
                if writes_late:
                    strike()
                saved = Saved(self, part, copies=not writes_late)
                with only(self, part):
                    original()
                if not writes_late:
                    strike()
                continue
            except Exception as error:
                if not devices.is_out_of_memory(error):
                    raise
                log.info("out of memory: %s", clause(error, 300))
            if saved is not None:
                saved.restore()
            failed(len(part) > 1)
            pending.extendleft(reversed(parts(part, 2)))
        return None

    optimizer.step = types.MethodType(step, optimizer)  # type: ignore[method-assign]


def give_up(divisible: bool) -> None:
    """For `guard`, where an update that runs out of memory is the end: a probe, a trace."""
    raise torch.OutOfMemoryError("out of memory in the optimizer's update")


def parts(members: list[Member], count: int) -> list[list[Member]]:
    """At most `count` runs of consecutive parameters of about equal bytes."""
    total = sum(p.numel() * p.element_size() for _, p in members)
    found: list[list[Member]] = []
    current: list[Member] = []
    before = 0
    for member in members:
        size = member[1].numel() * member[1].element_size()
        # A parameter that begins in the next share of the bytes begins the next part.
        if current and before * count >= (len(found) + 1) * total:
            found.append(current)
            current = []
        current.append(member)
        before += size
    return [*found, current] if current else found


@contextlib.contextmanager
def only(optimizer: torch.optim.Optimizer, part: list[Member]) -> Iterator[None]:
    """The optimizer sees these parameters and no others."""
    before = [group["params"] for group in optimizer.param_groups]
    for number, group in enumerate(optimizer.param_groups):
        group["params"] = [p for n, p in part if n == number]
    try:
        yield
    finally:
        for group, params in zip(optimizer.param_groups, before, strict=True):
            group["params"] = params


class Saved:
    """Parameters and their optimizer state as they were."""

    def __init__(self, optimizer: torch.optim.Optimizer, part: list[Member], *, copies: bool) -> None:
        self.optimizer = optimizer
        self.copies = copies
        self.entries: list[tuple[torch.Tensor, torch.Tensor | None, dict[str, object] | None]] = []
        for _, parameter in part:
            state = optimizer.state.get(parameter)
            self.entries.append(
                (
                    parameter,
                    parameter.detach().clone() if copies else None,
                    {k: _copy(v) if copies else v for k, v in state.items()} if state is not None else None,
                )
            )

    @torch.no_grad()
    def restore(self) -> None:
        """Writes everything back; state that didn't exist is gone again."""
        for parameter, value, before in self.entries:
            if value is not None:
                parameter.copy_(value)
            if before is None:
                self.optimizer.state.pop(parameter, None)
                continue
            if not self.copies:
                continue
            state = self.optimizer.state[parameter]
            for key in [key for key in state if key not in before]:
                del state[key]
            for key, old in before.items():
                if torch.is_tensor(old) and torch.is_tensor(state.get(key)) and state[key].shape == old.shape:
                    state[key].copy_(old)
                else:
                    state[key] = old


def _copy(value: object) -> object:
    return value.detach().clone() if torch.is_tensor(value) else value
