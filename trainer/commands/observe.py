"""The observation a run leaves behind: predicted beside measured, with everything that the numbers depend on.

It holds no path, name or text of the user's (`trainer.wire.portable`).
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.choices import TrainingChoices
from planner.contract.files import user_data_dir, write_whole
from planner.contract.record import BatchLengths
from planner.contract.records import Ended, Observation, Plan
from trainer.measure import devices
from trainer.wire import portable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What the steps of a run were like."""

    seconds: list[float]
    tokens_per_second: float | None
    heaviest: BatchLengths | None
    """Lengths of the sequences in the heaviest micro-batch, row by row."""
    outcome: Ended
    notes: list[str]


def build(
    plan: Plan,
    choices: TrainingChoices,
    *,
    config: dict[str, Any],
    device: torch.device,
    measured: dict[str, Any],
    run: Steps,
) -> Observation:
    """An observation that holds numbers and plain words alone: it may be shared.

    `measured` holds allocated_peak_bytes, reserved_peak_bytes, device_peak_bytes and instants as far as known.
    """
    settings = asdict(choices)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return Observation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source="run",
        hardware={"profile": portable.word(plan.gpu), **devices.describe(device)},
        versions=devices.versions(),
        model={"id": portable.model_name(plan.model), "config": portable.config(config)},
        settings=settings,
        predicted=plan.predicted,
        step_seconds=[round(seconds, 6) for seconds in run.seconds],
        tokens_per_second=run.tokens_per_second,
        notes=run.notes,
        outcome=run.outcome,
        batch_lengths=run.heaviest,
        **measured,
    )


def save(observation: Observation, run_dir: Path, *, name: str = "observation.json") -> Path:
    """Writes the observation into the run folder and a copy for the calibration into the user's data folder."""
    text = (observation.model_dump_json(by_alias=True, indent=1) + "\n").encode()
    path = run_dir / name
    write_whole(path, text)
    stamp = observation.created.replace(":", "").replace("+0000", "Z")
    run = hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:8]  # tells runs apart and says nothing of them
    own = name.removeprefix("observation").removesuffix(".json")
    try:
        write_whole(user_data_dir() / "observations" / f"{stamp}-run-{run}{own}.json", text)
    except OSError as error:
        logging.getLogger("trainer").warning("observation not copied to the user's data folder: %s", error)
    return path
