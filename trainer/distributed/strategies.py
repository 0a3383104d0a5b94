"""How a step is divided among processes: what the loop asks of DDP, FSDP and of one process alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from planner.spec import TrainingChoices
from trainer.distributed import supported
from trainer.distributed.world import World


class Alone:
    """One process: nothing to divide. The others change what differs."""

    recovers = True
    """Whether a process may cut its micro-batch in pieces without the others doing the same at the same time, and holds
    its weights whole."""

    def __init__(self, choices: TrainingChoices, world: World) -> None:
        self.choices = choices
        self.world = world

    def arguments(self) -> dict[str, Any]:
        """Further `TrainingArguments`."""
        return {}

    def before_optimizer(self, model: Any, device: torch.device) -> None:
        """Before the optimizer is built over the model's parameters."""

    def begin_step(self) -> None:
        """A new effective batch begins."""

    def accumulates(self, model: Any, last: bool) -> None:
        """Before the passes of a micro-batch; `last` of the step or not."""

    def inside(self, model: Any, function: Callable[[], Any]) -> Any:
        """Runs something that uses the model's weights other than through the whole model's forward."""
        return function()

    def divide(self, model: Any) -> None:
        """Every parameter is this process's part again, whatever a forward pass without a backward left whole."""

    def reduce(self, wrapped: Any) -> None:
        """Adds up the gradients of all processes, after the last micro-batch."""

    def full(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The whole of a tensor that processes hold in parts, on rank 0; called by all of them."""
        return tensor

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This process's part of a tensor, as it holds `like`."""
        return whole


def choose(choices: TrainingChoices, world: World) -> Alone:
    """The strategy that the choices name; raises NotModelled for what no process group can run."""
    if world.size == 1:
        return Alone(choices, world)
    supported.check(choices)
    if choices.strategy == "ddp":
        from trainer.distributed.replicated import Replicated

        return Replicated(choices, world)
    from trainer.distributed.sharded import Sharded

    return Sharded(choices, world)
