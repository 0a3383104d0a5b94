"""What the data folder holds, checked as it is read: a fit or an observation is whole and in range, or is set aside.

A file that can't be what it claims to be is named in one warning line, once a process, and counts as not there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from planner.contract import json_text, text_file
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.shown import shown
from planner.contract.spec import Calibration
from planner.contract.units import GIB
from planner.contract.words import one_line

if TYPE_CHECKING:
    from planner.contract.records import Observation

Found = TypeVar("Found")

_NUMBERS: dict[str, tuple[float, float]] = {
    "observations": (0, 10**9),
    "models": (0, 10**9),
    "persistent_factor": (0.8, 1.25),
    "moving_factor": (0.8, 1.25),
    "fragmentation_factor": (0.0, 16.0),
    "slack_bytes": (-GIB, 4 * GIB),
    "cublas_workspace_bytes": (0, 4 * GIB),
    "context_bytes": (0, 64 * GIB),
    "coverage": (0.0, 1.0),
}
"""Least and most of each number; a fit's own bounds (`planner.calibration.fit`) lie well inside."""
_WHOLE = ("observations", "models", "slack_bytes", "cublas_workspace_bytes", "context_bytes")
_NULLABLE = ("coverage", "cublas_workspace_bytes", "context_bytes")
MOST_FACTOR = 100.0
"""A device is this much faster or slower than the rules at most."""
MOST_SPREAD = 10.0
"""Most that step times' logarithms may scatter."""
_SPEED = {
    **dict.fromkeys(("arithmetic", "bandwidth", "launch"), (1 / MOST_FACTOR, MOST_FACTOR)),
    "spread": (0.0, MOST_SPREAD),
}
_WIDEST = 10_000.0
"""Half width of an interval, in its units; and the largest error, as a share."""

_warned: set[Path] = set()


def set_aside(path: Path, read: Callable[[], Found]) -> Found | None:
    """What `read` returns; None, and a warning line that names the file, where it refuses."""
    try:
        return read()
    except TuneplanError as error:
        if path not in _warned:
            _warned.add(path)
            line = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
            print(f"plan: warning: {one_line(line)}; this file is set aside", file=sys.stderr)
        return None


def fits(path: Path, schema: str) -> list[dict[str, object]]:
    """The fits in a file, as they stand there; raises `InvalidInput` where it holds none."""
    content = _object(path)
    if content.get("schema") != schema:
        raise InvalidInput(f"{path}: schema is {shown(content.get('schema'))}, but must be {schema!r}")
    found = content.get("fits")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InvalidInput(f"{path}: fits is {shown(found)}, but must be a list of objects")
    return found


def calibration(entry: Mapping[str, Any], where: str) -> Calibration:
    """A fit from its JSON; raises `InvalidInput` by key for a value that no fit would have written."""
    known = {field.name for field in fields(Calibration)}
    values = {name: value for name, value in entry.items() if name in known}
    for name, value in values.items():
        right, wanted = _holds(name, value)
        if not right:
            raise InvalidInput(f"{where}: {name} is {shown(value)}, but must be {wanted}")
    if "applied" not in values:
        raise InvalidInput(f"{where}: applied is missing")
    if values.get("interval") is not None:
        low, high = values["interval"]
        values["interval"] = (float(low), float(high))
    return Calibration(**values)


def observation(path: Path) -> Observation:
    """One observation, with all that its readers look into; raises `InvalidInput` by key."""
    from planner.contract.records import Observation, parse_record

    found = parse_record(Observation, _object(path), str(path))
    for name, value, right, wanted in (
        ("hardware.profile", found.hardware.get("profile"), lambda it: isinstance(it, str), "a profile's name"),
        ("model.id", found.model.get("id"), lambda it: isinstance(it, str), "a name"),
        ("model.config", found.model.get("config"), lambda it: isinstance(it, dict), "the model's config.json"),
        ("allocated_peak_bytes", found.allocated_peak_bytes, lambda it: it is None or it > 0, "above 0"),
    ):
        if not right(value):
            raise InvalidInput(f"{path}: {name} is {shown(value)}, but must be {wanted}")
    return found


def _object(path: Path) -> dict[str, object]:
    text = text_file.read(path, str(path), max_bytes=json_text.MAX_BYTES)
    return json_text.parse_object(text, str(path))


def _between(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _holds(name: str, value: Any) -> tuple[bool, str]:
    """Whether a value may stand under a key of a fit, and what may."""
    if name in _NUMBERS:
        low, high = _NUMBERS[name]
        whole = name not in _WHOLE or isinstance(value, int)
        right = (value is None and name in _NULLABLE) or (whole and _between(value, low, high))
        return right, f"a {'whole ' if name in _WHOLE else ''}number from {low:g} to {high:g}"
    if name == "applied":
        return isinstance(value, bool), "true or false"
    if name in ("reason", "made"):
        return isinstance(value, str) and len(value) <= 1000, "text"
    if name == "versions":
        texts = isinstance(value, dict) and all(isinstance(item, str) and len(item) <= 200 for item in value.values())
        return texts, "an object of texts"
    if name == "interval":
        pair = isinstance(value, list) and len(value) == 2 and all(_between(item, 0, _WIDEST) for item in value)
        return value is None or pair, f"two numbers from 0 to {_WIDEST:g}"
    if name == "speed":
        right = isinstance(value, dict) and (not value or set(value) == set(_SPEED))
        return right and all(_between(value[key], *_SPEED[key]) for key in value), f"numbers by {', '.join(_SPEED)}"
    right = isinstance(value, dict) and all(_between(item, -_WIDEST, _WIDEST) for item in value.values())
    return right, "an object of numbers"


def finite(value: float) -> bool:
    """Whether a share computed from an observation can be shown."""
    return math.isfinite(value) and abs(value) <= _WIDEST


def forget_warnings() -> None:
    """Files that were warned of are warned of again."""
    _warned.clear()
