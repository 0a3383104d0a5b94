"""Puts recordings of catalogue entries into the package: `python -m benchmarks.ship [--learn] NAME…`.

Of every NAME the programs that this machine's folder holds are packed with those that are shipped already. `--learn`
records what `plan --gpu rtx4090 --model NAME` lacks first; `--all` takes all entries without a written program.
Programs that were proven are shipped, and refusals, which are tried anew where another transformers is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from typing import Any

from planner.cli import main as plan
from planner.contract.architectures import ARCHITECTURES
from planner.contract.errors import InvalidInput
from planner.contract.towers import text_part
from planner.memory.recorded.log import SCHEMA, Log
from planner.models import catalogue, recorded, shipped
from planner.models.sources import load_model

CARD = "rtx4090"


def unwritten() -> list[str]:
    """Names of entries whose network has no written program."""
    return [
        entry.name for entry in catalogue.entries() if text_part(entry.config).get("model_type") not in ARCHITECTURES
    ]


def learn(name: str) -> None:
    """Records what the first question about a model asks for."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = plan(["--gpu", CARD, "--model", name, "--json"])
    if code not in (0, 3):
        raise InvalidInput(f"{name}: plan ended with exit code {code}")


def ship(name: str) -> str:
    """Packs the programs of one model; returns what was done."""
    own = recorded.folder(recorded.plain(load_model(name)))
    found: dict[str, Any] = dict(shipped.programs(own.name))
    for path in sorted(own.glob("*.json")):
        content = recorded.read(path)
        if path.name == "spec.json" or content.get("schema") not in (SCHEMA, recorded.REFUSED):
            continue
        if content["schema"] == SCHEMA:
            Log.read(content, str(path))
        found[path.stem] = content
    proven = sum(content["schema"] == SCHEMA for content in found.values())
    if not proven:
        return f"{name}: no program"
    place = recorded.SHIPPED / own.name / shipped.PROGRAMS
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(shipped.pack(found))
    return f"{name}: {proven} programs, {len(found) - proven} refusals, {place.stat().st_size} bytes"


def main(arguments: list[str]) -> int:
    """Ships what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ship")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args(arguments)
    for name in unwritten() if given.all else given.names:
        try:
            if given.learn:
                learn(name)
            print(ship(name), flush=True)
        except (InvalidInput, ValueError) as error:
            print(f"{name}: left out, {error}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
