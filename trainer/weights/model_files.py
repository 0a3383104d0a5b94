"""Which files a model consists of, in a folder or on the hub: safetensors by their usual names, and nothing that runs.

Only these files reach transformers, under links in a folder of their own. What else lies beside them (adapters, pickled
weights or `.metadata` of a distributed checkpoint, custom code) can't be found by it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from planner.contract import json_text
from planner.contract.errors import InvalidInput
from planner.contract.files import expanded, write_json
from trainer.weights import hub, tensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
REFUSED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".dill", ".distcp")
"""Ends of names of files that may hold pickles. None of them is ever opened."""
CONVERT = "convert them to safetensors: AutoModel.from_pretrained(...).save_pretrained(...) where you trust them"
LARGEST_JSON, MOST_VALUES = 64 * 2**20, 2_000_000
"""Bytes and values of a config or index; an index of 100,000 tensors has 10 MB."""
SHARDS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """Files of one model, all of them there and whole as far as their headers say."""

    name: str
    """As it was asked for: a folder or a hub id."""
    weights: tuple[Path, ...]
    """Safetensors files, in the order of their names; empty for a model that is trained from nothing."""
    index: Path | None = None
    """What says which tensor lies in which of several files."""
    generation: Path | None = None
    """`generation_config.json`."""

    def entries(self) -> dict[str, tuple[Path, tensors.TensorEntry]]:
        """Every tensor by its name: the file that holds it and its place there."""
        return {name: (path, entry) for path in self.weights for name, entry in tensors.read_header(path).items()}

    @contextlib.contextmanager
    def alone(self) -> Iterator[str]:
        """A folder that holds the weights and nothing else, for as long as they are loaded."""
        folder = Path(tempfile.mkdtemp(prefix="tuneplan-"))
        try:
            for file in self.weights:
                _link(file, folder / file.name)
            if self.index is not None:
                _link_index(self.index, folder / INDEX)
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def find(model: str) -> ModelFiles:
    """The files of a model folder or hub id. Raises InvalidInput, naming the file, for what is missing or damaged."""
    path = expanded(model)
    return _in_folder(model, path.resolve()) if path.is_dir() else _on_hub(model)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of a model holds."""
    return json_text.read_object(path, max_bytes=LARGEST_JSON, max_values=MOST_VALUES)


def refused(folder: Path) -> Path | None:
    """A file of the folder that may hold a pickle, by its name."""
    return next((file for file in sorted(folder.iterdir()) if file.name.lower().endswith(REFUSED)), None)


# ---- in a folder ---------------------------------------------------------------------------------------------------


def _in_folder(name: str, folder: Path) -> ModelFiles:
    single, index = folder / SINGLE, folder / INDEX
    generation = folder / "generation_config.json"
    found = generation if generation.is_file() else None
    if _is_there(single):
        tensors.read_header(single)
        return ModelFiles(name=name, weights=(single,), generation=found)
    if _is_there(index):
        shards = tuple(folder / shard for shard in shard_names(index))
        _check_shards(index, shards)
        return ModelFiles(name=name, weights=shards, index=index, generation=found)
    others = sorted(file.name for file in folder.glob("*.safetensors") if file.name != ADAPTER)
    if others:
        raise InvalidInput(
            f"{folder}: holds {others[0]}, but neither {SINGLE} nor {INDEX}; rename it, or add the index of its parts"
        )
    pickled = refused(folder)
    if pickled is not None:
        raise InvalidInput(f"{pickled}: pickled weights can run code and are never loaded; {CONVERT}")
    return ModelFiles(name=name, weights=(), generation=found)


def _is_there(path: Path) -> bool:
    """Whether something of that name is there, be it a folder or a link that leads nowhere."""
    return os.path.lexists(path)


def shard_names(index: Path) -> list[str]:
    """Names of the files that an index speaks of; refused where one leaves the folder or isn't of tensors."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise InvalidInput(f"{index}: damaged: it has no `weight_map`")
    names = set()
    for tensor, shard in where.items():
        if not isinstance(shard, str) or shard != PurePosixPath(shard).name or "\\" in shard or shard.startswith("."):
            raise InvalidInput(f"{index}: tensor {tensor[:80]!r} lies in {str(shard)[:80]!r}, outside this folder")
        if not shard.endswith(".safetensors"):
            raise InvalidInput(
                f"{index}: tensor {tensor[:80]!r} lies in {shard[:80]!r}, which may be a pickle and is never loaded; "
                f"{CONVERT}"
            )
        names.add(shard)
    if len(names) > SHARDS:
        raise InvalidInput(f"{index}: speaks of {len(names)} files, more than any model has")
    return sorted(names)


def _check_shards(index: Path, shards: tuple[Path, ...]) -> None:
    """Each shard is whole and holds what the index says."""
    held: dict[str, set[str]] = {}
    for shard in shards:
        if not _is_there(shard):
            raise InvalidInput(f"{shard}: missing, though {index.name} speaks of it; fetch or copy it again")
        held[shard.name] = set(tensors.read_header(shard))
    for tensor, shard in read_json(index)["weight_map"].items():
        if tensor not in held[shard]:
            raise InvalidInput(f"{index.parent / shard}: lacks tensor {tensor[:80]!r}, which {index.name} places there")


def _link(source: Path, link: Path) -> None:
    """A link, or where the system allows none, a second name or a copy."""
    source = source.resolve()
    try:
        link.symlink_to(source)
    except (OSError, NotImplementedError):
        try:
            os.link(source, link)
        except OSError:
            shutil.copyfile(source, link)


def _link_index(source: Path, link: Path) -> None:
    """As `_link`; transformers stumbles over an index without `metadata`, which nobody needs."""
    content = read_json(source)
    if isinstance(content.get("metadata"), dict):
        _link(source, link)
    else:
        write_json(link, {"metadata": {}, "weight_map": content["weight_map"]})


# ---- on the hub ----------------------------------------------------------------------------------------------------


@functools.cache  # a run asks several times, and without a network each costs half a minute
def fetch(model: str, file: str, revision: str | None = None, *, optional: bool = False) -> Path | None:
    """One file of a hub model in the local cache, fetched where it isn't there yet; None where the model has none.

    Raises InvalidInput where the hub hands nothing out. Of what is `optional`, what isn't in the cache of a machine
    without a network counts as not there.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, file, revision=revision))
    except LocalEntryNotFoundError as error:  # neither cached nor to be asked for
        if optional:
            return None
        raise _unreachable(model, file, error) from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # the hub client raises a dozen kinds; each is "this model isn't to be had"
        raise _unreachable(model, file, error) from None


def _unreachable(model: str, file: str, error: Exception) -> InvalidInput:
    text = hub.why(error, model)
    return InvalidInput(text if file == "config.json" else f"{file} of {text}")


def _on_hub(model: str) -> ModelFiles:
    config = fetch(model, "config.json")
    if config is None:
        raise InvalidInput(f"{model}: has no config.json on the hub")
    # Every file of the same state of the repository: the cache keeps each under its commit.
    commit = config.parent.name if len(config.parent.name) == 40 else None
    generation = fetch(model, "generation_config.json", commit, optional=True)
    single = fetch(model, SINGLE, commit, optional=True)
    if single is not None:
        tensors.read_header(single)
        return ModelFiles(name=model, weights=(single,), generation=generation)
    index = fetch(model, INDEX, commit, optional=True)
    if index is None:
        raise InvalidInput(
            f"{model}: the hub hands out neither {SINGLE} nor {INDEX}; pickled weights are never loaded, and without a "
            "network only what is in the cache"
        )
    shards = []
    for shard in shard_names(index):
        found = fetch(model, shard, commit)
        if found is None:
            raise InvalidInput(f"{model}: {shard} is missing on the hub, though {INDEX} speaks of it")
        shards.append(found)
    _check_shards(index, tuple(shards))
    return ModelFiles(name=model, weights=tuple(shards), index=index, generation=generation)
