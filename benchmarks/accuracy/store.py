"""Traced configurations as JSON lines, so that a report can be stopped, resumed and extended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.accuracy.evaluate import key, record, trace_code
from benchmarks.accuracy.grid import Configuration

RESULTS = Path(__file__).parent / "results"


class Store:
    """The traces of one seed. The newest line of a key counts."""

    def __init__(self, seed: int, folder: Path = RESULTS) -> None:
        self.path = folder / f"grid-{seed}.jsonl"
        self.lines: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for text in self.path.read_text().splitlines():
                line = json.loads(text)
                self.lines[line["key"]] = line

    def find(self, configuration: Configuration, *, any_code: bool = False) -> dict[str, Any] | None:
        """The finished trace of a configuration, by today's trace code unless `any_code`."""
        line = self.lines.get(key(configuration.spec, configuration.choices))
        if line is None or not (any_code or line["code"] == trace_code()):
            return None
        return None if "planner_refused" in line or "trace_failed" in line else line

    def measure(self, configuration: Configuration) -> dict[str, Any]:
        """Traces a configuration and appends the line."""
        line = record(configuration)
        self.lines[line["key"]] = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as out:
            out.write(json.dumps(line) + "\n")
        return line

    def tidy(self) -> None:
        """Writes each key once."""
        if not self.lines:
            return
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines.values()))
        temporary.replace(self.path)
