"""The plan file: YAML on disk, `planner.contract.records.Plan` in memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import yaml

from planner.contract.errors import InvalidInput
from planner.contract.records import Plan, parse_plan


def load(path: str | Path) -> Plan:
    """Plan read from a YAML or JSON file. `InvalidInput` names the file and the key that is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not a plan file: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InvalidInput(f"{path}: plan file can't be read: {error.strerror or error}") from None
    return parse_plan(text, str(path))


def dumps(plan: Plan) -> str:
    """The plan as YAML text, keys in the record's order."""
    content = plan.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def save(plan: Plan, path: str | Path) -> Path:
    """Writes the plan as YAML so that a reader sees the old file or the whole new one; returns the path."""
    path = Path(path)
    try:
        write_atomically(path, dumps(plan).encode())
    except OSError as error:
        raise InvalidInput(f"{path}: plan can't be written: {error.strerror or error}") from None
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Temporary name in the same folder, fsync, rename. Raises OSError and leaves nothing behind when that fails.

    What is no file (`/dev/stdout`, a pipe) is written to, not replaced; a link stays one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as stream:
            stream.write(content)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
