"""The memory behaviour of a device's own operators, for a step that is traced on fake CPU tensors.

What differs between devices is which tensors an operator keeps for backward and what it holds while it runs. Functions
are replaced rather than intercepted, because a recomputation inside backward does not see function modes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from trainer.trace.attention import cuda_attention, math_attention
from trainer.trace.recorder import StepRecorder

Replacement = tuple[object, str, object]
"""(owner, name of an attribute, what it is meanwhile)."""

_softmax = functional.softmax
_is_autocast_enabled = torch.is_autocast_enabled


def fused_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """CUDA's dropout: the output and a mask of one byte per element."""
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]


def half_softmax(
    input: torch.Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """CUDA's softmax of fp16 into fp32 converts as it goes, without an fp32 copy of its input."""
    if dim is not None and input.dtype == torch.float16 and dtype == torch.float32:
        made: torch.Tensor = torch.ops.aten._softmax(input, dim, True)
        return made
    return _softmax(input, dim, _stacklevel, dtype)


def _autocast_enabled(device_type: str = "cpu") -> bool:
    """Without a device the question is about CUDA, whose part the CPU's autocast plays here."""
    return _is_autocast_enabled("cpu" if device_type == "cuda" else device_type)


@contextlib.contextmanager
def replaced(changes: list[Replacement]) -> Iterator[None]:
    """Sets attributes of modules and puts them back afterwards."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def device_operators(target: str, kernel: str) -> list[Replacement]:
    """Replacements that give fake CPU tensors the memory behaviour of `target`."""
    if target == "cuda":
        return [
            (functional, "scaled_dot_product_attention", cuda_attention(kernel)),
            (functional, "dropout", fused_dropout),
            (functional, "softmax", half_softmax),
            (torch, "is_autocast_enabled", _autocast_enabled),
        ]
    if target == "mps":
        return [(functional, "scaled_dot_product_attention", math_attention())]
    return []


def host_offload(recorder: StepRecorder) -> list[Replacement]:
    """Saved layer inputs go to host memory: copies that are not counted, and come back as new tensors in backward."""
    from trainer.modeling import checkpointing

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        with recorder.paused():
            return torch.empty_like(tensor)

    def save_on_host(**_: object) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(pack, torch.empty_like)

    return [(checkpointing, "save_on_cpu", save_on_host)]


def mask_creation(padded: bool) -> list[Replacement]:
    """Decides the data-dependent branches of transformers' mask creation as a real batch would.

    With no padded token a real run finds the mask to be all ones and builds none; fake tensors have no values to look
    at, so transformers would take the general path.
    """
    from transformers import masking_utils as masks

    changes: list[Replacement] = [(masks, "find_packed_sequence_indices", lambda position_ids: None)]
    if not padded:
        causal, both = masks._ignore_causal_mask_sdpa, masks._ignore_bidirectional_mask_sdpa

        def ignore_causal(padding_mask: object, *args: Any, **kwargs: Any) -> bool:
            return causal(None, *args, **kwargs)

        def ignore_both(padding_mask: object, *args: Any, **kwargs: Any) -> bool:
            return both(None, *args, **kwargs)

        changes += [
            (masks, "_ignore_causal_mask_sdpa", ignore_causal),
            (masks, "_ignore_bidirectional_mask_sdpa", ignore_both),
        ]
    return changes


@contextlib.contextmanager
def optimizer_rules(optimizer: Any, recorder: StepRecorder, target: str, fake_mode: FakeTensorMode) -> Iterator[None]:
    """While the state of a bitsandbytes optimizer is made: its code books are fakes, and paged state is not counted.

    A paged optimizer keeps the state of parameters with 100,000 elements or more in managed memory, which the CUDA
    allocator does not count.
    """
    if not hasattr(optimizer, "get_state_buffer"):
        yield
        return
    for name in ("dynamic", "udynamic"):
        with fake_mode:
            optimizer.name2qmap[name] = torch.empty(256, dtype=torch.float32)
    make = optimizer.get_state_buffer

    def buffer(parameter: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        if target == "cuda" and optimizer.is_paged and parameter.numel() >= 1e5:
            with recorder.paused():
                return torch.zeros_like(parameter, dtype=dtype)
        return torch.zeros_like(parameter, dtype=dtype)

    optimizer.get_state_buffer = buffer
    try:
        yield
    finally:
        optimizer.get_state_buffer = make
