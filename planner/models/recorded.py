"""Models that were learned by tracing: their description and their programs, in the user's data folder.

Shipped ones stand beside this file, compressed, and are looked at where the user's folder has none.
`<data folder>/recorded/<config>/spec.json` describes a network (`tuneplan.recorded-model/1`), beside it stand its
programs (`tuneplan.envelope/1`), each under the hash of what it is for. A file is written whole; what can't be read is
refused by name. A program that can't be made is kept too, with the reason, so that nobody waits for it twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput, NotModelled, TuneplanError
from planner.contract.files import user_data_dir, write_whole
from planner.contract.spec import ModelSpec, Module
from planner.models import shipped

SCHEMA = "tuneplan.recorded-model/1"
REFUSED = "tuneplan.refused/1"
SHIPPED = shipped.FOLDER
MAX_BYTES = 64 * 2**20
MAX_VALUES = 8_000_000
"""JSON values of one file: four for each of a program's events, of which a network of many unlike layers has many."""
NOISE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map", "architectures")
"""Keys of a config.json that say nothing of the network's shape; of `architectures` the head counts."""
COUNTS = (
    *("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size"),
    *("max_positions", "num_experts", "experts_per_token"),
)


class Unlearned(TuneplanError):
    """A model, or a program of it, that has to be traced first. `wanted` names the program; None: the model itself."""

    def __init__(self, message: str, config: Mapping[str, object], wanted: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.config = dict(config)
        self.wanted = None if wanted is None else dict(wanted)
        self.also: list[dict[str, object]] = []
        """Further programs that the same question asks for."""

    def all_wanted(self) -> list[dict[str, object]]:
        """Every program that is asked for, each once."""
        found = [] if self.wanted is None else [self.wanted]
        return [*found, *(one for number, one in enumerate(self.also) if one not in [*found, *self.also[:number]])]


def identity(config: Mapping[str, object]) -> str:
    """Equal for configs of one network."""
    kept = {key: value for key, value in config.items() if key not in NOISE}
    named = config.get("architectures")
    kept["head"] = str(named[0] if isinstance(named, list) and named else "").rpartition("For")[2]
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:24]


def folder(config: Mapping[str, object]) -> Path:
    """Where a network's description and programs stand."""
    # A config's word is no path.
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", str(config.get("model_type"))[:64])
    return user_data_dir() / "recorded" / f"{name}-{identity(config)}"


def spec_of(config: Mapping[str, object], id: str) -> ModelSpec:
    """The spec of a network that was learned; raises `Unlearned` where it wasn't."""
    path = found_at(folder(config) / "spec.json")
    found = None if path is None else read(path)
    if path is None or found is None or outdated(found):
        raise Unlearned(
            f"{id}: architecture {config.get('model_type')!r} has no written program; 'plan learn' records one "
            "(needs pip install 'tuneplan[train]')",
            config,
        )
    if found.get("schema") == REFUSED:
        raise NotModelled(f"{id}: {found.get('reason')}")
    try:
        return _spec(found, config, id)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidInput(f"{path}: is no {SCHEMA}; delete it, it will be made again") from None


def is_description(found: Mapping[str, object]) -> bool:
    """Whether a network can be planned from this."""
    try:
        return _spec(found, {}, "").parameters > 0
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def plain(spec: ModelSpec) -> dict[str, object]:
    """The config that the spec was made of."""
    return {key: value for key, value in spec.config.items() if key != "recorded"}


def notes(spec: ModelSpec) -> list[str]:
    """On what the figures of a model rest that has no written program."""
    about = spec.config.get("recorded")
    if about is None:
        return []
    version = about["versions"].get("transformers", "?")
    where = "its dimensions come with tuneplan" if about["shipped"] else "it is recorded on this machine"
    return [f"{spec.architecture} has no written program: {where}, read off transformers {version}."]


def programs(config: Mapping[str, object]) -> tuple[int, list[str]]:
    """How many programs of a network are kept, and why others are not."""
    kept, refused = 0, []
    for path in sorted(folder(config).glob("*.json")):
        if path.name != "spec.json":
            content = read(path)
            if content.get("schema") == REFUSED:
                refused.append(str(content.get("reason")))
            else:
                kept += 1
    return kept, refused


def found_at(path: Path) -> Path | None:
    """The file, or where its shipped copy stands (a program's is a part of a file); None where neither is there."""
    if path.is_file():
        return path
    place = SHIPPED / path.parent.name
    if path.name == "spec.json":
        described = place / f"{path.name}.gz"
        return described if described.is_file() else None
    return place / path.name if path.stem in shipped.programs(path.parent.name) else None


def read(path: Path) -> dict[str, object]:
    """The JSON object of a file in the folder, or of a shipped one."""
    from planner.contract import json_text, text_file

    if path.is_relative_to(SHIPPED) and path.suffix != ".gz":
        return shipped.programs(path.parent.name)[path.stem]

    if path.suffix == ".gz":
        import gzip

        text = gzip.decompress(path.read_bytes()).decode()
    else:
        text = text_file.read(path, str(path), max_bytes=MAX_BYTES)
    content = json_text.parse(text, str(path), max_bytes=MAX_BYTES, max_values=MAX_VALUES)
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: holds no object; delete it, it will be made again")
    return content


def write(path: Path, content: Mapping[str, object]) -> None:
    """Writes one of the folder's files whole."""
    write_whole(path, json.dumps(content, separators=(",", ":")).encode())


def refuse(path: Path, reason: str, *, traced: bool = True) -> None:
    """Keeps why there is no such file, and for which versions that holds; `traced`: whether single shapes can be."""
    known = {} if traced else {"traced": False}
    write(path, {"schema": REFUSED, "reason": reason, "versions": versions(), **known})


def outdated(content: Mapping[str, object], path: Path | None = None) -> bool:
    """Whether other versions made this refusal (an update may have brought what was missing), or another transformers
    or peft this machine's own program; shipped ones stand."""
    now, then = versions(), content.get("versions")
    comes_along, refused = path is not None and path.is_relative_to(SHIPPED), content.get("schema") == REFUSED
    if refused and not comes_along:
        return bool(then is not None and then != now)
    if not isinstance(then, Mapping) or ((path is None or comes_along) and not refused):
        return False
    return any(now[name] not in (None, then.get(name)) for name in ("transformers", "peft"))


@cache
def versions() -> dict[str, str | None]:
    """The installed releases of what a recording rests on; None: not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in ("tuneplan", "transformers", "torch", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _spec(found: Mapping[str, Any], config: Mapping[str, object], id: str) -> ModelSpec:
    if found["schema"] != SCHEMA:
        raise ValueError
    counts: dict[str, Any] = {name: _count(found[name]) for name in COUNTS}
    window = found["sliding_window"]
    about: dict[str, Any] = {
        "shipped": bool(found.get("shipped")),
        "kinds": [str(kind) for kind in found["kinds"]],
        "buffer_bytes": _count(found["buffer_bytes"]),
        "head": found["head"],
        "left_out": [str(leaf) for leaf in found.get("left_out", ())],
        "recurrent_piece": _count(found.get("recurrent_piece", 0)),
        "fp32": [str(path) for path in found.get("fp32", ())],
        "frozen": [str(path) for path in found.get("frozen", ())],
        "unquantized": [str(path) for path in found.get("unquantized", ())],
        "experts": {str(name): str(tensor) for name, tensor in found["experts"].items()},
        "versions": {str(name): str(version) for name, version in found["versions"].items()},
    }
    spec = ModelSpec(
        id=id,
        architecture=str(found["architecture"]),
        task=found["task"],
        activation=str(found["activation"]),
        sliding_window=None if window is None else _count(window),
        sliding_layers=tuple(_count(index) for index in found["sliding_layers"]),
        tie_embeddings=bool(found["tie_embeddings"]),
        modules=tuple(_module(entry) for entry in found["modules"]),
        config={**config, "recorded": about},
        **counts,
    )
    if len(about["kinds"]) != spec.num_layers or spec.parameters != _count(found["parameters"]):
        raise ValueError
    return spec


def _module(entry: Mapping[str, Any]) -> Module:
    if entry["kind"] not in ("linear", "conv1d", "embedding", "norm", "parameter"):
        raise ValueError
    layers = entry["layers"]
    return Module(
        path=str(entry["path"]),
        kind=entry["kind"],
        shape=tuple(_count(size) for size in entry["shape"]),
        bias=bool(entry["bias"]),
        tied_to=None if entry["tied_to"] is None else str(entry["tied_to"]),
        layers=None if layers is None else tuple(_count(index) for index in layers),
    )


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 50:
        raise ValueError
    return value
