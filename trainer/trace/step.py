"""One steady-state optimizer step, told phase by phase, on whatever tensors the model is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch

from planner.contract.choices import TrainingChoices
from trainer.modeling import compute_loss


def make_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Takes one update with empty gradients, so that the state exists as it does from the second step on."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def run_step(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    choices: TrainingChoices,
    optimizer: torch.optim.Optimizer,
    *,
    phase: Callable[[str], None],
    num_items: torch.Tensor,
    accumulating: bool = False,
) -> None:
    """Forward, loss, backward, clipping, update and release of the gradients, in the transformers Trainer's order.

    `phase` is called at the start of forward, backward and optimizer (the loss starts at the head, by a hook).
    With `accumulating` the gradients of earlier micro-batches exist already: the last micro-batch of a step, which sets
    its peak.
    """
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    if accumulating:
        phase("accumulate")
        for parameter in trainable:
            parameter.grad = torch.zeros_like(parameter)
    phase("forward")
    loss, held = compute_loss(model, batch, choices, num_items=num_items)
    phase("backward")
    loss.backward()
    del loss, held
    phase("optimizer")
    if choices.max_grad_norm > 0:
        torch.nn.utils.clip_grad_norm_(trainable, choices.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    phase("end")
