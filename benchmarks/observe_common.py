"""What the CPU and the GPU benchmark share: one point, its error beside the prediction, files and tables."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # run from a checkout, nothing installed
    sys.path.insert(0, str(ROOT))

from planner import memory  # noqa: E402
from planner.contract.choices import TrainingChoices  # noqa: E402
from planner.contract.records import Observation, ProbeRequest  # noqa: E402
from planner.contract.spec import HardwareProfile, ModelSpec  # noqa: E402
from planner.models import sources  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Point:
    """One configuration to measure."""

    label: str
    model: str
    config: dict[str, Any]
    choices: TrainingChoices
    group: str = ""
    """What the table sums up by besides architecture: method, card, ..."""
    memory_limit_bytes: int | None = None
    expected: str = ""
    """A verdict check's expectation: `ran` or `out_of_memory`."""
    steps: int = 2
    evaluate: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def settings_of(choices: TrainingChoices) -> dict[str, Any]:
    """Fields as JSON values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(choices).items()}


def request_for(point: Point, hardware: HardwareProfile, *, device: str, source: str, seed: int = 0) -> ProbeRequest:
    """The probe's request with the prediction in it; raises NotModelled for what has none."""
    spec = sources.from_config(point.config, point.model)
    return ProbeRequest(
        model={"id": point.model, "config": point.config},
        settings=settings_of(point.choices),
        device=device,  # type: ignore[arg-type]
        profile=hardware.name,
        predicted=memory.predict(spec, hardware, point.choices),
        steps=point.steps,
        evaluate=point.evaluate,
        memory_limit_bytes=point.memory_limit_bytes,
        seed=seed,
        source=source,
        label=point.label,
    )


def rescored(observation: Observation, hardware: HardwareProfile) -> Observation:
    """The observation with today's prediction instead of the one that was made when it was measured."""
    spec = sources.from_config(observation.model["config"], str(observation.model["id"]))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in observation.settings.items()}
    predicted = memory.predict(spec, hardware, TrainingChoices(**values))
    return observation.model_copy(update={"predicted": predicted})


def spec_of(point: Point) -> ModelSpec:
    """The model of a point."""
    return sources.from_config(point.config, point.model)


def signed_error(predicted: float, measured: float) -> float:
    """(predicted - measured) / measured."""
    return (predicted - measured) / measured


def allocated_error(observation: Observation) -> float | None:
    """Signed error of the allocated peak over the instants that were measured; None where nothing was."""
    predicted, measured = observation.predicted, observation.allocated_peak_bytes
    if predicted is None or not measured or observation.outcome != "ran":
        return None
    return signed_error(max(predicted.instants[name] for name in observation.instants), measured)


def instant_errors(observation: Observation) -> dict[str, float]:
    """Signed error of every measured instant."""
    predicted = observation.predicted
    if predicted is None or observation.outcome != "ran":
        return {}
    return {
        name: signed_error(predicted.instants[name], value)
        for name, value in observation.instants.items()
        if name in predicted.instants and value
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values don't pass (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-int(share * 1000) * len(ranked) // 1000) - 1))]


def line_of(name: str, errors: Sequence[float]) -> str:
    """One row of the table: count, median, mean, p95 and worst of |error|, share under-predicted, in percent."""
    if not errors:
        return f"| {name} | 0 | – | – | – | – | – |"
    sizes = [abs(error) for error in errors]
    worst = max(errors, key=abs)
    under = sum(error < 0 for error in errors) / len(errors)
    return (
        f"| {name} | {len(errors)} | {statistics.median(sizes):.3%} | {statistics.fmean(sizes):.3%} "
        f"| {quantile(sizes, 0.95):.3%} | {worst:+.3%} | {under:.0%} |"
    )


def table(title: str, rows: Iterable[tuple[str, Sequence[float]]]) -> list[str]:
    """A markdown table of signed errors."""
    return [
        f"### {title}",
        "",
        "| | points | median | mean | p95 | worst (signed) | under-predicted |",
        "|---|---|---|---|---|---|---|",
        *(line_of(name, errors) for name, errors in rows),
        "",
    ]


def by(observations: Iterable[Observation], key: Callable[[Observation], str]) -> dict[str, list[Observation]]:
    """Observations in groups, in order of appearance."""
    groups: dict[str, list[Observation]] = {}
    for observation in observations:
        groups.setdefault(key(observation), []).append(observation)
    return groups


def lean(observation: Observation) -> Observation:
    """The observation without what only this machine's owner should know."""
    hardware = dict(observation.hardware)
    if hardware.get("kind") == "cpu":
        hardware["driver"] = str(hardware.get("driver", "")).split("-")[0]
    return observation.model_copy(update={"hardware": hardware})


def write_whole(path: Path, text: str) -> None:
    """Writes the file under a temporary name, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def write_lines(path: Path, observations: Iterable[Observation]) -> None:
    """Observations as JSON lines."""
    write_whole(path, "".join(lean(item).model_dump_json(by_alias=True) + "\n" for item in observations))


def read_lines(path: Path) -> list[Observation]:
    """Observations from a file of JSON lines."""
    return [Observation.model_validate(json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
