"""Files of the calibration in the user's data folder: observations, one per file, and one small fit per device.

Only the standard library is imported at the top: `plan` reads a fit on every start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from planner.contract.errors import TuneplanError
from planner.contract.files import user_data_dir, write_json
from planner.contract.spec import Calibration, HardwareProfile
from planner.contract.words import one_line

if TYPE_CHECKING:
    from planner.contract.records import Observation

SCHEMA = "tuneplan.calibration/1"
RECENT_RUNS = 12
"""Newest observations that are looked at to say how far off predictions have been."""


def observations_folder() -> Path:
    """Where training runs and `plan calibrate` leave their observations."""
    return user_data_dir() / "observations"


def fit_path(profile: str) -> Path:
    """The fit of one device."""
    return user_data_dir() / "calibration" / f"{profile}.json"


def save_observation(observation: Observation, name: str) -> Path:
    """Keeps one observation under the data folder; `name` tells it from others of the same second."""
    stamp = re.sub(r"[^0-9A-Za-z._-]", "", observation.created.replace("+00:00", "Z"))[:40]
    path = observations_folder() / f"{stamp}-{name}.json"
    write_json(path, observation.model_dump(mode="json", by_alias=True))
    return path


def save_fit(profile: str, found: Calibration) -> Path:
    """Keeps a fit beside those made with other versions; the newest stands first."""
    path = fit_path(profile)
    entry = asdict(found)
    others = [item for item in _entries(path) if _key(_texts(item.get("versions"))) != _key(found.versions)]
    write_json(path, {"schema": SCHEMA, "profile": profile, "fits": [entry, *others][:8]})
    return path


def _key(versions: Mapping[str, str]) -> tuple[str, ...]:
    """What makes two fits replace one another: minor versions of torch and transformers, and the driver."""
    return (*(_minor(versions.get(name, "")) for name in ("torch", "transformers")), versions.get("driver", ""))


def _texts(versions: object) -> dict[str, str]:
    """The versions of a fit that may be damaged."""
    pairs = versions.items() if isinstance(versions, dict) else ()
    return {name: text for name, text in pairs if isinstance(text, str)}


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _entries(path: Path) -> list[dict[str, object]]:
    """The fits in a file; a missing or damaged one has none."""
    from planner.calibration import reading

    return (reading.set_aside(path, lambda: reading.fits(path, SCHEMA)) or []) if path.exists() else []


def _revived(path: Path) -> list[Calibration]:
    """The fits in a file that hold what a fit holds."""
    from planner.calibration import reading

    revived = (reading.set_aside(path, partial(reading.calibration, entry, str(path))) for entry in _entries(path))
    return [found for found in revived if found is not None]


def load_fit(profile: str) -> Calibration | None:
    """The fit that holds for the installed versions; one made with others comes back unapplied, with the reason."""
    found = _revived(fit_path(profile))
    if not found:
        return None
    installed = _installed("torch")
    if installed is None:  # a laptop without torch plans with what it has
        return found[0]
    for item in found:
        if _minor(item.versions.get("torch", "")) == _minor(installed):
            return item
    newest = found[0]
    was = one_line(newest.versions.get("torch", "an unknown version"))  # the file may be anybody's
    return Calibration(
        applied=False,
        reason=f"calibrated with torch {was}, installed is {installed}: run plan calibrate again",
        made=newest.made,
        versions=newest.versions,
        observations=newest.observations,
        models=newest.models,
        errors=newest.errors,
    )


@cache
def _installed(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def recent_errors(hardware: HardwareProfile) -> list[float]:
    """Signed errors of the newest training runs' predictions on this device, (predicted - measured) / measured.

    A run that had other batches than its plan counted on is predicted again for the heaviest it had.
    """
    from planner.calibration import reading

    errors: list[float] = []
    for path in _newest_first():
        if len(errors) >= RECENT_RUNS:
            break
        if "calibrate" in path.name:
            continue
        found = reading.set_aside(path, partial(reading.observation, path))
        error = None if found is None else _error(found, hardware)
        if error is not None and reading.finite(error):
            errors.append(error)
    return errors


def _newest_first() -> list[Path]:
    """The observations' files."""
    try:
        return sorted((path for path in observations_folder().iterdir() if path.suffix == ".json"), reverse=True)
    except OSError:
        return []


def _error(found: Observation, hardware: HardwareProfile) -> float | None:
    """Signed error of one run's prediction; None where it says nothing about this device."""
    if found.source != "run" or found.hardware["profile"] != hardware.name or _failed(found):
        return None
    measured, report = found.allocated_peak_bytes, found.predicted
    if measured is None or report is None:
        return None
    predicted = report.allocated_peak_bytes
    if found.batch_lengths and found.batch_lengths != report.batch_lengths:
        try:
            predicted = _predicted_again(found, hardware)
        except TuneplanError:  # by now it may be refused
            return None
    elif any(note.startswith("planned max_length") for note in found.notes):
        return None  # of what came, only the longest is known
    return (predicted - measured) / measured


def _predicted_again(found: Observation, hardware: HardwareProfile) -> int:
    """Allocated peak of an observed run's heaviest micro-batch."""
    from planner import memory
    from planner.contract import settings
    from planner.data.lengths import OneBatch, as_batch
    from planner.models import sources

    spec = sources.from_config(found.model["config"], found.model["id"])
    choices = settings.choices_from(found.settings)
    return memory.allocated_peak(spec, hardware, choices, OneBatch(as_batch(found.batch_lengths or ())))


def _failed(found: Observation) -> bool:
    return found.outcome != "ran" or any(note.startswith("failed") for note in found.notes)


def read_observations(paths: Iterable[Path] | None = None) -> list[Observation]:
    """Observations in the data folder (or the files named), damaged files set aside, oldest first."""
    from planner.calibration import reading

    if paths is None:
        folder = observations_folder()
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else ()
    read = (reading.set_aside(path, partial(reading.observation, path)) for path in paths)
    return [found for found in read if found is not None]


def attach(profile: HardwareProfile) -> HardwareProfile:
    """The profile with what this machine has taught; itself where nothing was observed here."""
    files = _newest_first()
    found = load_fit(profile.name)
    if not files and found is None:
        return profile
    fitted = _with_fit(profile, found)
    if not files:
        return fitted
    from planner.calibration.own import own_runs

    runs = own_runs(fitted, files, every_source=found is None)
    return replace(_with_errors(fitted, recent_errors(profile)), own_runs=runs)


def _with_fit(profile: HardwareProfile, found: Calibration | None) -> HardwareProfile:
    if found is None or not found.applied:
        return profile if found is None else replace(profile, calibration=found)
    return replace(
        profile,
        calibration=found,
        context_bytes=profile.context_bytes if found.context_bytes is None else found.context_bytes,
        cublas_workspace_bytes=(
            profile.cublas_workspace_bytes if found.cublas_workspace_bytes is None else found.cublas_workspace_bytes
        ),
    )


def _with_errors(profile: HardwareProfile, errors: list[float]) -> HardwareProfile:
    """The profile whose calibration knows how far off the promises of the last training runs were."""
    if not errors:
        return profile
    ranked = sorted(errors)
    known = {
        "runs": float(len(errors)),
        "runs_median": ranked[len(ranked) // 2],
        "runs_worst": max(errors, key=abs),
    }
    found = profile.calibration or Calibration(applied=False)
    return replace(profile, calibration=replace(found, errors={**found.errors, **known}))


def bare(profile: HardwareProfile) -> HardwareProfile:
    """The profile as it is shipped, whatever this machine has taught; its memory stays this machine's."""
    if profile.calibration is None:
        return replace(profile, own_runs=()) if profile.own_runs else profile
    from planner.devices import profiles

    try:
        shipped = profiles.load(profile.name)
    except Exception:  # a card without a profile: its context is an estimate already
        return replace(profile, calibration=None, own_runs=())
    return replace(
        profile,
        calibration=None,
        own_runs=(),
        context_bytes=shipped.context_bytes,
        cublas_workspace_bytes=shipped.cublas_workspace_bytes,
    )
