"""Peaks of configurations: the tapes of their cases, cached, evaluated at batch, length and checkpointed layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.errors import InvalidInput
from planner.memory import device
from planner.memory.blocks import registry
from planner.memory.layout import symbolic_range
from planner.memory.loss import chunk_rows
from planner.memory.net import Net
from planner.memory.peak import MASK_ROW, Array, Envelope, envelope, evaluate, multipliers
from planner.memory.program import Case, layer_kind, run
from planner.memory.reserved import replayed
from planner.memory.sharding import UNMEASURED_SHARE
from planner.memory.tape import Tape
from planner.records import MemoryReport
from planner.spec import HardwareProfile, ModelSpec, TrainingChoices


@dataclass(frozen=True, slots=True)
class Grid:
    """Peaks of many configurations; every array has one entry per configuration, in bytes."""

    allocated: Array
    reserved: Array
    device: Array
    upper: Array
    """Upper end of the device peak's interval."""
    binding: npt.NDArray[np.str_]
    """Name of the instant that sets the allocated peak."""


INPUT_BYTES = 24
"""int64 input_ids, labels and attention_mask of a token; a step's micro-batches are fetched together, before the
first.
"""

_ENVELOPES: dict[tuple[int, Case], tuple[ModelSpec, Envelope]] = {}
_CACHE_LIMIT = 512


def _batch_kind(spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, batch_size: Array | int) -> Any:
    """2 for all micro-batches alike; 1 where a single sequence runs otherwise: older losses slice it without a copy,
    and attention that is written out in products needs no copies of its heads.
    """
    wide = choices.precision == "fp32" or (choices.method == "qlora" and choices.stack == "peft")
    grouped = spec.num_kv_heads != spec.num_heads and (wide or spec.architecture == "falcon")
    written_out = choices.attention == "eager" or spec.architecture == "gemma2" or grouped
    differs = choices.transformers_version is not None or written_out or hardware.kind not in ("cuda", "rocm")
    return np.minimum(batch_size, 2) if differs else 0 * batch_size + 2


def _pads_masks(spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices) -> bool:
    """Whether a mask may reach CUDA's efficient kernel, which pads its rows to a multiple of 16."""
    masked = choices.padding == "max" or spec.sliding_window is not None or spec.architecture == "t5"
    return masked and choices.attention == "sdpa" and hardware.kind in ("cuda", "rocm")


def _case(
    spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, checkpointed: int | None, length: int
) -> Case:
    """The case of a configuration; what stays symbolic is set to one value, so that equal cases are equal."""
    plain = replace(
        choices,
        batch_size=int(_batch_kind(spec, hardware, choices, choices.batch_size)),
        max_length=1,
        gradient_accumulation_steps=min(choices.gradient_accumulation_steps, 2),
        gradient_checkpointing=checkpointed != 0,
        checkpoint_layers=None,
        eval_batch_size=None,
        lora_alpha=1,
    )
    windowed = bool(spec.sliding_layers) and spec.sliding_window is not None and length >= spec.sliding_window
    target = "cuda" if hardware.kind in ("cuda", "rocm") else hardware.kind
    padded = choices.padding == "max" and choices.stack == "peft"
    unaligned = length % MASK_ROW != 0 and _pads_masks(spec, hardware, choices)
    return Case(spec, plain, checkpointed, padded, windowed, target, unaligned=unaligned)


def _envelope(case: Case) -> Envelope:
    key = (id(case.spec), case)
    found = _ENVELOPES.get(key)
    if found is None:
        if len(_ENVELOPES) >= _CACHE_LIMIT:
            _ENVELOPES.clear()
        found = _ENVELOPES[key] = (case.spec, envelope(run(case)))
    return found[1]


def _symbolic(spec: ModelSpec, choices: TrainingChoices) -> range:
    net = Net.build(Tape(), spec, choices, padded=False, windowed=False)
    architecture = registry.program(spec)
    return symbolic_range([layer_kind(net, architecture, index) for index in range(spec.num_layers)])


def predict_grid(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    batch_size: npt.ArrayLike,
    length: npt.ArrayLike,
    checkpointed_layers: npt.ArrayLike,
) -> Grid:
    """Peaks for arrays of micro-batch, tokens per sequence and number of checkpointed layers (broadcast together).

    Everything else is taken from `choices`. Raises `NotModelled` for what has no program.
    """
    batches, lengths, layers = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, dtype=np.int64)) for x in (batch_size, length, checkpointed_layers))
    )
    allocated = np.zeros(batches.shape, dtype=np.int64)
    persistent = np.zeros_like(allocated)
    binding = np.full(batches.shape, "", dtype="<U12")
    symbolic = _symbolic(model, choices)
    rows_per_chunk = chunk_rows(model.vocab_size)
    covered = (layers >= symbolic.start) & (layers < symbolic.stop) if len(symbolic) else np.zeros(layers.shape, bool)
    edge = model.sliding_window if model.sliding_layers and model.sliding_window else np.iinfo(np.int64).max
    kinds = _batch_kind(model, hardware, choices, batches)
    unaligned = (lengths % MASK_ROW != 0) & _pads_masks(model, hardware, choices)
    key = np.where(covered, -1, layers) * 8 + unaligned * 4 + (lengths >= edge) * 2 + (kinds == 1)
    for value in np.unique(key):
        chosen = key == value
        number = int(value) // 8
        kind = replace(choices, batch_size=int(kinds[chosen][0]))
        case = _case(model, hardware, kind, None if number < 0 else number, int(lengths[chosen][0]))
        found = _envelope(case)
        values = multipliers(batches[chosen], lengths[chosen], layers[chosen], rows_per_chunk)
        peak, rows = evaluate(found, values)
        allocated[chosen] = peak
        persistent[chosen] = _persistent(found)
        binding[chosen] = np.array(found.instants)[rows]
    allocated += device.workspace_bytes(hardware)
    reserved = device.reserved(allocated, persistent)
    allocated, reserved, upper = device.corrected_peaks(hardware, allocated, reserved, persistent)
    return Grid(allocated, reserved, reserved + hardware.context_bytes, upper, binding)


def _persistent(found: Envelope) -> int:
    return int(found.coefficients[found.instants.index("load")][0])


def predict(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, *, budget_bytes: int | None = None
) -> MemoryReport:
    """Peaks by instant and component of one configuration on one device.

    Raises `NotModelled` for what has no program, `InvalidInput` for more checkpointed layers than there are.
    """
    if choices.checkpoint_layers is not None and choices.checkpoint_layers > model.total_layers:
        raise InvalidInput(
            f"--checkpoint-layers {choices.checkpoint_layers} is more than the {model.total_layers} layers "
            f"of {model.id}"
        )
    layers = choices.checkpointed_layers(model.total_layers)
    case = _case(model, hardware, choices, layers, choices.max_length)
    found = _envelope(case)
    values = multipliers(
        np.array([choices.batch_size]), np.array([choices.max_length]), np.array([layers]), chunk_rows(model.vocab_size)
    )
    live = (values @ found.coefficients.T.astype(np.float64))[0]
    workspaces = device.workspace_bytes(hardware)
    instants: dict[str, int] = {}
    for name, size in zip(found.instants, live, strict=True):
        instants[name] = max(instants.get(name, 0), round(float(size)) + workspaces)
    waiting = INPUT_BYTES * choices.batch_size * choices.max_length * (choices.gradient_accumulation_steps - 1)
    instants = {name: size + (waiting if name != "load" else 0) for name, size in instants.items()}
    instants["eval"] = _eval_peak(case, choices) + workspaces
    instants["save"] = instants["load"]
    allocated = max(instants.values())
    binding = max(instants, key=lambda name: instants[name])
    components = _components(case, found, values, live, binding, choices)
    if binding not in ("load", "eval", "save"):
        components["temporaries"] = components.get("temporaries", 0) + waiting
    components["workspaces"] = workspaces
    budget = hardware.budget_bytes if budget_bytes is None else budget_bytes
    persistent = np.array([_persistent(found)])
    low = np.array([allocated])
    if hardware.kind in ("cuda", "rocm") and choices.num_gpus == 1:
        reserved, most = _replayed(model, hardware, choices, case, binding, allocated, budget - hardware.context_bytes)
    else:
        reserved = most = int(device.reserved(low, persistent)[0])
    total = reserved + hardware.context_bytes
    components["fragmentation"] = reserved - allocated
    components["context"] = hardware.context_bytes
    upper = int(device.upper(np.array([most + hardware.context_bytes]), low, persistent)[0])
    lower = int(device.lower(np.array([total]), low, persistent)[0])
    if choices.num_gpus > 1:
        margin = int(UNMEASURED_SHARE * total)
        lower, upper = lower - margin, upper + margin
    report = MemoryReport(
        allocated_peak_bytes=allocated,
        reserved_peak_bytes=reserved,
        device_peak_bytes=total,
        interval_bytes=(lower, upper),
        budget_bytes=budget,
        binding_instant=binding,
        instants=instants,
        components={name: size for name, size in components.items() if size},
    )
    return device.corrected_report(hardware, report, int(persistent[0]), most)


def _replayed(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    case: Case,
    binding: str,
    allocated: int,
    limit: int,
) -> tuple[int, int]:
    """Reserved bytes below `limit` (or without it, where it does not suffice), and without it."""
    batch = choices.batch_size
    if binding == "eval":
        case, batch = _eval_case(case, choices), choices.eval_batch_size or batch
    found = replayed(
        case,
        np.array([batch]),
        np.array([choices.max_length]),
        chunk_rows(model.vocab_size),
        first=[hardware.cublas_workspace_bytes] * device.CUBLAS_HANDLES,
        limit=max(limit, 0) if allocated <= limit else None,
    )
    free = max(found.free_bytes, allocated)
    return max(found.limited_bytes or free, allocated), free


def _eval_case(case: Case, choices: TrainingChoices) -> Case:
    batch = choices.eval_batch_size or choices.batch_size
    return replace(case, choices=replace(case.choices, batch_size=min(batch, 2)), checkpointed=0, evaluating=True)


def _eval_values(spec: ModelSpec, choices: TrainingChoices) -> npt.NDArray[np.float64]:
    batch = choices.eval_batch_size or choices.batch_size
    return multipliers(np.array([batch]), np.array([choices.max_length]), np.array([0]), chunk_rows(spec.vocab_size))


def _eval_peak(case: Case, choices: TrainingChoices) -> int:
    peak, _ = evaluate(_envelope(_eval_case(case, choices)), _eval_values(case.spec, choices))
    return int(peak[0])


def _components(
    case: Case,
    found: Envelope,
    values: npt.NDArray[np.float64],
    live: npt.NDArray[np.float64],
    binding: str,
    choices: TrainingChoices,
) -> dict[str, int]:
    """Live bytes by component at the event that sets the peak: the tape is run again and watched there."""
    if binding == "eval":
        case = _eval_case(case, choices)
        found, values = _envelope(case), _eval_values(case.spec, choices)
        live = (values @ found.coefficients.T.astype(np.float64))[0]
    rows = [row for row, name in enumerate(found.instants) if name == binding] or [int(live.argmax())]
    row = max(rows, key=lambda index: live[index])
    segment, event, offset = found.where[row]
    tape = run(case, (segment, event))
    assert tape.watched is not None
    parts = {name: round(float(values[0] @ np.array(vector, float))) for name, vector in tape.watched.items()}
    if offset:
        moved = tape.segments[segment].parts[offset]
        for name, vector in moved.items():
            parts[name] = parts.get(name, 0) + round(float(values[0] @ np.array(vector, float)))
    return parts
