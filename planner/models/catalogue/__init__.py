"""Well-known models with their true dimensions: one JSON file per model, found by name without reading the others.

Each file holds the keys of the model's config.json that fix its structure, the hub id, further hub ids with the same
structure (an Instruct beside its base), short names, and with what and when the keys were compared. Siblings share
dimensions, never an identity: what was asked for is what is planned and trained. `index.json` maps every spelling (in
lower case) to the name of a file and the hub id that it means.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from planner.contract.errors import InvalidInput

FOLDER = Path(__file__).parent
MODELS = FOLDER / "models"
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueEntry:
    """One model of the catalogue."""

    name: str
    """Lower case with hyphens: `phi-2`."""
    hub_id: str
    """As the Hugging Face hub writes it: `microsoft/phi-2`."""
    siblings: tuple[str, ...] = ()
    """Further models of the hub with the same dimensions: `meta-llama/Llama-3.2-1B-Instruct`."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Short names that are no hub id's last part, and the hub id that each means."""
    source: str
    """Address of the config.json whose keys stand here."""
    date: str
    """Day on which the keys were compared, YYYY-MM-DD."""
    checked: str
    """What they were compared with: other projects' copies of the file, the published total of parameters."""
    parameters: int
    """Of the network as transformers builds it from the config; of a multimodal model its text tower's."""
    published_parameters: int | None = None
    """Total that the maker or the hub states, where one is known."""
    licence: str = UNKNOWN
    """As the hub writes it: `apache-2.0`, `llama3.2`; of every hub id of the entry."""
    gated: str = UNKNOWN
    """`yes`: the hub hands the weights out only to an account that was granted them; `no`, or unknown."""
    licence_source: str | None = None
    """Where both were read, and when."""
    note: str | None = None
    """What differs from the file, and why that is right."""
    config: dict[str, object] = field(repr=False)
    """Keys of config.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a spelling means."""

    name: str
    """Catalogue name of the entry that holds its dimensions."""
    hub_id: str
    """The model itself, as the hub writes it."""
    spelling: str
    """As it was asked for: the hub id, or the short name in lower case."""


@cache
def _index() -> dict[str, list[str]]:
    index: dict[str, list[str]] = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return index


def names() -> tuple[str, ...]:
    """Names of all entries, sorted."""
    return tuple(sorted({name for name, _ in _index().values()}))


def spellings() -> tuple[str, ...]:
    """Every lower-case spelling that finds a model: names, aliases and hub ids."""
    return tuple(_index())


def look_up(name: str) -> Found | None:
    """What a name, alias or hub id means, in any case and with blanks for hyphens; None where it isn't known."""
    key = "-".join(name.lower().split())
    found = _index().get(key)
    if found is None:
        return None
    return Found(name=found[0], hub_id=found[1], spelling=found[1] if "/" in key else key)


def models() -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Every model of the hub that is known, as (shortest name, hub id, all its spellings), by name of the entry."""
    short: dict[str, list[str]] = {}
    for spelling, (_, hub_id) in _index().items():
        short.setdefault(hub_id, []).append(spelling)
    homes = {hub_id: name for name, hub_id in _index().values()}
    found = []
    for hub_id, name in homes.items():
        own = [spelling for spelling in short[hub_id] if "/" not in spelling]
        # The entry's own name where it means this model; else what the hub calls it.
        best = name if name in own else next((s for s in own if s == _last_part(hub_id)), None)
        found.append((best or hub_id, hub_id, tuple(short[hub_id])))
    return tuple(sorted(found, key=lambda item: (homes[item[1]], item[0] != homes[item[1]], item[0])))


def _last_part(hub_id: str) -> str:
    return hub_id.rsplit("/", 1)[-1].lower()


def entry(name: str) -> CatalogueEntry:
    """The entry that holds the dimensions of a catalogue name, alias or hub id."""
    found = look_up(name)
    if found is None:
        raise InvalidInput(f"model {name!r} is not in the catalogue; `plan models` lists all")
    return _read(MODELS / f"{found.name}.json")


def entries() -> tuple[CatalogueEntry, ...]:
    """All models, sorted by name. Reads every file; to load one model use `entry`."""
    return tuple(_read(MODELS / f"{name}.json") for name in names())


def _read(path: Path) -> CatalogueEntry:
    data = json.loads(path.read_text(encoding="utf-8"))
    data["siblings"] = tuple(data.get("siblings", ()))
    return CatalogueEntry(name=path.stem, **data)


def build_index() -> dict[str, list[str]]:
    """The index that the files' own contents imply; a spelling claimed twice is an error."""
    items = [_read(path) for path in sorted(MODELS.glob("*.json"))]
    index: dict[str, list[str]] = {}

    def claim(spelling: str, item: CatalogueEntry, hub_id: str) -> None:
        key, means = spelling.lower(), [item.name, hub_id]
        if index.setdefault(key, means) != means:
            raise InvalidInput(f"{item.name}.json: {spelling!r} already means {index[key][1]}")

    for item in items:
        known = (item.hub_id, *item.siblings)
        claim(item.name, item, item.hub_id)
        for hub_id in known:
            claim(hub_id, item, hub_id)
        for spelling, hub_id in item.aliases.items():
            if hub_id not in known:
                raise InvalidInput(f"{item.name}.json: {spelling!r} means {hub_id!r}, which is not among its hub ids")
            claim(spelling, item, hub_id)
    for item in items:
        for hub_id in (item.hub_id, *item.siblings):
            # What the hub calls it, unless a name of our own has that word already.
            index.setdefault(_last_part(hub_id), [item.name, hub_id])
    return dict(sorted(index.items()))


def write_index() -> None:
    """Writes `index.json` anew from the files, one spelling a line."""
    lines = [f"{json.dumps(spelling)}: {json.dumps(means)}" for spelling, means in build_index().items()]
    (FOLDER / "index.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
