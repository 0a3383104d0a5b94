"""Real runs: observations that stand under hardware_profiles/observations, beside the closed form of today."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from planner import memory
from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.records import Observation
from planner.contract.settings import choices_from
from planner.contract.spec import ModelSpec
from planner.devices.profiles import load
from planner.models.sources import from_config

FOLDER = Path(__file__).parents[2] / "hardware_profiles" / "observations"


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run and what is predicted for it now."""

    model: ModelSpec
    choices: TrainingChoices
    kind: str
    """cuda, cpu or mps."""
    device: str
    measured: int
    predicted: int
    instants: dict[str, tuple[int, int]]
    """Predicted and measured bytes by instant."""
    reserved: tuple[int, int] | None
    interval: tuple[int, int, int] | None
    """Lower end of the device peak's interval, the measured device peak, upper end; None where it was not measured."""

    @property
    def error(self) -> float:
        """Signed error of the allocated peak."""
        return self.predicted / self.measured - 1


def read(folder: Path = FOLDER) -> tuple[list[Run], list[str]]:
    """All runs, and why some are left out."""
    runs, refused = [], []
    for path in sorted([*folder.glob("**/*.jsonl"), *folder.glob("**/*.json")]) if folder.exists() else []:
        text = path.read_text()
        for line in text.splitlines() if path.suffix == ".jsonl" else [text]:
            if not line.strip():
                continue
            observation = Observation.model_validate(json.loads(line))
            try:
                run = _run(observation)
            except (TuneplanError, KeyError) as error:
                refused.append(f"{path.name}: {observation.model.get('id')}: {error}")
                continue
            if run is not None:
                runs.append(run)
    return runs, refused


def _run(observation: Observation) -> Run | None:
    measured = observation.instants
    if not measured or not observation.model.get("config"):
        return None
    spec = from_config(observation.model["config"], str(observation.model.get("id", "model")))
    choices = choices_from(observation.settings)
    profile = load(observation.hardware["profile"])
    found = memory.predict(spec, profile, choices)
    both = {name: (found.instants[name], measured[name]) for name in measured if name in found.instants}
    training = {name: pair for name, pair in both.items() if name not in ("load", "save", "eval")} or both
    reserved, held = observation.reserved_peak_bytes, observation.device_peak_bytes
    return Run(
        model=spec,
        choices=choices,
        kind=profile.kind,
        device=str(observation.hardware.get("title", profile.title)),
        measured=max(pair[1] for pair in training.values()),
        predicted=max(pair[0] for pair in training.values()),
        instants=both,
        reserved=None if reserved is None else (found.reserved_peak_bytes, reserved),
        interval=None if held is None else (found.interval_bytes[0], held, found.interval_bytes[1]),
    )
