"""FSDP's exchanges over gloo (processes on CPUs), which give their buffers back before the step goes on.

gloo's worker thread wakes the caller and only then lets go of the finished exchange, which holds its tensors
(torch/csrc/distributed/c10d/ProcessGroupGloo.cpp, `runLoop`). How soon depends on the scheduler: on a busy machine the
buffer of one layer is still there while the next one's is made, so a rank's peak varied by up to a layer's weights
from run to run. NCCL works on streams and has no such thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

LONGEST_SECONDS = 1.0
"""After this the step goes on with the buffer still held: memory is not worth a run that hangs."""
PAUSE_SECONDS = 0.00005


def _uses(tensor: torch.Tensor) -> int:
    """How many hold the tensor's storage; 0 where torch doesn't tell.

    An alias (`detach`) has a hold of its own, so that it is seen when gloo lets go of one that it was given.
    """
    count: Any = getattr(torch._C, "_storage_Use_Count", None)
    return int(count(tensor.untyped_storage()._cdata)) if count is not None else 0


def _until_released(tensors: Sequence[torch.Tensor], before: Sequence[int]) -> None:
    """Waits until no more hold the tensors than did before the exchange."""
    end = time.monotonic() + LONGEST_SECONDS
    while any(_uses(t) > n for t, n in zip(tensors, before, strict=True)) and time.monotonic() < end:
        time.sleep(PAUSE_SECONDS)


class _Prompt:
    """What both exchanges share: plain buffers, and the wait (torch.distributed.fsdp's `Comm`)."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A buffer for the exchange."""
        return torch.empty(*size, dtype=dtype, device=device)


class PromptAllGather(_Prompt):
    """Gathers a unit's weights; always done when it returns."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: object, async_op: bool = False
    ) -> None:
        tensors = [output_tensor, input_tensor]
        before = [_uses(tensor) for tensor in tensors]
        gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # the new name since torch 2.13
        gather(output_tensor.detach(), input_tensor.detach(), group=group)
        _until_released(tensors, before)


class PromptReduceScatter(_Prompt):
    """Adds up a unit's gradients and keeps this rank's part; always done when it returns.

    gloo's own reduce-scatter is an all-reduce of a copy that it makes for itself. FSDP doesn't use its input again, so
    the sum is made in place and no copy is needed.
    """

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        before = _uses(input_tensor)
        dist.all_reduce(input_tensor.detach(), op=op, group=group)
        output_tensor.copy_(input_tensor.chunk(dist.get_world_size(group))[dist.get_rank(group)])
        _until_released([input_tensor], [before])


def prompt_exchanges(unit: Any) -> None:
    """Makes a sharded unit exchange so, where this torch lets exchanges be replaced."""
    if hasattr(unit, "set_custom_all_gather") and hasattr(unit, "set_custom_reduce_scatter"):
        unit.set_custom_all_gather(PromptAllGather())
        unit.set_custom_reduce_scatter(PromptReduceScatter())
