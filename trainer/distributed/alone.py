"""How a step is divided among processes: what the loop asks of DDP, FSDP and of one process alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from trainer.distributed.world import World
from trainer.recovery import updates


class Alone:
    """One process: nothing to divide. The others change what differs."""

    recovers = True
    """Whether a process may cut its micro-batch in pieces without the others doing the same at the same time."""
    whole = True
    """Whether a process holds its weights whole."""
    whole_state = True
    """Whether a process holds the optimizer's state whole."""
    updates_alone = True
    """Whether a process can undo an update that ran out of memory and make it again."""
    reduces_in: str | None = None
    """The instant that the reduction is metered in; None: it belongs to no instant."""

    def __init__(self, choices: TrainingChoices, world: World) -> None:
        self.choices = choices
        self.world = world

    def arguments(self) -> dict[str, object]:
        """Further `TrainingArguments`."""
        return {}

    def before_optimizer(self, model: torch.nn.Module, device: torch.device) -> None:
        """Before the optimizer is built over the model's parameters."""

    def optimizer(
        self, made: torch.optim.Optimizer, failed: Callable[[bool], None], strike: Callable[[], None]
    ) -> torch.optim.Optimizer:
        """The optimizer that the loop uses, of the one that was built; the arguments are those of `updates.guard`."""
        updates.guard(made, self.choices, failed=failed, strike=strike)
        return made

    def kept(self) -> list[torch.Tensor]:
        """What lives from step to step and is neither a parameter nor the optimizer's state."""
        return []

    def begin_step(self) -> None:
        """A new effective batch begins."""

    def accumulates(self, model: torch.nn.Module, last: bool) -> None:
        """Before the passes of a micro-batch; `last` of the step or not."""

    def backward(self, accelerator: Any, loss: torch.Tensor) -> None:
        """The backward pass of a piece."""
        accelerator.backward(loss)

    def inside(self, model: torch.nn.Module, function: Callable[[], object]) -> object:
        """Runs something that uses the model's weights other than through the whole model's forward."""
        return function()

    def divide(self, model: torch.nn.Module) -> None:
        """Every parameter is this process's part again, whatever a forward pass without a backward left whole."""

    def reduce(self, wrapped: torch.nn.Module) -> None:
        """Adds up the gradients of all processes, after the last micro-batch."""

    def norm(self) -> float | None:
        """The norm of all gradients where parameters don't hold them and the update clips them itself, else None."""
        return None

    def full(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The whole of a tensor that processes hold in parts, on rank 0; called by all of them."""
        return tensor

    def whole_optimizer(self, optimizer: torch.optim.Optimizer) -> dict[str, object]:
        """The optimizer's state as one process alone would save it, on rank 0; called by all processes."""
        held: dict[str, Any] = optimizer.state_dict()
        if self.whole_state:
            return held
        state = {
            number: {key: self.full(v) if torch.is_tensor(v) else v for key, v in values.items()}
            for number, values in held["state"].items()
        }
        return {**held, "state": state}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, held: dict[str, Any]) -> None:
        """Takes this process's part of a state of whole tensors."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, values in held["state"].items():
            like = parameters[number]
            for key, value in values.items():
                if torch.is_tensor(value) and value.shape == like.shape:
                    values[key] = self.part(value, like)
        optimizer.load_state_dict(held)

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This process's part of a tensor, as it holds `like`."""
        return whole
