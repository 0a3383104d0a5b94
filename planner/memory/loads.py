"""What passes through the model: the program of a configuration, and the values at which it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planner.contract.choices import TrainingChoices
from planner.contract.microbatches import is_ragged
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.memory import device
from planner.memory.engine.peak import Envelope, envelope
from planner.memory.engine.values import MASK_ROW, Array, chunk_rows, multipliers, row_multipliers
from planner.memory.recorded.wanted import is_recorded, recurrent_piece, regimes
from planner.memory.step.case import Case, flattens
from planner.memory.step.kept import recall
from planner.memory.step.sharding import divides_gradients, exchanges

if TYPE_CHECKING:
    from planner.data.lengths import Batch, Lengths


INPUT_BYTES = 24
"""int64 input_ids, labels and attention_mask of a token; a step's micro-batches are fetched together, before the
first.
"""

_ENVELOPES: dict[tuple[int, Case], tuple[ModelSpec, Envelope]] = {}
_CACHE_LIMIT = 512


def batch_kind(spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, batch_size: Array | int) -> Any:
    """2 for all micro-batches alike; 1 where a single sequence runs otherwise: older losses slice it without a copy,
    and attention that is written out in products needs no copies of its heads.
    """
    wide = choices.precision == "fp32" or (choices.method == "qlora" and choices.stack == "peft")
    if is_recorded(spec):
        return np.minimum(batch_size, 2)
    written = wide or spec.facts.composite_groups or not hardware.has_flash_attention
    grouped = spec.num_kv_heads != spec.num_heads and written
    written_out = choices.attention == "eager" or not spec.facts.sdpa or grouped
    differs = choices.transformers_version is not None or written_out or hardware.kind not in ("cuda", "rocm")
    return np.minimum(batch_size, 2) if differs else 0 * batch_size + 2


def pads_masks(spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices) -> bool:
    """Whether a mask may reach CUDA's efficient kernel, which pads its rows to a multiple of 16."""
    masked = choices.padding == "max" or spec.sliding_window is not None or spec.facts.positions == "relative"
    return masked and choices.attention == "sdpa" and hardware.kind in ("cuda", "rocm")


def case_of(
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
        batch_size=int(batch_kind(spec, hardware, choices, choices.batch_size)),
        max_length=1,
        gradient_accumulation_steps=min(choices.gradient_accumulation_steps, 2),
        gradient_checkpointing=checkpointed != 0,
        checkpoint_layers=None,
        eval_batch_size=None,
        lora_alpha=1,
        max_target_length=None,
    )
    windowed = bool(spec.sliding_layers) and spec.sliding_window is not None and length >= spec.sliding_window
    target = "cuda" if hardware.kind in ("cuda", "rocm") else hardware.kind
    padded = choices.padding == "max" and choices.stack == "peft"
    unaligned = length % MASK_ROW != 0 and pads_masks(spec, hardware, choices)
    old, answers = target == "cuda" and not hardware.has_flash_attention, answer_length(spec, choices)
    return Case(
        spec,
        plain,
        checkpointed,
        padded,
        windowed,
        target,
        unaligned=unaligned,
        pre_ampere=old,
        regime=regime,
        answers=answers > 0,
        unaligned_answers=answers % MASK_ROW != 0 and pads_masks(spec, hardware, choices),
    )


def answer_length(spec: ModelSpec, choices: TrainingChoices) -> int:
    """Tokens of a decoder's answers where they have a length of their own; 0: as long as what the encoder reads."""
    return (choices.max_target_length or 0) if spec.task == "seq2seq" else 0


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


def _made(case: Case) -> object:
    from planner.memory.step.program import run

    return envelope(run(case).ledger).content()


def symbolic(spec: ModelSpec, choices: TrainingChoices) -> range:
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


def persistent_bytes(found: Envelope) -> int:
    """Bytes that live through the whole step."""
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

    def at_peak(self) -> npt.NDArray[np.float64]:
        """The monomials' values where the largest event is."""
        found = envelope_of(self.case)
        return self.at(found, int(self.live(found).argmax()))


def rows_per_chunk(model: ModelSpec, choices: TrainingChoices, tokens: Array) -> Array:
    """Tokens whose logits a loss in chunks holds at a time, for micro-batches of so many tokens."""
    if not choices.liger:
        return np.full(tokens.shape, chunk_rows(model.vocab_size))
    from planner.memory.network import liger

    if not liger.runs(choices, "fused_linear_cross_entropy"):
        return np.full(tokens.shape, chunk_rows(model.vocab_size))
    return liger.chunk_rows(tokens, model.vocab_size, model.hidden_size)


def load_of(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    rows: Batch | None,
    *,
    evaluating: bool = False,
) -> Load:
    """A micro-batch of `choices`: full, or of the `rows` given; flattened where the trainer flattens it."""
    layers = 0 if evaluating else choices.checkpointed_layers(model.total_layers)
    answers = answer_length(model, choices)
    if evaluating and choices.eval_batch_size is not None:
        choices = replace(choices, batch_size=choices.eval_batch_size)
    width = INPUT_BYTES
    if rows is not None:
        longest = min(max(map(sum, rows)), choices.max_length) if choices.padding == "longest" else choices.max_length
        choices = replace(choices, batch_size=len(rows), max_length=longest)
        width = INPUT_BYTES if choices.padding == "packed" else INPUT_BYTES * 2 // 3
    regime = int(regimes(model, choices, *(np.array([x]) for x in (choices.batch_size, choices.max_length)))[0])
    case = case_of(model, hardware, choices, layers, choices.max_length, regime)
    per_chunk = rows_per_chunk(model, choices, np.array([choices.batch_size * choices.max_length]))
    if rows is not None and flattens(model, choices) and is_ragged(rows):
        own = [length for row in rows for length in row]
        case = flat_case(case, max(own))
        values = row_multipliers(own, layers, int(per_chunk[0]))
    else:
        batch, length, checkpointed = (np.array([x]) for x in (choices.batch_size, choices.max_length, layers))
        values = multipliers(
            batch,
            length,
            checkpointed,
            per_chunk,
            recurrent_piece(model),
            every_token=choices.liger,
            answers=answers,
        )
    if evaluating:
        case = _eval_case(case, replace(choices, eval_batch_size=None))
    handed_over = width * choices.max_length
    if answers:
        handed_over = INPUT_BYTES * 2 // 3 * choices.max_length + INPUT_BYTES // 3 * answers
    return Load(case, values, handed_over * choices.batch_size, rows)


def loads(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, lengths: Lengths | None
) -> tuple[Load, Load]:
    """The heaviest micro-batches of training and evaluation: of the data's `lengths`, or with every row full."""
    if lengths is not None and choices.padding != "max" and (pair := lengths.pair(choices)) is not None:
        choices = replace(choices, max_length=pair[0], max_target_length=pair[1])
    if lengths is None or choices.padding == "max":
        return load_of(model, hardware, choices, None), load_of(model, hardware, choices, None, evaluating=True)
    made = [load_of(model, hardware, choices, rows) for rows in lengths.heaviest(choices)]
    step = made[0] if len(made) == 1 else max(made, key=largest)
    evaluated = lengths.evaluated(choices) or step.rows
    return step, load_of(model, hardware, choices, evaluated, evaluating=True)


def allocated_peak(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, lengths: Lengths | None = None
) -> int:
    """The allocated peak that `predict` reports, before any calibration, without the parts that take time."""
    step, evaluation = loads(model, hardware, choices, lengths)
    waiting = step.handed_over * (choices.gradient_accumulation_steps - 1)
    return round(max(largest(step) + waiting, largest(evaluation))) + device.workspace_bytes(hardware)


def largest(load: Load) -> float:
    """Bytes at the largest event."""
    return float(load.live(envelope_of(load.case)).max())


def flat_case(case: Case, longest: int) -> Case:
    """The case of a flat row whose longest sequence has `longest` tokens."""
    spec = case.spec
    windowed = bool(spec.sliding_layers) and spec.sliding_window is not None and longest > spec.sliding_window
    return replace(case, flat=True, windowed=windowed, unaligned=case.target == "cuda")


def _eval_case(case: Case, choices: TrainingChoices) -> Case:
    batch = choices.eval_batch_size or choices.batch_size
    # Embeddings ask for a gradient there too where layers are checkpointed, as none are in an evaluation.
    few = replace(case.choices, batch_size=min(batch, 2), gradient_checkpointing=choices.gradient_checkpointing)
    if few.num_gpus == 1:  # an evaluation follows an update, after which no gradients wait for further micro-batches
        few = replace(few, gradient_accumulation_steps=1)
    return replace(case, choices=few, checkpointed=0, evaluating=True)
