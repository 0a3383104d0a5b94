"""The observation a run leaves behind: predicted beside measured, with everything that the numbers depend on."""

from __future__ import annotations

import datetime
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from planner.contract.files import user_data_dir, write_whole
from planner.contract.records import Observation, Plan
from planner.contract.spec import TrainingChoices
from trainer import devices


def build(
    *,
    plan: Plan,
    choices: TrainingChoices,
    config: dict[str, Any],
    device: Any,
    measured: dict[str, Any],
    step_seconds: list[float],
    tokens_per_second: float | None,
    notes: list[str],
    outcome: Any = "ran",
    batch_lengths: tuple[tuple[int, ...], ...] | None = None,
) -> Observation:
    """`batch_lengths`: those of the heaviest micro-batch's sequences, row by row. `measured` holds
    allocated_peak_bytes, reserved_peak_bytes, device_peak_bytes and instants as far as known.
    """
    settings = asdict(choices)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return Observation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source="run",
        hardware={"profile": plan.gpu, **devices.describe(device)},
        versions=devices.versions(),
        model={"id": plan.model, "config": config},
        settings=settings,
        predicted=plan.predicted,
        step_seconds=[round(seconds, 6) for seconds in step_seconds],
        tokens_per_second=tokens_per_second,
        notes=notes,
        outcome=outcome,
        batch_lengths=batch_lengths,
        **measured,
    )


def save(observation: Observation, run_dir: Path, *, name: str = "observation.json") -> Path:
    """Writes the observation into the run folder and a copy for the calibration into the user's data folder."""
    text = (observation.model_dump_json(by_alias=True, indent=1) + "\n").encode()
    path = run_dir / name
    write_whole(path, text)
    stamp = observation.created.replace(":", "").replace("+0000", "Z")
    own = name.removeprefix("observation").removesuffix(".json")
    try:
        write_whole(user_data_dir() / "observations" / f"{stamp}-{run_dir.name}{own}.json", text)
    except OSError as error:
        logging.getLogger("trainer").warning("observation not copied to the user's data folder: %s", error)
    return path
