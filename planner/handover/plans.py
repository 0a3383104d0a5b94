"""The plan file: YAML on disk, `planner.contract.records.Plan` in memory."""

from __future__ import annotations

from pathlib import Path

from planner.contract import yaml_text
from planner.contract.errors import InvalidInput
from planner.contract.files import write_named
from planner.contract.records import Plan, read_plan


def load(path: str | Path, *, links: bool = True) -> Plan:
    """Plan read from a YAML or JSON file. `InvalidInput` names the file and the key that is wrong.

    Without `links` a link is refused: for the plan in a run folder.
    """
    return read_plan(Path(path), links=links)


def dumps(plan: Plan) -> str:
    """The plan as YAML text, keys in the record's order."""
    return yaml_text.dumps(plan.model_dump(mode="json", by_alias=True))


def save(plan: Plan, path: str | Path) -> Path:
    """Writes the plan as YAML so that a reader sees the old file or the whole new one; returns the path."""
    path = Path(path)
    try:
        write_named(path, dumps(plan).encode())
    except OSError as error:
        raise InvalidInput(f"{path}: plan can't be written: {error.strerror or error}") from None
    return path
