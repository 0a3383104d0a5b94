"""Peaks of thousands of configurations at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.contract.choices import TrainingChoices
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import device
from planner.memory.engine.monomials import WIDTH
from planner.memory.engine.peak import evaluate
from planner.memory.engine.values import MASK_ROW, Array, multipliers, row_multipliers
from planner.memory.loads import (
    answer_length,
    batch_kind,
    case_of,
    envelope_of,
    flat_case,
    pads_masks,
    persistent_bytes,
    rows_per_chunk,
    symbolic,
)
from planner.memory.recorded.wanted import recurrent_piece, regimes
from planner.memory.step.case import flattens
from planner.models.recorded import Unlearned

if TYPE_CHECKING:
    from planner.data.lengths import Lengths


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


def predict_grid(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    batch_size: npt.ArrayLike,
    length: npt.ArrayLike,
    checkpointed_layers: npt.ArrayLike,
    *,
    data: Lengths | None = None,
) -> Grid:
    """Peaks for arrays of micro-batch, tokens per sequence and number of checkpointed layers (broadcast together).

    Everything else is taken from `choices`. `data`: each micro-batch is the heaviest that these lengths make.
    Raises `NotModelled` for what has no program.
    """
    batches, lengths, layers = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, dtype=np.int64)) for x in (batch_size, length, checkpointed_layers))
    )
    allocated = np.zeros(batches.shape, dtype=np.int64)
    persistent = np.zeros_like(allocated)
    binding = np.full(batches.shape, "", dtype="<U12")
    span = symbolic(model, choices)
    covered = (layers >= span.start) & (layers < span.stop) if len(span) else np.zeros(layers.shape, bool)
    if data is not None and choices.padding != "max":
        asked = lengths
        batches, lengths, loads = _heaviest(model, choices, batches, lengths, data)
        if (pair := data.pair(replace(choices, max_length=int(asked.max())))) is not None:
            choices = replace(choices, max_target_length=pair[1])
            lengths = np.minimum(lengths, pair[0])
        for places, own in loads:
            _fill(model, hardware, choices, own, places, layers, covered, (allocated, persistent, binding))
    _fill_padded(model, hardware, choices, batches, lengths, layers, covered, (allocated, persistent, binding))
    allocated += device.workspace_bytes(hardware)
    reserved = device.reserved(allocated, persistent)
    allocated, reserved, upper = device.corrected_peaks(hardware, allocated, reserved, persistent)
    return Grid(allocated, reserved, reserved + hardware.context_bytes, upper, binding)


def _fill_padded(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    batches: Array,
    lengths: Array,
    layers: Array,
    covered: npt.NDArray[np.bool_],
    into: tuple[Array, Array, npt.NDArray[np.str_]],
) -> None:
    """Peaks, persistent bytes and binding instants of padded micro-batches; those of 0 rows are left alone.

    Raises `Unlearned`, which names all programs that are missing at once.
    """
    allocated, persistent, binding = into
    edge = model.sliding_window if model.sliding_layers and model.sliding_window else np.iinfo(np.int64).max
    kinds = batch_kind(model, hardware, choices, batches)
    unaligned = (lengths % MASK_ROW != 0) & pads_masks(model, hardware, choices)
    regime = regimes(model, choices, batches, lengths)
    key = np.where(covered, -1, layers) * 64 + regime * 8 + unaligned * 4 + (lengths >= edge) * 2 + (kinds == 1)
    padded = batches > 0
    missing: list[Unlearned] = []
    for value in _distinct(key[padded]):
        chosen = (key == value) & padded
        number = int(value) // 64
        kind = replace(choices, batch_size=int(kinds[chosen][0]))
        case = case_of(
            model, hardware, kind, None if number < 0 else number, int(lengths[chosen][0]), int(regime[chosen][0])
        )
        try:
            found = envelope_of(case)
        except Unlearned as one:  # all that is missing is asked for at once
            missing.append(one)
            continue
        per_chunk = rows_per_chunk(model, choices, batches[chosen] * lengths[chosen])
        values = multipliers(
            batches[chosen],
            lengths[chosen],
            layers[chosen],
            per_chunk,
            recurrent_piece(model),
            every_token=choices.liger,
            answers=answer_length(model, choices),
        )
        peak, rows = evaluate(found, values)
        allocated[chosen] = peak
        persistent[chosen] = persistent_bytes(found)
        binding[chosen] = np.array(found.instants)[rows]
    if missing:
        missing[0].also += [asked for one in missing[1:] for asked in one.all_wanted()]
        raise missing[0]


def _distinct(numbers: Array) -> Array:
    """The different values of few kinds, in order; `np.unique` would load numpy's masked arrays at every start."""
    if not numbers.size:
        return numbers
    least = numbers.min()
    found: Array = np.flatnonzero(np.bincount((numbers - least).ravel())) + least
    return found


def _heaviest(
    model: ModelSpec, choices: TrainingChoices, batches: Array, lengths: Array, data: Lengths
) -> tuple[Array, Array, list[tuple[npt.NDArray[np.bool_], list[int]]]]:
    """Rows and length of the micro-batches that are padded (0 rows: flat ones), and the flat ones with their places."""
    padded, longest = np.zeros_like(batches), np.ones_like(lengths)
    loads = []
    runs_flat = flattens(model, choices)
    for size, length in sorted(set(zip(batches.tolist(), lengths.tolist(), strict=True))):
        places = (batches == size) & (lengths == length)
        rows = data.heaviest(replace(choices, batch_size=size, max_length=length), quick=True)[0]
        if runs_flat:  # equal rows are not flattened, but hold as much to within their rotary tables
            loads.append((places, [tokens for row in rows for tokens in row]))
        else:
            padded[places] = len(rows)
            longest[places] = length if choices.padding == "packed" else max(map(sum, rows))
    return padded, longest, loads


def _fill(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    own: list[int],
    places: npt.NDArray[np.bool_],
    layers: Array,
    covered: npt.NDArray[np.bool_],
    into: tuple[Array, Array, npt.NDArray[np.str_]],
) -> None:
    """Peaks, persistent bytes and binding instants of one flat micro-batch at every number of checkpointed layers."""
    allocated, persistent, binding = into
    per_chunk = rows_per_chunk(model, choices, np.array([sum(own)]))
    whole = row_multipliers(own, 0, int(per_chunk[0]))[:, :WIDTH]
    few = whole[_distinct(np.linspace(0, len(whole) - 1, 4).astype(int))]
    for number in _distinct(np.where(covered, -1, layers)[places]):
        chosen = places & (np.where(covered, -1, layers) == number)
        case = flat_case(case_of(model, hardware, choices, None if number < 0 else int(number), max(own)), max(own))
        found = envelope_of(case)
        count = layers[chosen].astype(np.float64)[:, None, None]
        values = np.concatenate([few[None] + 0 * count, few[None] * count], axis=-1)
        live = (values @ found.coefficients.T.astype(np.float64)).max(axis=1)
        rows = live.argmax(axis=-1)
        allocated[chosen] = np.rint(live.max(axis=-1)).astype(np.int64)
        persistent[chosen] = persistent_bytes(found)
        binding[chosen] = np.array(found.instants)[rows]
