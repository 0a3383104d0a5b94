"""What this machine's own training runs changed in an answer: as sentences, and as figures for `--json`."""

from __future__ import annotations

import math
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.records import CheckReport, SpeedReport
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import own_runs as memory_runs
from planner.speed import own_runs as speed_runs
from planner.speed import rule_seconds


def summary(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, speed: SpeedReport | None
) -> dict[str, Any] | None:
    """How many runs correct speed and memory, by what, and which were left out; None without any."""
    if not hardware.own_runs:
        return None
    found: dict[str, Any] = {"speed_runs": 0}
    if speed is not None:
        by_rule = rule_seconds(model, hardware, choices)
        found["speed_runs"] = speed_runs.count(hardware, choices, by_rule)
        found["time_factor"] = round(speed.step_seconds / by_rule, 4)
    found["memory_runs"] = memory_runs.count(hardware, choices)
    if found["memory_runs"]:
        found["moving_factor"] = round(memory_runs.moving_factor(hardware, choices), 5)
        found["context_bytes"] = memory_runs.taught(hardware, choices).context_bytes - hardware.context_bytes
    found["left_out"] = [f"{run.name}: {run.left_out}" for run in hardware.own_runs if run.left_out]
    return found


def timed_runs(report: CheckReport) -> int:
    """Runs that correct a judged configuration's speed."""
    found = (report.calibration or {}).get("own_runs")
    runs = found.get("speed_runs", 0) if isinstance(found, dict) else 0
    return runs if isinstance(runs, int) else 0


def sentences(found: dict[str, Any] | None) -> list[str]:
    """The same in words."""
    if found is None:
        return []
    said = []
    if found["speed_runs"]:
        factor = found["time_factor"]
        how = f"{factor:.3g} times the time" if abs(math.log(factor)) > 0.02 else "as"
        said.append(f"Speed is corrected by {_runs(found['speed_runs'])} here: {how} that the rules say.")
    if found["memory_runs"]:
        share, beyond = found["moving_factor"] - 1, found["context_bytes"] / 2**20
        said.append(
            f"Memory is corrected by {_runs(found['memory_runs'])} here: {share:+.1%} of what comes and goes, "
            f"{beyond:+,.0f} MiB beside the tensors."
        )
    said += [f"Left out: {text}." for text in found["left_out"]]
    return said


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
