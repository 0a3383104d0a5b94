"""Peaks of configurations: the tapes of their cases, cached, evaluated at batch, length and checkpointed layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.microbatches import is_ragged
from planner.contract.records import MemoryReport
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import device
from planner.memory.engine.monomials import WIDTH, is_vector
from planner.memory.engine.peak import Envelope, envelope, evaluate
from planner.memory.engine.values import MASK_ROW, Array, chunk_rows, multipliers, row_multipliers
from planner.memory.recorded.wanted import is_recorded, regimes
from planner.memory.reserved.replay import Asked, Replay, largest_tensor, numbers, replayed
from planner.memory.step.case import Case, flattens
from planner.memory.step.kept import recall
from planner.memory.step.sharding import UNMEASURED_SHARE, divides_gradients, exchanges, zero2

if TYPE_CHECKING:
    from planner.data.lengths import Batch, Lengths


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
    if is_recorded(spec):
        return np.minimum(batch_size, 2)
    grouped = spec.num_kv_heads != spec.num_heads and (wide or spec.facts.composite_groups)
    written_out = choices.attention == "eager" or not spec.facts.sdpa or grouped
    differs = choices.transformers_version is not None or written_out or hardware.kind not in ("cuda", "rocm")
    return np.minimum(batch_size, 2) if differs else 0 * batch_size + 2


def _pads_masks(spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices) -> bool:
    """Whether a mask may reach CUDA's efficient kernel, which pads its rows to a multiple of 16."""
    masked = choices.padding == "max" or spec.sliding_window is not None or spec.facts.positions == "relative"
    return masked and choices.attention == "sdpa" and hardware.kind in ("cuda", "rocm")


def _case(
    spec: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    checkpointed: int | None,
    length: int,
    regime: int = 0,
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
    return Case(spec, plain, checkpointed, padded, windowed, target, unaligned=unaligned, regime=regime)


def envelope_of(case: Case) -> Envelope:
    """The envelope of a case's events, from this process's memory, the disk, or a run of its program."""
    key = (id(case.spec), case)
    found = _ENVELOPES.get(key)
    if found is None:
        if len(_ENVELOPES) >= _CACHE_LIMIT:
            _ENVELOPES.clear()
        value = recall("envelope", case, None, lambda: _made(case), Envelope.is_content)
        found = _ENVELOPES[key] = (case.spec, Envelope.of_content(value))
    return found[1]


def _made(case: Case) -> Any:
    from planner.memory.step.program import run

    return envelope(run(case).ledger).content()


def _symbolic(spec: ModelSpec, choices: TrainingChoices) -> range:
    """The numbers of checkpointed layers that one symbolic run covers."""
    if exchanges(choices) or divides_gradients(choices):
        return range(0)
    case = Case(spec, replace(choices, batch_size=1, max_length=1, gradient_accumulation_steps=1, lora_alpha=1), None)

    def made() -> list[int]:
        from planner.memory.step.program import covered

        found = covered(spec, choices)
        return [found.start, found.stop]

    start, stop = recall("symbolic", case, None, made, _is_pair)
    return range(start, stop)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(x) is int and 0 <= x < 1 << 20 for x in value)


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
    symbolic = _symbolic(model, choices)
    rows_per_chunk = chunk_rows(model.vocab_size)
    covered = (layers >= symbolic.start) & (layers < symbolic.stop) if len(symbolic) else np.zeros(layers.shape, bool)
    if data is not None and choices.padding != "max":
        batches, lengths, loads = _heaviest(model, choices, batches, lengths, data)
        for places, own in loads:
            _fill(model, hardware, choices, own, places, layers, covered, (allocated, persistent, binding))
    edge = model.sliding_window if model.sliding_layers and model.sliding_window else np.iinfo(np.int64).max
    kinds = _batch_kind(model, hardware, choices, batches)
    unaligned = (lengths % MASK_ROW != 0) & _pads_masks(model, hardware, choices)
    regime = regimes(model, choices, batches, lengths)
    key = np.where(covered, -1, layers) * 32 + regime * 8 + unaligned * 4 + (lengths >= edge) * 2 + (kinds == 1)
    padded = batches > 0
    for value in _distinct(key[padded]):
        chosen = (key == value) & padded
        number = int(value) // 32
        kind = replace(choices, batch_size=int(kinds[chosen][0]))
        case = _case(
            model, hardware, kind, None if number < 0 else number, int(lengths[chosen][0]), int(regime[chosen][0])
        )
        found = envelope_of(case)
        values = multipliers(batches[chosen], lengths[chosen], layers[chosen], rows_per_chunk)
        peak, rows = evaluate(found, values)
        allocated[chosen] = peak
        persistent[chosen] = _persistent(found)
        binding[chosen] = np.array(found.instants)[rows]
    allocated += device.workspace_bytes(hardware)
    reserved = device.reserved(allocated, persistent)
    allocated, reserved, upper = device.corrected_peaks(hardware, allocated, reserved, persistent)
    return Grid(allocated, reserved, reserved + hardware.context_bytes, upper, binding)


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
    whole = row_multipliers(own, 0, chunk_rows(model.vocab_size))[:, :WIDTH]
    few = whole[_distinct(np.linspace(0, len(whole) - 1, 4).astype(int))]
    for number in _distinct(np.where(covered, -1, layers)[places]):
        chosen = places & (np.where(covered, -1, layers) == number)
        case = _flat(_case(model, hardware, choices, None if number < 0 else int(number), max(own)), max(own))
        found = envelope_of(case)
        count = layers[chosen].astype(np.float64)[:, None, None]
        values = np.concatenate([few[None] + 0 * count, few[None] * count], axis=-1)
        live = (values @ found.coefficients.T.astype(np.float64)).max(axis=1)
        rows = live.argmax(axis=-1)
        allocated[chosen] = np.rint(live.max(axis=-1)).astype(np.int64)
        persistent[chosen] = _persistent(found)
        binding[chosen] = np.array(found.instants)[rows]


def _persistent(found: Envelope) -> int:
    return int(found.coefficients[found.instants.index("load")][0])


@dataclass(frozen=True, slots=True)
class Load:
    """What passes through the model: which program, at which values of the monomials."""

    case: Case
    values: npt.NDArray[np.float64]
    """(sequences that differ, 2·WIDTH); one row but for a flat micro-batch."""
    handed_over: int
    """Bytes of one micro-batch as the collator made it."""
    rows: Batch | None
    """Lengths of its sequences, where they are known."""

    def live(self, found: Envelope) -> npt.NDArray[np.float64]:
        """Bytes at each event."""
        most: npt.NDArray[np.float64] = (self.values @ found.coefficients.T.astype(np.float64)).max(axis=0)
        return most

    def at(self, found: Envelope, event: int) -> npt.NDArray[np.float64]:
        """The monomials' values where an event is largest."""
        row: npt.NDArray[np.float64] = self.values[
            int((self.values @ found.coefficients[event].astype(np.float64)).argmax())
        ]
        return row


def _load(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    rows: Batch | None,
    *,
    evaluating: bool = False,
) -> Load:
    """A micro-batch of `choices`: full, or of the rows given; flattened where the trainer flattens it."""
    layers = 0 if evaluating else choices.checkpointed_layers(model.total_layers)
    if evaluating and choices.eval_batch_size is not None:
        choices = replace(choices, batch_size=choices.eval_batch_size)
    width = INPUT_BYTES
    if rows is not None:
        longest = max(map(sum, rows)) if choices.padding == "longest" else choices.max_length
        choices = replace(choices, batch_size=len(rows), max_length=longest)
        width = INPUT_BYTES if choices.padding == "packed" else INPUT_BYTES * 2 // 3
    regime = int(regimes(model, choices, *(np.array([x]) for x in (choices.batch_size, choices.max_length)))[0])
    case = _case(model, hardware, choices, layers, choices.max_length, regime)
    per_chunk = chunk_rows(model.vocab_size)
    if rows is not None and flattens(model, choices) and is_ragged(rows):
        own = [length for row in rows for length in row]
        case = _flat(case, max(own))
        values = row_multipliers(own, layers, per_chunk)
    else:
        batch, length, checkpointed = (np.array([x]) for x in (choices.batch_size, choices.max_length, layers))
        values = multipliers(batch, length, checkpointed, per_chunk)
    if evaluating:
        case = _eval_case(case, replace(choices, eval_batch_size=None))
    return Load(case, values, width * choices.batch_size * choices.max_length, rows)


def loads(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, lengths: Lengths | None
) -> tuple[Load, Load]:
    """The heaviest micro-batches of training and evaluation: of the data's `lengths`, or with every row full."""
    if lengths is None or choices.padding == "max":
        return _load(model, hardware, choices, None), _load(model, hardware, choices, None, evaluating=True)
    made = [_load(model, hardware, choices, rows) for rows in lengths.heaviest(choices)]
    step = made[0] if len(made) == 1 else max(made, key=_largest)
    evaluated = lengths.evaluated(choices) or step.rows
    return step, _load(model, hardware, choices, evaluated, evaluating=True)


def allocated_peak(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, lengths: Lengths | None = None
) -> int:
    """The allocated peak that `predict` reports, before any calibration, without the parts that take time."""
    step, evaluation = loads(model, hardware, choices, lengths)
    waiting = step.handed_over * (choices.gradient_accumulation_steps - 1)
    return round(max(_largest(step) + waiting, _largest(evaluation))) + device.workspace_bytes(hardware)


def _largest(load: Load) -> float:
    return float(load.live(envelope_of(load.case)).max())


def _flat(case: Case, longest: int) -> Case:
    """The case of a flat row whose longest sequence has `longest` tokens."""
    spec = case.spec
    windowed = bool(spec.sliding_layers) and spec.sliding_window is not None and longest > spec.sliding_window
    return replace(case, flat=True, windowed=windowed, unaligned=case.target == "cuda")


def predict(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    *,
    budget_bytes: int | None = None,
    lengths: Lengths | None = None,
) -> MemoryReport:
    """Peaks by instant and component of one configuration on one device.

    `lengths`: those of the data; the peak is then that of the heaviest micro-batch the trainer makes of them, not that
    of rows which all have the maximal length.
    Raises `NotModelled` for what has no program, `InvalidInput` for more checkpointed layers than there are.
    """

    if choices.checkpoint_layers is not None and choices.checkpoint_layers > model.total_layers:
        raise InvalidInput(
            f"--checkpoint-layers {choices.checkpoint_layers} is more than the {model.total_layers} layers "
            f"of {model.id}"
        )
    step = _step(model, hardware, choices, lengths)
    budget = hardware.budget_bytes if budget_bytes is None else budget_bytes
    held = _held(model, hardware, choices, step, budget)
    if held.replayed:
        held = _no_less_than_smaller(model, hardware, choices, lengths, budget, step, held)
    total = held.reserved + hardware.context_bytes
    components = _step_components(step, device.workspace_bytes(hardware))
    components["fragmentation"] = held.reserved - step.allocated  # what is lost within blocks, and between them
    components["context"] = hardware.context_bytes
    lower, upper = _interval(hardware, step, held)
    if choices.num_gpus > 1:
        margin = int(UNMEASURED_SHARE * total)
        lower, upper = lower - margin, upper + margin
    report = MemoryReport(
        allocated_peak_bytes=held.allocated,
        tensors_peak_bytes=step.allocated,
        largest_tensor_bytes=None if hardware.largest_buffer_bytes is None else _largest_tensor(step),
        largest_buffer_bytes=hardware.largest_buffer_bytes,
        reserved_peak_bytes=held.reserved,
        device_peak_bytes=total,
        interval_bytes=(lower, upper),
        budget_bytes=budget,
        binding_instant=step.binding,
        instants=step.instants,
        components={name: size for name, size in components.items() if size},
        batch_lengths=step.load.rows,
    )
    return device.corrected_report(hardware, report, step.persistent, held.most)


@dataclass(frozen=True, slots=True)
class _Step:
    """Allocated bytes of a step, before any calibration."""

    load: Load
    evaluation: Load
    instants: dict[str, int]
    binding: str
    waiting: int
    """Bytes of the micro-batches that wait for their turn."""
    earlier: int
    """Bytes of gradients that are there in a step and not between steps."""
    persistent: int

    @property
    def allocated(self) -> int:
        """The peak."""
        return self.instants[self.binding]

    @property
    def at_peak(self) -> Load:
        """What passes through the model where the peak is."""
        return self.evaluation if self.binding == "eval" else self.load


def _step(model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, lengths: Lengths | None) -> _Step:
    load, evaluation = loads(model, hardware, choices, lengths)
    found = envelope_of(load.case)
    workspaces = device.workspace_bytes(hardware)
    instants: dict[str, int] = {}
    for name, size in zip(found.instants, load.live(found), strict=True):
        instants[name] = max(instants.get(name, 0), round(float(size)) + workspaces)
    waiting = load.handed_over * (choices.gradient_accumulation_steps - 1)
    instants = {name: size + (waiting if name != "load" else 0) for name, size in instants.items()}
    instants["eval"] = round(_largest(evaluation)) + workspaces
    earlier = _waiting_gradients(load.case)
    instants["load"] -= earlier
    instants["save"] = instants["load"]
    if (exchanges(choices) or zero2(choices)) and hardware.kind == "cpu":
        from planner.memory.step.program import gathered_bytes

        instants["save"] += gathered_bytes(load.case)
    binding = max(instants, key=lambda name: instants[name])
    return _Step(load, evaluation, instants, binding, waiting, earlier, _persistent(found))


def _step_components(step: _Step, workspaces: int) -> dict[str, int]:
    """Allocated bytes by component at the peak."""
    components = _components(step.at_peak, "load" if step.binding == "save" else step.binding)
    if step.binding == "save":
        components["communication"] = step.allocated - step.instants["load"]
    if step.binding in ("load", "save") and step.earlier:
        components["gradients"] -= step.earlier
    if step.binding not in ("load", "eval", "save"):
        components["temporaries"] = components.get("temporaries", 0) + step.waiting
    components["workspaces"] = workspaces
    return components


@dataclass(frozen=True, slots=True)
class _Held:
    """What the allocator holds."""

    allocated: int
    """In blocks, which may be larger than the tensors in them."""
    reserved: int
    """Below the budget, with free segments given back, where that suffices."""
    most: int
    """With nothing in the way."""
    replayed: bool = False
    """Whether an allocator was replayed, whose rounding makes a larger batch hold less now and then."""


def _held(model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, step: _Step, budget: int) -> _Held:
    if hardware.kind in ("cuda", "rocm") and choices.num_gpus == 1:
        found = _replayed(hardware, step, budget - hardware.context_bytes)
        allocated = max(found.allocated_bytes, step.allocated)
        most = max(found.free_bytes, allocated)
        return _Held(allocated, max(found.limited_bytes or most, allocated), most, replayed=True)
    by_rule = int(device.reserved(np.array([step.allocated]), np.array([step.persistent]))[0])
    return _Held(step.allocated, by_rule, by_rule)


def _interval(hardware: HardwareProfile, step: _Step, held: _Held) -> tuple[int, int]:
    low, persistent = np.array([step.allocated]), np.array([step.persistent])
    upper = int(device.upper(np.array([held.most + hardware.context_bytes]), low, persistent)[0])
    return int(device.lower(np.array([held.reserved + hardware.context_bytes]), low, persistent)[0]), upper


NEAR_BUDGET = 0.75
"""From this share of the budget on, and from this share of a micro-batch on, some smaller ones are looked at."""


def _no_less_than_smaller(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    lengths: Lengths | None,
    budget: int,
    step: _Step,
    held: _Held,
) -> _Held:
    """What a smaller micro-batch holds is held by this one too, where the budget is near enough for that to count.

    Segments are rounded, so that a larger batch may fit into them with less left over; which one has that luck hangs on
    a few bytes, and nobody should be told that eight sequences fit where seven don't.
    """
    size = choices.batch_size
    upper = _interval(hardware, step, held)[1]
    fails = held.reserved + hardware.context_bytes > budget
    if size == 1 or fails or upper < NEAR_BUDGET * budget:
        return held
    smallest = max(1, math.ceil(NEAR_BUDGET * size))
    for batch in sorted({*range(max(smallest, size - 3), size), *_spread(smallest, size)}):
        fewer = replace(choices, batch_size=batch)
        other = _held(model, hardware, fewer, _step(model, hardware, fewer, lengths), budget)
        held = _Held(held.allocated, max(held.reserved, other.reserved), max(held.most, other.most), replayed=True)
    return held


def _spread(start: int, stop: int) -> list[int]:
    """A few numbers from `start` to below `stop`."""
    return [start + (stop - start) * number // 5 for number in range(5)]


def _waiting_gradients(case: Case) -> int:
    """Bytes of earlier micro-batches' gradients: a step's last micro-batch finds them, between steps they are gone."""
    if case.choices.gradient_accumulation_steps == 1:
        return 0

    def made() -> int:
        from planner.memory.step.program import waiting_gradients

        return waiting_gradients(case)

    return int(recall("waiting gradients", case, None, made, lambda value: type(value) is int and value >= 0))


def _replayed(hardware: HardwareProfile, step: _Step, limit: int) -> Replay:
    """The run's allocations through the allocator, below `limit` where that can suffice."""
    load, envelope = step.load, envelope_of(step.load.case)
    evaluated = envelope_of(step.evaluation.case)
    count = step.waiting // load.handed_over
    return replayed(
        Asked(
            case=load.case,
            values=numbers(load.at(envelope, int(load.live(envelope).argmax()))),
            workspace=hardware.cublas_workspace_bytes,
            waiting=(load.handed_over,) * min(count, 2) + ((count - 2) * load.handed_over,) * (count > 2),
            evaluation=step.evaluation.case,
            evaluation_values=numbers(step.evaluation.at(evaluated, int(step.evaluation.live(evaluated).argmax()))),
            limit=max(limit, 0) if step.allocated <= limit else None,
            expandable=load.case.choices.expandable_segments,
        )
    )


def _largest_tensor(step: _Step) -> int:
    """Bytes of the largest single tensor of a step, weights included."""
    load, envelope = step.load, envelope_of(step.load.case)
    return largest_tensor(load.case, numbers(load.at(envelope, int(load.live(envelope).argmax()))))


def _eval_case(case: Case, choices: TrainingChoices) -> Case:
    batch = choices.eval_batch_size or choices.batch_size
    # Embeddings ask for a gradient there too where layers are checkpointed, as none are in an evaluation.
    few = replace(case.choices, batch_size=min(batch, 2), gradient_checkpointing=choices.gradient_checkpointing)
    if few.num_gpus == 1:  # an evaluation follows an update, after which no gradients wait for further micro-batches
        few = replace(few, gradient_accumulation_steps=1)
    return replace(case, choices=few, checkpointed=0, evaluating=True)


def _components(load: Load, binding: str) -> dict[str, int]:
    """Live bytes by component at the event that sets the peak: the tape is run again and watched there."""
    case, found = load.case, envelope_of(load.case)
    live = load.live(found)
    rows = [row for row, name in enumerate(found.instants) if name == binding] or [int(live.argmax())]
    row = max(rows, key=lambda index: live[index])
    values = load.at(found, row)
    segment, event, offset = found.where[row]
    vectors = recall("components", case, found.where[row], lambda: _watched(case, segment, event, offset), _is_watched)
    parts: dict[str, int] = {}
    for name, vector in vectors:
        parts[name] = parts.get(name, 0) + round(float(values @ np.array(vector, float)))
    return parts


def _watched(case: Case, segment: int, event: int, offset: int) -> list[tuple[str, list[int]]]:
    """Coefficients by component at an event, and those of the copies of its stretch."""
    from planner.memory.step.program import run

    ledger = run(case, (segment, event)).ledger
    assert ledger.watched is not None
    parts = [(name, list(vector)) for name, vector in ledger.watched.items()]
    return parts + [(name, list(vector)) for name, vector in ledger.segments[segment].parts[offset].items()]


def _is_watched(value: object) -> bool:
    return (
        bool(value)
        and isinstance(value, list)
        and all(
            isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and is_vector(part[1])
            for part in value
        )
    )
