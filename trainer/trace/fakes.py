"""Turns a model on `meta` into one of fake CPU tensors: shapes, dtypes and storages, but no bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def make_fake(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replaces every parameter, buffer and plain tensor attribute in place; shared tensors stay shared."""
    made: dict[int, Any] = {}
    keep: list[Any] = []

    def fake(tensor: torch.Tensor) -> Any:
        if id(tensor) in made:
            return made[id(tensor)]
        keep.append(tensor)  # an id stays taken while the tensor lives
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
