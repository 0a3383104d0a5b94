"""State of a run on disk: numbers and structure as JSON, tensors as safetensors beside it. Nothing is ever unpickled.

`write(folder, "optimizer", state)` makes `optimizer.json` and, where the state holds tensors, `optimizer.safetensors`.
What comes back is equal to the bit: floats, integers of any size, None, tuples, dicts with whole numbers for keys, and
tensors that several places share.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from planner.contract import json_text
from planner.contract.errors import InvalidInput
from planner.contract.files import write_json
from trainer.weights import tensors

SCHEMA = "tuneplan.state/1"
LARGEST = 2**28
"""Bytes and values of the JSON part; an optimizer over 10,000 tensors takes a few megabytes."""


def names(name: str) -> tuple[str, str]:
    """The files of a state."""
    return f"{name}.json", f"{name}.safetensors"


def write(folder: Path, name: str, state: object) -> None:
    """Writes the state. Raises OSError, and TypeError for what is neither a number, a text nor a tensor."""
    found: dict[str, torch.Tensor] = {}
    content = {"schema": SCHEMA, "state": _Encoder(found).encode(state, "")}
    structure, values = names(name)
    if found:
        tensors.write(folder / values, found)
    write_json(folder / structure, content)


def exists(folder: Path, name: str) -> bool:
    """Whether the folder holds such a state."""
    return (folder / names(name)[0]).is_file()


def read(folder: Path, name: str) -> Any:
    """The state as it was written, tensors on the cpu. Raises InvalidInput naming the missing or damaged file."""
    structure, values = (folder / file for file in names(name))
    content = json_text.read_object(structure, max_bytes=LARGEST, max_values=LARGEST)
    if content.get("schema") != SCHEMA or "state" not in content:
        raise InvalidInput(f"{structure}: its schema is {str(content.get('schema'))[:40]!r}, not {SCHEMA}")
    held = tensors.read(values) if values.exists() or values.is_symlink() else {}
    try:
        return _decode(content["state"], held)
    except (ValueError, KeyError, TypeError, RuntimeError):
        raise InvalidInput(f"{structure}: damaged, or not written with {values.name}") from None


def dumps(state: object) -> bytes:
    """The state as bytes, for another process of the run: the length of its JSON part, that, and its tensors."""
    found: dict[str, torch.Tensor] = {}
    structure = json.dumps(_Encoder(found).encode(state, "")).encode()
    # Tensors that share storage are copied apart: safetensors holds none twice.
    values = safetensors.torch.save({name: value.cpu().contiguous().clone() for name, value in found.items()})
    return len(structure).to_bytes(8, "little") + structure + values


def loads(content: bytes) -> object:
    """The state of `dumps`, tensors on the cpu."""
    end = 8 + int.from_bytes(content[:8], "little")
    return _decode(json.loads(content[8:end]), safetensors.torch.load(content[end:]))


class _Encoder:
    """Turns a state into JSON, collecting its tensors."""

    def __init__(self, found: dict[str, torch.Tensor]) -> None:
        self.found = found
        self.known: dict[tuple[object, ...], str] = {}

    def encode(self, value: Any, place: str) -> object:
        """`value` in JSON's words; what JSON can't say is an object with one key that begins with `$`."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value, place)
        if type(value) in (list, tuple):
            items = [self.encode(item, f"{place}/{number}") for number, item in enumerate(value)]
            return {"$tuple": items} if type(value) is tuple else items
        if isinstance(value, dict):
            pairs = [(key, self.encode(item, f"{place}/{key}")) for key, item in value.items()]
            if all(type(key) is str and not key.startswith("$") for key in value):
                return dict(pairs)
            if all(type(key) in (str, int) for key in value):
                return {"$map": [list(pair) for pair in pairs]}
        raise TypeError(f"{place}: a {type(value).__name__} can't be kept in a checkpoint")

    def _tensor(self, value: torch.Tensor, place: str) -> dict[str, object]:
        value = value.detach()
        same = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride(), str(value.device))
        name = self.known.get(same) if value.numel() else None
        if name is None:
            name = place.lstrip("/")
            self.found[name] = value
            if value.numel():
                self.known[same] = name
        # Which of a tensor's dimensions lies densest decides the kernel that an update runs.
        return {"$tensor": name} if value.is_contiguous() else {"$tensor": name, "stride": list(value.stride())}


def _decode(value: object, held: dict[str, torch.Tensor]) -> object:
    if isinstance(value, list):
        return [_decode(item, held) for item in value]
    if not isinstance(value, dict):
        return value
    if any(not isinstance(value.get(key, []), list) for key in ("$tuple", "$map")):
        raise ValueError
    if "$tuple" in value:
        return tuple(_decode(item, held) for item in value["$tuple"])
    if "$map" in value:
        return {key: _decode(item, held) for key, item in value["$map"]}
    if "$tensor" in value:
        tensor = held[value["$tensor"]]
        if "stride" not in value or tensor.stride() == tuple(value["stride"]):
            return tensor
        order = sorted(range(tensor.dim()), key=lambda axis: -value["stride"][axis])
        laid = tensor.permute(order).contiguous().permute([order.index(axis) for axis in range(tensor.dim())])
        held[value["$tensor"]] = laid
        return laid
    return {key: _decode(item, held) for key, item in value.items()}
