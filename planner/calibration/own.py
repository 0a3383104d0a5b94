"""What this machine's newest training runs measured beside what is predicted for them: `HardwareProfile.own_runs`.

Each prediction is the running version's, made without the runs themselves, and is kept on disk, since most starts ask
for the same. A measurement that no device gives, or that stands far from the others of its kind, is left out and says
why.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from planner.calibration import reading
from planner.contract.errors import TuneplanError
from planner.contract.own_runs import OwnRun
from planner.contract.spec import HardwareProfile
from planner.contract.units import MIB

if TYPE_CHECKING:
    from planner.calibration.features import Row
    from planner.contract.records import Observation

NEWEST = 12
"""Runs that are looked at."""
MOST_PACE = math.log(100)
"""Logarithm of the ratio of times beyond which a clock, not a device, was measured."""
MOST_MOVING = math.log(4)
"""The same of bytes that come and go."""
LEAST_MOVING = 16 * MIB
"""Bytes below which their ratio says nothing: what is fixed would be taken for what grows."""
FAR = {"pace": math.log(2), "moving": math.log(1.1), "beyond_bytes": 512.0 * MIB}
"""How far from the median of its kind a measurement always counts; and beyond, at four deviations."""
PAUSE = 3.0
"""A step that takes so many times the median was held up by something else."""


def own_runs(hardware: HardwareProfile, files: Sequence[Path], *, every_source: bool) -> tuple[OwnRun, ...]:
    """The newest runs among the observations `files` (newest first) that ran on `hardware` (without own runs).

    `every_source`: probes count too; a calibration that holds has them in it already.
    """
    found: list[OwnRun] = []
    for path in files:
        if len(found) == NEWEST:
            break
        if not every_source and "calibrate" in path.name:
            continue
        item = reading.set_aside(path, partial(reading.observation, path))
        if item is None or item.hardware["profile"] != hardware.name or item.outcome != "ran":
            continue
        if any(note.startswith("failed") for note in item.notes) or not (every_source or item.source == "run"):
            continue
        run = _measured(path, item, hardware)
        if run is not None:
            found.append(run)
    return tuple(_without_outliers(found))


def _measured(path: Path, item: Observation, hardware: HardwareProfile) -> OwnRun | None:
    from planner.memory.step import kept

    def name() -> str:
        text = item.model_dump_json(by_alias=True)
        attached = (hardware.name, hardware.context_bytes, hardware.cublas_workspace_bytes, hardware.calibration)
        return repr(("own run", kept.code(), hashlib.sha256(text.encode()).hexdigest(), attached))

    def make() -> dict[str, object] | None:
        try:
            made = _beside(path.stem, item, hardware)
        except TuneplanError:
            return None
        says = any(value is not None for value in (made.pace, made.moving, made.beyond_bytes))
        return asdict(made) if says else None

    content = kept.remembered(name, lambda: json.loads(json.dumps(make())), _right)
    return None if content is None else replace(_checked(OwnRun(**content)), name=path.stem)


def _right(value: object) -> bool:
    return value is None or (isinstance(value, dict) and set(value) == set(OwnRun.__dataclass_fields__))


def _beside(name: str, item: Observation, hardware: HardwareProfile) -> OwnRun:
    """One run's measurements beside its predictions; raises `TuneplanError` for what is refused by now."""
    from planner.calibration import features

    row = features.row(item, hardware)
    c = row.choices
    run = OwnRun(name=name, stack=c.stack, method=c.method)
    planned_longer = any(note.startswith("planned max_length") for note in item.notes)
    if not (planned_longer and item.batch_lengths is None):  # of what came, only the longest is known
        run = replace(run, moving=_moving(row), beyond_bytes=_beyond(row))
    seconds = _step_time(item)
    if seconds is None:
        return run
    try:
        predicted = _predicted_seconds(row, item, hardware, seconds)
    except TuneplanError:
        return run
    return replace(run, predicted_seconds=predicted, pace=math.log(seconds / predicted))


def _moving(row: Row) -> float | None:
    """Logarithm of measured over predicted bytes of what comes and goes; minus infinity where nothing would be left."""
    if row.allocated is None or row.moving < LEAST_MOVING:
        return None
    came = row.allocated - row.workspaces - row.persistent
    return math.log(max(came, 1) / row.moving)


def _beyond(row: Row) -> float | None:
    if row.device is None or row.allocated is None:
        return None
    return float((row.device - row.allocated) - (row.bare_device - row.bare_allocated))


def _step_time(item: Observation) -> float | None:
    """Mean of the steps that nothing else held up, in seconds; None where none was timed."""
    timed = [seconds for seconds in item.step_seconds if seconds > 0 and math.isfinite(seconds)]
    if not timed:
        return None
    usual = [seconds for seconds in timed if seconds <= PAUSE * median(timed)]
    return sum(usual) / len(usual)


def _predicted_seconds(row: Row, item: Observation, hardware: HardwareProfile, seconds: float) -> float:
    """Of one step at the length that its rows had on average; a probe's is of one micro-batch."""
    from planner import speed
    from planner.calibration.features import SPEED_SOURCES

    c = row.choices
    steps = 1 if item.source in SPEED_SOURCES else c.gradient_accumulation_steps
    length = float(c.max_length)
    if item.tokens_per_second and c.padding == "longest" and item.source == "run":
        # Tokens that are no padding; rows of like length stand together, so there is little of it.
        length = min(length, max(1.0, item.tokens_per_second * seconds / (c.batch_size * steps)))
    layers = c.checkpointed_layers(row.spec.total_layers)
    return float(speed.step_seconds(row.spec, hardware, c, c.batch_size, length, layers, accumulation=steps))


# ---- what doesn't count --------------------------------------------------------------------------------------------


def _checked(run: OwnRun) -> OwnRun:
    """Without what no device gives."""
    said = []
    if run.pace is not None and abs(run.pace) > MOST_PACE:
        said.append(f"its steps took {_times(run.pace)} as long as predicted")
        run = replace(run, pace=None)
    if run.moving is not None and abs(run.moving) > MOST_MOVING:
        said.append("its memory is not that of its settings")
        run = replace(run, moving=None, beyond_bytes=None)
    return replace(run, left_out="; ".join(said)) if said else run


def _without_outliers(runs: Sequence[OwnRun]) -> list[OwnRun]:
    """With three or more of a kind, what stands far from their median is left out."""
    left = list(runs)
    for kind in {(run.stack, run.method) for run in runs}:
        places = [place for place, run in enumerate(runs) if (run.stack, run.method) == kind]
        for name, words in (("pace", "pace"), ("moving", "memory"), ("beyond_bytes", "memory beyond the tensors")):
            values = {place: value for place in places if (value := getattr(left[place], name)) is not None}
            if len(values) < 3:
                continue
            middle = median(values.values())
            usual = max(FAR[name], 4 * 1.4826 * median(abs(value - middle) for value in values.values()))
            for place, value in values.items():
                if abs(value - middle) <= usual:
                    continue
                said = f"its {words} is far from the others'"
                if name == "pace":
                    said = f"its steps took {_times(value - middle)} as long as the others'"
                before = f"{left[place].left_out}; " if left[place].left_out else ""
                left[place] = replace(left[place], **{name: None}, left_out=f"{before}{said}")  # type: ignore[arg-type]
    return left


def _times(log: float) -> str:
    """A ratio of times in words."""
    ratio = math.exp(max(-50.0, min(50.0, log)))
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.2g} times"
