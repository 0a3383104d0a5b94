"""Puts this machine's recordings of catalogue entries into the package: `python -m benchmarks.ship NAME…`.

Programs that were proven are shipped, and refusals, which are tried anew where another transformers is installed.
"""

from __future__ import annotations

import gzip
import sys

from planner.memory.recorded.log import SCHEMA, Log
from planner.models import recorded
from planner.models.sources import load_model


def ship(name: str) -> str:
    """Copies the programs of one model, compressed; returns what was done."""
    spec = load_model(name)
    own = recorded.folder(recorded.plain(spec))
    kept = 0
    for path in sorted(own.glob("*.json")):
        content = recorded.read(path)
        if path.name == "spec.json" or content.get("schema") not in (SCHEMA, recorded.REFUSED):
            continue
        if content["schema"] == SCHEMA:
            Log.read(content, str(path))
        place = recorded.SHIPPED / own.name / f"{path.name}.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        kept += 1
    return f"{name}: {kept} programs"


if __name__ == "__main__":
    for model in sys.argv[1:]:
        print(ship(model))
