"""An observation for others: what a calibration needs, and nothing that says whose it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from planner.calibration import reading, store
from planner.calibration.run import Outcome
from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.records import Observation
from planner.contract.settings import BY_NAME
from planner.contract.shown import shown
from planner.models import catalogue

VERSIONS = (
    *("torch", "transformers", "peft", "accelerate", "bitsandbytes", "tuneplan", "driver", "cuda", "rocm", "python"),
    *("deepspeed", "safetensors"),
)
"""Packages whose versions decide what memory is taken."""
HARDWARE = ("profile", "title", "total_bytes", "driver", "kind", "compute_capability", "used_by_others_bytes")
_VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,40}")
_TITLE = re.compile(r"[0-9A-Za-z .()/+_-]{1,80}")
_OF_CONFIG = re.compile(r"[a-z][a-z0-9_]{0,60}")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_NOT_OF_CONFIG = (
    "_name_or_path",
    "name_or_path",
    "id2label",
    "label2id",
    "auto_map",
    "finetuning_task",
    "task_specific_params",
)


def shared(observation: Observation) -> Observation:
    """The observation without names, paths, data and notes, to the day. A model that isn't the catalogue's is named by
    its architecture and a digest of its dimensions."""
    config = _config(observation.model.get("config"))
    return Observation(
        created=observation.created[:10],
        source="shared",
        hardware={key: _value(observation.hardware[key]) for key in HARDWARE if key in observation.hardware},
        versions={
            key: text for key, text in observation.versions.items() if key in VERSIONS and _VERSION.fullmatch(text)
        },
        model={"id": _identity(str(observation.model.get("id", "")), config), "config": config},
        settings={key: value for key, value in observation.settings.items() if key in BY_NAME},
        predicted=observation.predicted,
        allocated_peak_bytes=observation.allocated_peak_bytes,
        reserved_peak_bytes=observation.reserved_peak_bytes,
        device_peak_bytes=observation.device_peak_bytes,
        instants=observation.instants,
        batch_lengths=observation.batch_lengths,
        step_seconds=[round(seconds, 6) for seconds in observation.step_seconds[:64]],
        tokens_per_second=observation.tokens_per_second,
        outcome=observation.outcome,
        notes=["failed"] if any(note.startswith("failed") for note in observation.notes) else [],
        probe={key: value for key, value in observation.probe.items() if isinstance(value, bool | int | float | None)},
    )


def _value(value: object) -> object:
    if isinstance(value, str):
        return value if _TITLE.fullmatch(value) else "unknown"
    if isinstance(value, list | tuple):
        return [item for item in value if isinstance(item, int | float)]
    return value if isinstance(value, bool | int | float | None) else None


def _config(config: object) -> dict[str, object]:
    """Dimensions: numbers, true and false, short words; never a path or a label."""
    found: dict[str, object] = {}
    for key, value in config.items() if isinstance(config, dict) else ():
        if key in _NOT_OF_CONFIG or not _OF_CONFIG.fullmatch(str(key)):
            continue
        kept = _plain(value)
        if kept is not ...:
            found[key] = kept
    return found


def _plain(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else ...
    if isinstance(value, list) and depth < 3:
        items = [_plain(item, depth + 1) for item in value[:4096]]
        return ... if ... in items else items
    if isinstance(value, dict) and depth < 3:
        items_ = {key: _plain(item, depth + 1) for key, item in value.items() if _WORD.fullmatch(str(key))}
        return {key: item for key, item in items_.items() if item is not ...}
    return ...


def _identity(name: str, config: dict[str, object]) -> str:
    found = catalogue.look_up(name)
    if found is not None:
        return found.hub_id
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    return f"{config.get('model_type', 'model')}-{digest}"


def of_run(run_dir: Path) -> Observation:
    """The observation that a run left, ready to be shared."""
    path = run_dir if run_dir.is_file() else run_dir / "observation.json"
    if not path.is_file():
        raise InvalidInput(f"{run_dir}: no observation in it (observation.json); only finished runs leave one")
    return shared(reading.observation(path))


def take(paths: Iterable[Path]) -> list[str]:
    """Keeps others' observations beside this machine's own; returns the profiles that they are of.

    All are read before one is kept. One that is kept already is not kept twice.
    """
    read = [(path, reading.observation(path)) for path in paths]
    for path, observation in read:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", observation.hardware["profile"]):
            raise InvalidInput(
                f"{path}: hardware.profile is {shown(observation.hardware['profile'])}, no profile's name"
            )
    folder = store.observations_folder()
    for path, observation in read:
        content = json.dumps(observation.model_dump(mode="json", by_alias=True), sort_keys=True)
        name = f"shared-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        if any(folder.glob(f"*-{name}.json")):
            continue
        try:
            store.save_observation(observation, name)
        except OSError as error:
            raise RunFailed(f"{path} can't be kept in {folder}: {error.strerror or error}") from None
    return list(dict.fromkeys(observation.hardware["profile"] for _, observation in read))


def refit_all(names: Iterable[str]) -> list[Outcome]:
    """Fits anew for each profile."""
    from planner.calibration.run import refit
    from planner.devices import profiles

    return [refit(profiles.load(name)) for name in names]
