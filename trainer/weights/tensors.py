"""Files of tensors in the safetensors format: headers checked before anything is loaded, tensors written one by one.

A header is foreign text: its length, names, shapes and offsets are held against the file before a byte of a tensor is
read. Tensors are read into memory of their own, never mapped, so that no later change of the file reaches a run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from planner.contract.errors import InvalidInput
from planner.contract.files import open_plain

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""

DTYPES: dict[str, tuple[torch.dtype, int]] = {
    "BOOL": (torch.bool, 1),
    "U8": (torch.uint8, 1),
    "I8": (torch.int8, 1),
    "I16": (torch.int16, 2),
    "U16": (torch.uint16, 2),
    "I32": (torch.int32, 4),
    "U32": (torch.uint32, 4),
    "I64": (torch.int64, 8),
    "U64": (torch.uint64, 8),
    "F16": (torch.float16, 2),
    "BF16": (torch.bfloat16, 2),
    "F32": (torch.float32, 4),
    "F64": (torch.float64, 8),
    "C64": (torch.complex64, 8),
    "F8_E4M3": (torch.float8_e4m3fn, 1),
    "F8_E5M2": (torch.float8_e5m2, 1),
}
"""Names of the format, and bytes of one element."""
_NAMES = {dtype: name for name, (dtype, _) in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file."""

    dtype: str
    """As the format names it; those that can be read here are the keys of `DTYPES`."""
    shape: tuple[int, ...]
    start: int
    """Byte of the file at which it begins."""
    size: int
    """Bytes."""


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of the file, by name. Raises InvalidInput for a file that isn't one of tensors, whole."""
    try:
        with os.fdopen(open_plain(path, links=True), "rb") as stream:
            return _entries(stream, path)
    except InvalidInput:
        raise
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise InvalidInput(f"{path}: a link to a file that isn't there; fetch or copy the file again") from None
        raise InvalidInput(f"{path}: can't be read: {error.strerror or error}") from None


def _entries(stream: BinaryIO, path: Path) -> dict[str, TensorEntry]:
    total = os.fstat(stream.fileno()).st_size

    def refuse(problem: str) -> InvalidInput:
        return InvalidInput(f"{path}: damaged or no safetensors file: {problem}; fetch or copy it again")

    if total == 0:
        raise refuse("it is empty")
    length = int.from_bytes(stream.read(8), "little")
    if total < 10 or length > min(total - 8, LARGEST_HEADER):
        raise refuse(f"its header is said to have {length} bytes, the file has {total}")
    try:
        header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError
        found = {name: _entry(value, 8 + length) for name, value in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise refuse("its header can't be understood") from None
    end = 8 + length
    for name, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].size)):
        if entry.start != end:
            raise refuse(f"tensor {name[:80]!r} doesn't begin where the one before ends")
        end += entry.size
    if end != total:
        raise refuse(f"its tensors end at byte {end}, the file has {total}")
    return found


def _entry(value: Any, offset: int) -> TensorEntry:
    """One entry of the header; any error that a wrong one raises is caught by the caller."""
    dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
    numbers = [start, end, *shape]
    if type(dtype) is not str or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError
    if dtype in DTYPES and end - start != math.prod(shape) * DTYPES[dtype][1]:
        raise ValueError
    return TensorEntry(dtype, tuple(shape), offset + start, end - start)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the file on the cpu. Raises InvalidInput for a damaged one."""
    found = read_header(path)
    tensors = {}
    with os.fdopen(open_plain(path, links=True), "rb") as stream:
        for name, entry in found.items():
            if entry.dtype not in DTYPES:
                raise InvalidInput(f"{path}: tensor {name[:80]!r} is {entry.dtype[:20]}, which can't be read here")
            tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype][0])
            if entry.size:
                stream.seek(entry.start)
                if stream.readinto(_memory(tensor)) != entry.size:
                    raise InvalidInput(f"{path}: ended while it was read; another process changed it")
            tensors[name] = tensor
    return tensors


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes the tensors under their names; no more than one of them is in host memory at a time. Raises OSError."""
    header: dict[str, Any] = {}
    # Wide ones first: every tensor begins at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in names:
            if tensors[name].numel():
                stream.write(_memory(tensors[name].detach().to("cpu").contiguous()))


def _memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the cpu that isn't empty."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
