"""Recordings that come with tuneplan: the programs of a network in one compressed file, `programs.json.gz`.

In it an allocation has no key (they count up), and a release says how many allocations ago its own was: equal layers
are then equal text, and a network takes a tenth of what its programs take one by one.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA = "tuneplan.recordings/1"
FOLDER = Path(__file__).parent / "recordings"
PROGRAMS = "programs.json.gz"

Event = list[int]


def pack(programs: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Programs and refusals by their names, compressed. Raises ValueError for one whose keys don't count up."""
    told = {name: _with(content, _relative(content.get("parts", ()))) for name, content in sorted(programs.items())}
    text = json.dumps({"schema": SCHEMA, "programs": told}, separators=(",", ":")).encode()
    return gzip.compress(text, mtime=0)


def unpack(packed: bytes) -> dict[str, dict[str, Any]]:
    """What `pack` was given."""
    content = json.loads(gzip.decompress(packed))
    if content["schema"] != SCHEMA:
        raise ValueError(content["schema"])
    return {name: _with(told, _absolute(told.get("parts", ()))) for name, told in content["programs"].items()}


@cache
def programs(network: str) -> dict[str, dict[str, Any]]:
    """Programs by name of the network whose folder is called so; none where none are shipped."""
    place = FOLDER / network / PROGRAMS
    return unpack(place.read_bytes()) if place.is_file() else {}


def networks() -> list[str]:
    """Names of the networks whose programs are shipped."""
    return sorted(place.parent.name for place in FOLDER.glob(f"*/{PROGRAMS}"))


def _with(content: Mapping[str, Any], parts: list[list[Any]]) -> dict[str, Any]:
    return {**content, **({"parts": parts} if "parts" in content else {})}


def _relative(parts: list[list[Any]]) -> list[list[Any]]:
    count, told = 0, []
    for phase, layer, events in parts:
        said: list[Event] = []
        for key, code, component in events:
            if code < 0:
                said.append([code, count - key])
                continue
            if key != count:
                raise ValueError(f"allocation {key} comes as number {count}")
            count += 1
            said.append([code, component])
        told.append([phase, layer, said])
    return told


def _absolute(parts: list[list[Any]]) -> list[list[Any]]:
    count, told = 0, []
    for phase, layer, said in parts:
        events: list[Event] = []
        for code, other in said:
            if code < 0:
                events.append([count - other, code, 0])
            else:
                events.append([count, code, other])
                count += 1
        told.append([phase, layer, events])
    return told
