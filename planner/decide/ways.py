"""The ways in which a question can be answered, the nearest first.

First all that changes nothing of the result (micro-batch, recomputation, loss in chunks), then what the person left
open: host memory for saved inputs and 8-bit state, quantised weights, shorter sequences. Only where none of it fits are
choices changed that the person named, and the answer says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.contract.choices import DEFAULTS, TrainingChoices
from planner.contract.errors import NotModelled, TuneplanError
from planner.decide.advice import adopt
from planner.decide.candidates import Space, batch_pairs, candidate_lengths, layer_counts, losses, may_keep
from planner.decide.question import Question

SHORTEST_WANTED = 512
"""Sequences shorter than this are worse than quantised weights, where neither data nor person names a length."""
WHOLE_QUANTILES = 4
"""How many of the data's lengths (all, 99, 95 and 90 % whole) come before a change of method."""
CLEARLY_FASTER = 0.9
"""Share of fp32's time that bf16 must stay under on a CPU: as fast on paper, it is slower when measured."""

SHAPE = ("batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "checkpoint_layers")
BYTES = (
    *("loss", "attention", "keep_logits", "keep_cache", "liger", "liger_kernels", "stack", "transformers_version"),
    *("optimizer", "optimizer_implementation", "adapter_dtype", "checkpoint_offload", "checkpoint_reentrant"),
    *("expandable_segments", "garbage_collection_threshold", "made_again"),
)
METHOD = ("precision", "method", "quantization", "kbit_preparation")
YIELDING = (SHAPE, BYTES, METHOD, ("max_length",))
"""Named choices in the order in which they are given up, each together with those before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One space to search, and the question that it answers."""

    question: Question
    """The asked one, or with choices given up that were named."""
    space: Space
    sparing: bool = False
    """Whether it is the way before it, with little more room: not worth a look where much more is missing."""


def ways(question: Question, effective_batch_size: int) -> Iterator[Way]:
    """Spaces in the order in which they are wanted; the first that holds something that fits is the answer's."""
    yield from _open_ways(question, effective_batch_size)
    given_up: frozenset[str] = frozenset()
    for names in YIELDING:
        given_up |= question.fixed & frozenset(names)
        if question.fixed & frozenset(names):
            choices = _reset(question.choices, given_up)
            yield from _open_ways(
                replace(question, choices=choices, fixed=question.fixed - given_up), effective_batch_size
            )


def _reset(choices: TrainingChoices, names: frozenset[str]) -> TrainingChoices:
    """The choices with the defaults of those names."""
    changed = {name: getattr(DEFAULTS, name) for name in names}
    if choices.method != DEFAULTS.method and "method" in names:
        changed["lora_targets"] = choices.lora_targets or DEFAULTS.lora_targets
    if "max_length" in names:
        changed["max_length"] = choices.max_length
    return replace(choices, **changed)


def _open_ways(question: Question, effective: int) -> Iterator[Way]:
    """All that a question leaves open."""
    profile = None if question.data is None else question.data.profile
    wanted, shorter = _lengths(question)
    bases = [adopt(base, question.fixed, profile) for base in _bases(question)]
    for lengths in (wanted, shorter):
        if not lengths:
            continue
        for base in bases:
            yield from _spaces(question, base, effective, lengths)


def _lengths(question: Question) -> tuple[list[int], list[int]]:
    """Lengths that are wanted, and those that are better than nothing."""
    profile = None if question.data is None else question.data.profile
    every = candidate_lengths(question.model, question.choices, question.fixed, profile)
    if "max_length" in question.fixed:
        return every, []
    if profile is not None:
        return every[:WHOLE_QUANTILES], every[WHOLE_QUANTILES:]
    every = [length for length in every if length <= DEFAULTS.max_length] or every[-1:]
    wanted = [length for length in every if length >= SHORTEST_WANTED] or every[:1]
    return wanted, every[len(wanted) :]


def _bases(question: Question) -> list[TrainingChoices]:
    """Formats and methods, the most wanted first."""
    first, fixed = question.choices, question.fixed
    found = _precisions(question, first)
    if question.hardware.kind != "cuda":
        return found
    spare = "checkpoint_offload" not in fixed and first.stack == "builtin" and first.num_gpus == 1
    # Saved inputs can move to the host only where there are some.
    spare = spare and ("gradient_checkpointing" not in fixed or first.gradient_checkpointing)
    found += [_sparing(base, fixed) for base in found] if spare else []
    if "method" not in fixed and first.method == "lora":
        quantized = replace(first, method="qlora")
        found += [quantized, *([_sparing(quantized, fixed)] if spare else [])]
    return [*found, *_divided(found, fixed)]


def _divided(bases: list[TrainingChoices], fixed: frozenset[str]) -> list[TrainingChoices]:
    """The same with weights divided among several devices (FSDP); quantised ones only PEFT's stack divides."""
    if bases[0].num_gpus == 1 or "strategy" in fixed or bases[0].strategy != "ddp":
        return []
    plain = [replace(base, strategy="fsdp") for base in bases if base.method != "qlora" or base.stack == "peft"]
    if "stack" in fixed:
        return plain
    quantized = [base for base in bases if base.method == "qlora" and base.stack != "peft"]
    return [*plain, *(replace(base, strategy="fsdp", stack="peft") for base in quantized)]


def _sparing(base: TrainingChoices, fixed: frozenset[str]) -> TrainingChoices:
    """Saved inputs in host memory and 8-bit optimizer state, where nobody said otherwise."""
    eight = "optimizer" not in fixed and base.optimizer == "adamw"
    return replace(base, checkpoint_offload=True, optimizer="adamw-8bit" if eight else base.optimizer)


def _precisions(question: Question, base: TrainingChoices) -> list[TrainingChoices]:
    """On a CPU fp32 first, unless bf16 is clearly faster: without units for it each product is widened and narrowed."""
    if "precision" in question.fixed or question.hardware.kind != "cpu" or base.precision not in ("bf16", "fp32"):
        return [base]
    from planner.decide.verdict import predict_speed

    def seconds(precision: str) -> float:
        one = replace(base, precision=precision, batch_size=1, gradient_checkpointing=False)
        try:
            speed = predict_speed(question.model, question.hardware, question.having(one).completed())
        except TuneplanError:
            return float("inf")
        return float("inf") if speed is None else speed.step_seconds

    narrow_first = seconds("bf16") < CLEARLY_FASTER * seconds("fp32")
    return [replace(base, precision=name) for name in (("bf16", "fp32") if narrow_first else ("fp32", "bf16"))]


def _spaces(question: Question, base: TrainingChoices, effective: int, lengths: list[int]) -> Iterator[Way]:
    """The space of one base; none where the device can't run it."""
    offered = question.having(base)
    try:
        completed = offered.completed()
        pairs, _, _ = batch_pairs(completed, question.fixed, effective)
    except NotModelled:
        return
    layers = layer_counts(question.model, completed, question.fixed)
    if completed.checkpoint_offload:
        layers = [count for count in layers if count > 0]
    if not layers:
        return
    yield Way(
        question=offered,
        space=Space(
            bases=losses(completed, question.fixed),
            pairs=pairs,
            lengths=lengths,
            layers=layers,
            keeping=may_keep(question, completed),
        ),
        sparing=completed.checkpoint_offload and not question.choices.checkpoint_offload,
    )
