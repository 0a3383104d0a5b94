"""Well-known models with their true dimensions: one JSON file per model, found by name without reading the others.

Each file holds the keys of the model's config.json that fix its structure, the hub id, aliases, and with what and when
the keys were compared. `index.json` maps every spelling (name, alias, hub id; lower case) to the name of a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput

FOLDER = Path(__file__).parent
MODELS = FOLDER / "models"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One model of the catalogue."""

    name: str
    """Lower case with hyphens: `phi-2`."""
    hub_id: str
    """As the Hugging Face hub writes it: `microsoft/phi-2`."""
    aliases: tuple[str, ...] = ()
    """Further names and hub ids with the same dimensions."""
    source: str
    """Address of the config.json whose keys stand here."""
    date: str
    """Day on which the keys were compared, YYYY-MM-DD."""
    checked: str
    """What they were compared with: other projects' copies of the file, the published total of parameters."""
    published_parameters: int | None = None
    """Total that the maker or the hub states, where one is known."""
    note: str | None = None
    """What differs from the file, and why that is right."""
    config: dict[str, Any] = field(repr=False)
    """Keys of config.json."""


@cache
def _index() -> dict[str, str]:
    index: dict[str, str] = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return index


def names() -> tuple[str, ...]:
    """Names of all models, sorted."""
    return tuple(sorted(set(_index().values())))


def spellings() -> tuple[str, ...]:
    """Every lower-case spelling that finds a model: names, aliases and hub ids."""
    return tuple(_index())


def find(name: str) -> str | None:
    """The catalogue name for a name, alias or hub id in any case; None where it isn't known."""
    return _index().get(name.strip().lower())


def entry(name: str) -> Entry:
    """One model by its catalogue name, alias or hub id."""
    found = find(name)
    if found is None:
        raise InvalidInput(f"model {name!r} is not in the catalogue; `plan models` lists all")
    return _read(MODELS / f"{found}.json")


def entries() -> tuple[Entry, ...]:
    """All models, sorted by name. Reads every file; to load one model use `entry`."""
    return tuple(_read(MODELS / f"{name}.json") for name in names())


def _read(path: Path) -> Entry:
    data = json.loads(path.read_text(encoding="utf-8"))
    data["aliases"] = tuple(data.get("aliases", ()))
    return Entry(name=path.stem, **data)


def build_index() -> dict[str, str]:
    """The index that the files' own contents imply; a spelling claimed twice is an error."""
    index: dict[str, str] = {}
    for path in sorted(MODELS.glob("*.json")):
        item = _read(path)
        for spelling in (item.name, item.hub_id, *item.aliases):
            key = spelling.lower()
            if index.get(key, item.name) != item.name:
                raise InvalidInput(f"{path.name}: {spelling!r} already names {index[key]}")
            index[key] = item.name
    return dict(sorted(index.items()))
