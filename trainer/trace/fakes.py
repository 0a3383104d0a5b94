"""Turns a model on `meta` into one of fake CPU tensors: shapes, dtypes and storages, but no bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.modeling import quantized


def make_fake(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replaces every parameter, buffer and plain tensor attribute in place; shared tensors stay shared."""
    made: dict[int, Any] = {}
    keep: list[Any] = []

    def fake(tensor: torch.Tensor) -> Any:
        if id(tensor) in made:
            return made[id(tensor)]
        keep.append(tensor)  # an id stays taken while the tensor lives
        if type(tensor).__name__ in ("Params4bit", "Int8Params"):
            fake_quantized = fake_4bit if type(tensor).__name__ == "Params4bit" else fake_int8
            made[id(tensor)] = fake_quantized(tensor, mode)
            return made[id(tensor)]
        with mode:
            new: Any = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
        made[id(tensor)] = new
        return new

    for module in model.modules():
        for table in (module._parameters, module._buffers, module.__dict__):
            for name, value in list(table.items()):
                if isinstance(value, torch.Tensor):
                    table[name] = fake(value)


def fake_4bit(weight: Any, mode: FakeTensorMode) -> Any:
    """A 4-bit weight with its quantisation state: two values a byte, a scale per 64 values.

    Under double quantisation the scales are bytes themselves, with an fp32 scale per 256 of them.
    """
    from bitsandbytes.functional import QuantState

    blocks = -(-weight.numel() // weight.blocksize)
    with mode:
        values = torch.empty((-(-weight.numel() // 2), 1), dtype=torch.uint8)
        nested = None
        if weight.compress_statistics:
            nested = QuantState(
                absmax=torch.empty(-(-blocks // 256), dtype=torch.float32),
                code=torch.empty(256, dtype=torch.float32),
                blocksize=256,
                dtype=torch.float32,
            )
        state = QuantState(
            absmax=torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32),
            shape=weight.shape,
            code=torch.empty(16, dtype=torch.float32),
            blocksize=weight.blocksize,
            quant_type=weight.quant_type,
            dtype=weight.dtype,
            offset=torch.empty((), dtype=torch.float32) if nested else None,
            state2=nested,
        )
    new: Any = torch.nn.Parameter(values, requires_grad=False)
    new.quant_state, new.compress_statistics, new.quant_type = state, weight.compress_statistics, weight.quant_type
    new.blocksize = weight.blocksize
    return new


def fake_int8(weight: Any, mode: FakeTensorMode) -> Any:
    """An int8 weight with its fp32 scale per output, as it is before the first forward."""
    with mode:
        values = torch.empty(weight.shape, dtype=torch.int8)
        scales = torch.empty(weight.shape[0], dtype=torch.float32)
    new: Any = torch.nn.Parameter(values, requires_grad=False)
    new.CB, new.SCB, new.has_fp16_weights = new.data, scales, False
    return new


def quantization_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(parameter path, tensor) of every tensor that a model's quantised weights have beside their values."""
    for name, module in model.named_modules():
        for tensor in quantized.quantization_tensors(module):
            yield f"{name}.weight".removeprefix("."), tensor
