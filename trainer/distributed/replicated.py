"""DDP: every process holds the whole model and works on its own micro-batches; gradients are added up once a step.

The reduction is DistributedDataParallel's own, but it runs after the last backward pass and not within it. So no
process waits for another inside a pass that may run out of memory: each recovers on its own, in its own pieces, and
meets the others when its gradients are whole. What overlapping would hide is the time of one all-reduce per step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from trainer.distributed.alone import Alone
from trainer.modeling.functions import applied


class _Touch(torch.autograd.Function):
    """A zero that depends on every parameter; backward adds nothing to their gradients, but tells DDP they're ready."""

    @staticmethod
    def forward(ctx: Any, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.like = [(p.shape, p.dtype, p.device) for p in parameters]
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        # One element, expanded: nothing of the parameters' size is made.
        return tuple(torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.like)


class Replicated(Alone):
    """DistributedDataParallel through accelerate."""

    def __init__(self, *rest: Any) -> None:
        super().__init__(*rest)
        self.parameters: list[torch.nn.Parameter] = []
        self.unused: list[torch.nn.Parameter] | None = None
        """Parameters that no process's loss reaches: they get no gradient, as with one process."""
        self.views: list[torch.Tensor | None] = []

    def arguments(self) -> dict[str, object]:
        # Buffers are the same everywhere: these models hold tables in them and no running statistics.
        return {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}

    def before_optimizer(self, model: torch.nn.Module, device: torch.device) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def begin_step(self) -> None:
        """Where everything is trained, gradients are made in DDP's buckets from the start, instead of copied there."""
        if self.choices.method != "full":
            return
        for parameter, view in zip(self.parameters, self.views, strict=False):
            if view is not None and parameter.grad is None:
                parameter.grad = view.zero_()

    def reduce(self, wrapped: Any) -> None:
        if self.unused is None:
            reached = self.world.table([float(p.grad is not None) for p in self.parameters]).sum(dim=0)
            self.unused = [p for p, count in zip(self.parameters, reached.tolist(), strict=True) if not count]
        module = wrapped.module
        with calling(module, lambda: applied(_Touch, *self.parameters)):
            zero = wrapped()
        zero.backward()
        for parameter in self.unused:
            parameter.grad = None
        self.views = [parameter.grad for parameter in self.parameters]


@contextlib.contextmanager
def calling(module: torch.nn.Module, function: Any) -> Iterator[None]:
    """Calls of the module run `function` with the hooks that stand around its forward."""
    before = module.__dict__.get("forward")
    module.forward = function
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.forward = before
