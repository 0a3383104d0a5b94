"""Traced configurations as JSON lines, so that a report can be stopped, resumed and extended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.accuracy.evaluate import key, record, trace_code
from benchmarks.accuracy.grid import Configuration, reduced
from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.settings import choices_from
from planner.data.lengths import as_batch
from planner.models.sources import from_config, load_model

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

    def find(self, configuration: Configuration) -> dict[str, Any] | None:
        """The finished trace of a configuration, by whatever state of the trace's code."""
        line = self.lines.get(key(configuration.spec, configuration.choices, configuration.rows))
        return None if line is None or "planner_refused" in line or "trace_failed" in line else line

    def configurations(self) -> Iterator[tuple[Configuration, dict[str, Any]]]:
        """What was traced, made again from the lines themselves, whatever the grid would draw today.

        A line whose model, settings or package versions are no longer the same is left out.
        """
        for line in self.lines.values():
            if "instants" not in line:
                continue
            try:
                whole = load_model(line["model"])
                layers = line["layers"]
                spec = whole if layers is None else from_config(reduced(dict(whole.config), layers), line["model"])
                numbers = {name: value for name, value in line["settings"].items() if type(value) in (int, float)}
                # As they were drawn: a whole number that a setting turns into a float has another key.
                choices = replace(choices_from(line["settings"], base=TrainingChoices()), **numbers)
            except TuneplanError:
                continue
            rows = as_batch(line["rows"]) if "rows" in line else None
            if key(spec, choices, rows) == line["key"]:
                yield Configuration(line["model"], layers, spec, choices, rows), line

    def measure(self, configuration: Configuration) -> dict[str, Any]:
        """Traces a configuration and appends the line."""
        line = record(configuration)
        self.lines[line["key"]] = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as out:
            out.write(json.dumps(line) + "\n")
        return line

    def older(self) -> list[Configuration]:
        """What was traced by an earlier state of the trace's code."""
        return [found for found, line in self.configurations() if line["code"] != trace_code()]

    def tidy(self) -> None:
        """Writes each key once."""
        if not self.lines:
            return
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines.values()))
        temporary.replace(self.path)


def stored_seeds(folder: Path = RESULTS) -> list[int]:
    """Seeds of which traces are kept."""
    names = (re.fullmatch(r"grid-(\d+)", path.stem) for path in folder.glob("grid-*.jsonl"))
    return sorted(int(found[1]) for found in names if found)
