"""Which shapes to measure: a D-optimal choice among true-size blocks of well-known models, with few layers each.

The candidates span what moves the unknowns apart: weights that stay against activations that come and go (full
fine-tuning against LoRA, few tokens against many), many small blocks against few large ones, and for the speed products
against element-wise work. Points are then taken greedily, each the one that adds most information about all unknowns
together (the determinant of the fit's own normal matrix, priors included) per second it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.calibration import fit, fit_speed
from planner.calibration.features import Row
from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.records import MemoryReport
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import device

Array = npt.NDArray[np.float64]

BUDGET_SHARE = 0.6
"""Share of the device's budget that a calibration point may take: it has to run on a busy machine too."""
LARGEST_BYTES = {"cpu": 3 << 30, "mps": 8 << 30, "cuda": 24 << 30, "rocm": 24 << 30}
"""Device bytes that a point may take at most, so that it is built and run within seconds."""
START_SECONDS = {"cpu": 12.0, "mps": 8.0, "cuda": 9.0, "rocm": 9.0}
"""What a probe's process needs before its first step."""
STEPS = 6
"""Steps of a probe: warm-up, measured and metered."""

MODELS: dict[str, tuple[tuple[str, int], ...]] = {
    "cpu": (("smollm2-135m", 4), ("pythia-160m", 3), ("phi-1.5", 1), ("llama-3.2-1b", 1), ("olmo-2-1b", 1)),
    "gpu": (
        ("qwen2.5-0.5b", 8),
        ("llama-3.2-1b", 8),
        ("phi-2", 6),
        ("mistral-7b-v0.1", 4),
        ("qwen3-0.6b", 8),
        ("llama-3.1-8b", 2),
    ),
}
"""Catalogue names and how many of their layers are kept."""
SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    "cpu": ((1, 64), (2, 128), (4, 128), (1, 512)),
    "gpu": ((1, 256), (2, 1024), (8, 512), (4, 2048), (1, 8192)),
}
"""Sequences and tokens per sequence."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {"method": "lora", "gradient_checkpointing": True},
    {"method": "lora", "gradient_checkpointing": False},
    {"method": "full", "gradient_checkpointing": True, "loss": "chunked"},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One point to measure, with the bare prediction."""

    label: str
    model: str
    config: dict[str, Any]
    spec: ModelSpec
    choices: TrainingChoices
    predicted: MemoryReport
    seconds: float
    """Expected time of the whole probe."""


def with_layers(config: dict[str, Any], layers: int) -> dict[str, object]:
    """The config of the same blocks with fewer of them."""
    changed = dict(config)
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"):
        if key in changed:
            changed[key] = min(layers, int(changed[key]))
    if isinstance(changed.get("layer_types"), list):
        changed["layer_types"] = changed["layer_types"][:layers]
    if "max_window_layers" in changed:
        changed["max_window_layers"] = min(layers, int(changed["max_window_layers"]))
    return changed


def precision_of(hardware: HardwareProfile) -> str:
    """The precision a calibration runs in: bf16 where the device has it, else fp32."""
    return "bf16" if "bf16" in hardware.dtypes else "fp32"


def candidates(hardware: HardwareProfile, *, budget_bytes: int) -> list[Shape]:
    """Every candidate that is modelled and fits; `hardware` is a bare profile."""
    from planner import memory
    from planner.models import catalogue, sources

    pool = "cpu" if hardware.kind == "cpu" else "gpu"
    most = min(BUDGET_SHARE * budget_bytes, LARGEST_BYTES[hardware.kind])
    known = set(catalogue.names())
    found = []
    for name, layers in MODELS[pool]:
        if name not in known:
            continue
        entry = catalogue.entry(name)
        config = with_layers(entry.config, layers)
        spec = sources.from_config(config, entry.hub_id)
        for batch, length in SHAPES[pool]:
            if spec.max_positions and length > spec.max_positions:
                continue
            for changes in SETTINGS:
                choices = TrainingChoices(
                    batch_size=batch,
                    max_length=length,
                    gradient_accumulation_steps=1,
                    precision=precision_of(hardware),
                    **changes,
                )
                try:
                    predicted = memory.predict(spec, hardware, choices, budget_bytes=budget_bytes)
                except TuneplanError:
                    continue
                if predicted.device_peak_bytes > most:
                    continue
                found.append(
                    Shape(
                        label=f"{name}/{layers} {changes['method']} {batch}x{length}"
                        + ("" if changes["gradient_checkpointing"] else " plain"),
                        model=entry.hub_id,
                        config=config,
                        spec=spec,
                        choices=choices,
                        predicted=predicted,
                        seconds=START_SECONDS[hardware.kind] + STEPS * _seconds(spec, hardware, choices),
                    )
                )
    return found


def _seconds(spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices) -> float:
    from planner import speed

    try:
        return speed.predict(spec, hardware, choices).step_seconds
    except TuneplanError:
        return 1.0


def expected_row(shape: Shape, hardware: HardwareProfile) -> Row:
    """The row that the shape would give if the bare model were right."""
    report = shape.predicted
    workspaces = device.workspace_bytes(hardware)
    persistent = report.instants["load"] - workspaces
    seconds = (shape.seconds - START_SECONDS[hardware.kind]) / STEPS
    cuda = hardware.kind in ("cuda", "rocm", "mps")
    return Row(
        model=shape.model,
        label=shape.label,
        spec=shape.spec,
        choices=shape.choices,
        workspaces=workspaces,
        persistent=persistent,
        moving=report.allocated_peak_bytes - workspaces - persistent,
        beyond=report.reserved_peak_bytes - report.allocated_peak_bytes,
        context=hardware.context_bytes,
        allocated=report.allocated_peak_bytes,
        reserved=report.reserved_peak_bytes if cuda else None,
        device=report.device_peak_bytes,
        step_seconds=seconds,
    )


def information(shape: Shape, hardware: HardwareProfile) -> Array:
    """Rows of the fit's design that the shape would add, memory and speed, in units of the priors."""
    row = expected_row(shape, hardware)
    memory_design = fit.design([row], hardware)
    speed_row = np.zeros((1, len(fit_speed.NAMES)))
    try:
        base = fit_speed.predicted_seconds(row, hardware, {})
        for column, name in enumerate(fit_speed.NAMES):
            moved = fit_speed.predicted_seconds(row, hardware, {name: 1.1})
            speed_row[0, column] = np.log(moved / base) / np.log(1.1) * fit_speed.PRIOR / fit_speed.SCATTER
    except TuneplanError:
        pass
    memory_width, speed_width = memory_design.shape[1], speed_row.shape[1]
    upper = np.hstack([memory_design, np.zeros((len(memory_design), speed_width))])
    lower = np.hstack([np.zeros((1, memory_width)), speed_row])
    return np.vstack([upper, lower])


def choose(shapes: Sequence[Shape], hardware: HardwareProfile, *, count: int, seconds: float) -> list[Shape]:
    """Up to `count` shapes that together take no more than `seconds`, the most informative first.

    Models take turns as far as possible, because a correction is judged on models left out of it.
    """
    designs = [information(shape, hardware) for shape in shapes]
    if not designs:
        return []
    matrix = np.eye(designs[0].shape[1])
    used: dict[str, int] = {}
    chosen: list[int] = []
    left = seconds
    while len(chosen) < count:
        base = np.linalg.slogdet(matrix)[1]
        best, most = None, -np.inf
        fewest = min((used.get(shape.model, 0) for i, shape in enumerate(shapes) if i not in chosen), default=0)
        for index, shape in enumerate(shapes):
            if index in chosen or shape.seconds > left or used.get(shape.model, 0) > fewest:
                continue
            gain = (np.linalg.slogdet(matrix + designs[index].T @ designs[index])[1] - base) / shape.seconds
            if gain > most:
                best, most = index, gain
        if best is None:
            break
        chosen.append(best)
        matrix = matrix + designs[best].T @ designs[best]
        used[shapes[best].model] = used.get(shapes[best].model, 0) + 1
        left -= shapes[best].seconds
    return [shapes[index] for index in chosen]
