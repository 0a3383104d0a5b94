"""A calibration from start to end: choose shapes, measure them one process at a time, fit, keep."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from planner.calibration import store
from planner.calibration.features import rows
from planner.contract.errors import Interrupted, InvalidInput, RunFailed, TuneplanError
from planner.contract.records import Observation, ProbeRequest
from planner.contract.sentence import named
from planner.contract.spec import Calibration, HardwareProfile

POINTS = {"cpu": 12, "mps": 12, "cuda": 14, "rocm": 14}
MINUTES = {"cpu": 4.5, "mps": 4.0, "cuda": 2.7, "rocm": 2.7}
FIT_SECONDS = 12.0
"""Time kept for the fit at the end."""
MOST = 200
"""Newest observations that a fit takes in."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a calibration came to."""

    profile: str
    calibration: Calibration
    path: Path
    measured: int = 0
    """Points of this calibration."""
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Observations in the data folder that can't be used, and why."""
    interrupted: bool = False
    seconds: float = 0.0


def hardware_for(kind: str) -> tuple[HardwareProfile, int]:
    """(bare profile, bytes that a probe may take) of this machine's device of that kind; `auto` takes the best one."""
    from planner.calibration import attach
    from planner.decide.verdict import budget_of

    if kind not in ("auto", "cuda", "mps", "cpu"):
        raise InvalidInput(named("device"), f" {kind!r} is unknown; choose auto, cuda, mps or cpu")
    found = attach.detect()
    profile, used = found.profile, found.used_by_others_bytes
    if kind == "cpu" and profile.kind != "cpu":
        import psutil

        profile = attach.find("cpu")
        used = max(0, profile.total_bytes - int(psutil.virtual_memory().available))
    elif kind not in ("auto", profile.kind) and not (kind == "cuda" and profile.kind == "rocm"):
        raise InvalidInput(
            named("device"),
            f" {kind}: this machine's device is {found.title}; use ",
            named("device"),
            f" {profile.kind}",
        )
    budget = budget_of(profile, used_by_others_bytes=used)
    return store.bare(profile), budget


def calibrate(
    kind: str = "auto",
    *,
    minutes: float | None = None,
    measure: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Measures this machine's device and fits what it taught together with earlier observations.

    An interruption (KeyboardInterrupt) ends the measuring; points that are finished stay and are fitted. Raises
    RunFailed when not one point could be measured and none was known before.
    """
    started = time.monotonic()
    hardware, budget = hardware_for(kind)
    limit = 60 * (MINUTES[hardware.kind] if minutes is None else minutes)
    found: list[Observation] = []
    failed: list[str] = []
    interrupted = False
    if measure:
        _require_writable(store.observations_folder())
        try:
            _measure(hardware, budget, started + max(0.0, limit - FIT_SECONDS), found, failed, progress)
        except KeyboardInterrupt:
            interrupted = True
            points = f"{len(found)} finished {'point is' if len(found) == 1 else 'points are'}"
            if found:
                progress(f"stopped; {points} kept and fitted; plan calibrate again measures more")
    known = usable(store.read_observations(), hardware, like=found[-1] if found else None)
    if not known and interrupted:
        raise Interrupted("interrupted before a point was measured; nothing is kept")
    if not known:
        detail = f" ({failed[0]})" if failed else ""
        raise RunFailed(f"nothing was measured on {hardware.title}{detail}")
    outcome = _fitted(known, hardware)
    return replace(
        outcome, measured=len(found), failed=failed, interrupted=interrupted, seconds=time.monotonic() - started
    )


def refit(hardware: HardwareProfile) -> Outcome:
    """Fits what was observed of a device, by this machine or by others; measures nothing. `hardware` is bare."""
    known = usable(store.read_observations(), hardware, like=None)
    if not known:
        raise RunFailed(f"nothing was observed of {hardware.title}")
    return _fitted(known, hardware)


def _fitted(known: list[Observation], hardware: HardwareProfile) -> Outcome:
    from planner.calibration.fit import calibrate as fit

    made, left_out = rows(known, hardware)
    versions = {**known[-1].versions, "driver": str(known[-1].hardware.get("driver", ""))}
    result = fit(made, hardware, versions=versions)
    path = store.save_fit(hardware.name, result)
    return Outcome(profile=hardware.name, calibration=result, path=path, left_out=left_out)


def _require_writable(folder: Path) -> None:
    """Before minutes are spent: can what is measured be kept?"""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InvalidInput(
            f"{folder} can't be written: {error.strerror or error}; TUNEPLAN_HOME names another folder"
        ) from None


def usable(
    observations: list[Observation], hardware: HardwareProfile, *, like: Observation | None
) -> list[Observation]:
    """The newest observations of this device that were made with the same torch and transformers as the newest."""
    own = [item for item in observations if item.hardware.get("profile") == hardware.name]
    last = like or (own[-1] if own else None)
    if last is None:
        return []
    wanted = {name: _minor(last.versions.get(name, "")) for name in ("torch", "transformers")}
    same = [
        item for item in own if all(_minor(item.versions.get(name, "")) == version for name, version in wanted.items())
    ]
    return same[-MOST:]


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _measure(
    hardware: HardwareProfile,
    budget: int,
    deadline: float,
    found: list[Observation],
    failed: list[str],
    progress: Callable[[str], None],
) -> None:
    """Probes one shape after another until all are done or the time is; a point that fails is named and passed over."""
    from planner.calibration.shapes import candidates, choose
    from planner.calibration.worker import probe
    from planner.contract import settings

    progress(f"calibrating {hardware.title}: choosing shapes")
    pool = candidates(hardware, budget_bytes=budget)
    chosen = choose(pool, hardware, count=POINTS[hardware.kind], seconds=max(0.0, deadline - time.monotonic()))
    if not chosen:
        raise RunFailed(
            "no shape fits the memory and the minutes that are left; free memory or raise ", named("minutes")
        )
    took: list[float] = []
    for number, shape in enumerate(chosen, 1):
        left = deadline - time.monotonic()
        if left < (sorted(took)[len(took) // 2] if took else 5.0):
            progress(f"time is up after {number - 1} of {len(chosen)} points")
            return
        request = ProbeRequest(
            model={"id": shape.model, "config": shape.config},
            settings=settings.to_settings(shape.choices),
            device="cuda" if hardware.kind == "rocm" else hardware.kind,
            profile=hardware.name,
            predicted=shape.predicted,
            source="calibrate",
            label=shape.label,
        )
        began = time.monotonic()
        try:
            observation = probe(request, timeout=max(20.0, left + 20.0))
        except TuneplanError as error:
            failed.append(str(error))
            progress(f"[{number}/{len(chosen)}] {shape.label}: {error}")
            continue
        took.append(time.monotonic() - began)
        store.save_observation(observation, f"calibrate-{number:02d}")
        found.append(observation)
        progress(f"[{number}/{len(chosen)}] {shape.label}: {_said(observation)} in {took[-1]:.0f} s")


def _said(observation: Observation) -> str:
    """Measured beside predicted in a few words."""
    from planner.contract.units import format_bytes

    if observation.outcome != "ran" or not observation.allocated_peak_bytes:
        return observation.outcome.replace("_", " ")
    text = f"{format_bytes(observation.allocated_peak_bytes)} in tensors"
    if observation.predicted is not None:
        expected = max(observation.predicted.instants[name] for name in observation.instants)
        text += f" (predicted {expected / observation.allocated_peak_bytes - 1:+.2%})"
    if observation.device_peak_bytes:
        text += f", {format_bytes(observation.device_peak_bytes)} on the device"
    return text
