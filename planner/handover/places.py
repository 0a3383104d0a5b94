"""Paths and names that hold wherever the trainer is started: of data, of a model's weights, of its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path


def expand(text: str) -> str:
    """A typed path with `~` and variables filled in; names pass unchanged."""
    return os.path.expandvars(os.path.expanduser(text.strip()))


def absolute(path: str) -> str:
    """A typed path, whole; what is no file here (a data set of the hub) stays as it is."""
    here = Path(expand(path))
    return str(here.resolve()) if here.exists() else path


def loadable(model: str) -> str:
    """What the trainer can load: a folder's absolute path, or the hub id that a name means; never a sibling's."""
    from planner.models import catalogue

    path = Path(expand(model))
    if path.exists():
        return str((path.parent if path.is_file() else path).resolve())
    found = catalogue.look_up(model)
    return model.strip() if found is None else found.hub_id


def tokenizer_folder(model: str) -> Path | None:
    """The folder with the model's tokenizer.json: its own, or the hub cache's newest snapshot; None if neither.

    `model`: as the trainer loads it.
    """
    from planner.models.sources import hub

    own = Path(model)
    if (own / "tokenizer.json").is_file():
        return own
    snapshots = hub.cache_folder() / f"models--{model.replace('/', '--')}" / "snapshots"
    try:
        found = [folder for folder in snapshots.iterdir() if (folder / "tokenizer.json").is_file()]
    except OSError:
        return None
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)
