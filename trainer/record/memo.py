"""What operators make of fake tensors, remembered: the same call again is answered from here.

PyTorch's own memory of fake calls (`FakeTensorMode`, torch 2.13) spells out everything that a call may depend on; a
trace asks for a few shapes a hundred thousand times. Here only plain calls are remembered: strided tensors and real
numbers in; out come new tensors, views of the first argument, or that argument itself, changed in place. All others go
their usual way.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

MOST = 20_000
"""Calls that are remembered; a trace has some hundreds of different ones."""
PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class _Unplain(Exception):
    """The call is none that is remembered."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor that an operator returned."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    device: torch.device
    view: bool
    """Of the first argument."""


@dataclass(frozen=True, slots=True)
class _Answer:
    made: tuple[_Made, ...]
    kind: type
    """Tuple or list of tensors; FakeTensor: one; NoneType: the first argument itself."""


class Memo:
    """Answers of operators by what they were given."""

    def __init__(self) -> None:
        self.known: dict[Hashable, _Answer | None] = {}
        """None: what the call makes is none that can be made again from here."""

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `func(*args, **kwargs)` returns."""
        if not _foreseeable(func):
            return func(*args, **kwargs)
        seen: list[FakeTensor] = []
        try:
            key = (func, _spelt(args, seen), tuple((name, _spelt(value, seen)) for name, value in kwargs.items()))
        except _Unplain:
            return func(*args, **kwargs)
        if not seen:
            return func(*args, **kwargs)
        known = self.known.get(key)
        if known is not None:
            return _again(known, args, seen[0].fake_mode)
        out = func(*args, **kwargs)
        if key not in self.known and len(self.known) < MOST:
            self.known[key] = _told(out, args, seen, key[1])
        return out


@cache
def _foreseeable(func: Any) -> bool:
    """Whether an operator of torch's own returns tensors that depend on no tensor's values, and changes nothing but its
    first argument."""
    schema, tags = func._schema, {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    tags.add(torch.Tag.inplace_view)
    written = [one for one in schema.arguments if one.alias_info is not None and one.alias_info.is_write]
    first = not written or (written == [schema.arguments[0]] and len(schema.returns) == 1)
    tensors = bool(schema.returns) and all("Tensor" in str(one.type) for one in schema.returns)
    return func.namespace == "aten" and first and tensors and not tags & set(func.tags)


def _spelt(value: Any, seen: list[FakeTensor]) -> Hashable:
    """A value as a part of a key; the tensors in it are added to `seen`."""
    if isinstance(value, torch.Tensor):
        if (
            not isinstance(value, FakeTensor)
            or not _plain(value)
            or (seen and value.fake_mode is not seen[0].fake_mode)
        ):
            raise _Unplain
        seen.append(value)
        return value.dtype, tuple(value.shape), value.stride(), value.storage_offset(), value.fake_device
    if isinstance(value, list | tuple):
        return tuple(_spelt(part, seen) for part in value)
    if type(value) in PLAIN:
        return type(value), value
    raise _Unplain


def _plain(tensor: FakeTensor) -> bool:
    return tensor.layout is torch.strided and not tensor.dtype.is_complex and tensor.constant is None


def _told(out: object, args: tuple[Any, ...], seen: list[FakeTensor], key: Hashable) -> _Answer | None:
    """How what was made can be made again; None where it can't."""
    first = args[0] if args else None
    if out is first:
        return _Answer((), type(None)) if _spelt(args, []) == key else None
    several = type(out) in (tuple, list)
    given = {tensor.untyped_storage()._cdata for tensor in seen}
    own = first.untyped_storage()._cdata if isinstance(first, FakeTensor) else None
    made: list[_Made] = []
    for tensor in out if isinstance(out, tuple | list) else (out,):
        if type(tensor) is not FakeTensor or not _plain(tensor):
            return None
        shape, strides, held = tuple(tensor.shape), tensor.stride(), tensor.untyped_storage()
        extent = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) if tensor.numel() else 0
        view, offset = held._cdata == own, int(tensor.storage_offset())
        if not view and (held._cdata in given or offset or held.nbytes() != extent * tensor.element_size()):
            return None
        given.add(held._cdata)
        made.append(_Made(tensor.dtype, shape, strides, offset, tensor.fake_device, view))
    return _Answer(tuple(made), type(out) if several else FakeTensor)


def _again(answer: _Answer, args: tuple[Any, ...], mode: Any) -> Any:
    """What was returned the first time, of these arguments."""
    if answer.kind is type(None):
        return args[0]
    tensors = []
    for made in answer.made:
        storage = args[0].untyped_storage() if made.view else None
        with in_kernel_invocation_manager(mode):
            if storage is None:
                bare = torch.empty_strided(made.shape, made.strides, dtype=made.dtype, device="meta")
            else:
                bare = torch.empty((0,), dtype=made.dtype, device="meta")
                bare.set_(storage, made.offset, made.shape, made.strides)
        tensors.append(FakeTensor(mode, bare, made.device))
    return tensors[0] if answer.kind is FakeTensor else answer.kind(tensors)
