"""Bytes per rank on several devices: what DDP adds, and what FSDP and ZeRO share out.

Sources, read 2026-11: PyTorch 2.13 torch/nn/parallel/distributed.py (gradients in buckets of their total size) and
torch/distributed/fsdp/_fully_shard (units, gathered buffers, reduce-scatter inputs; `planner.memory.step.exchange`);
DeepSpeed 0.19.8 runtime/zero/stage_1_and_2.py, stage3.py, config.py (fp32 master weights, bucket sizes);
Rajbhandari et al. 2020 (ZeRO), https://arxiv.org/abs/1910.02054.
DDP, FSDP and ZeRO-2 are held against runs of two processes on a CPU (tests/planner/memory/test_distributed_memory.py,
tests/trainer/distributed/test_distributed_zero.py), accelerate's FSDP against published runs on several GPUs
(benchmarks/accuracy/collected.json); ZeRO-3 against none of our own: two published figures over 70B lie 15 % higher, so
the interval is widened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.contract.choices import ZERO_BUCKET, TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.sentence import named
from planner.contract.spec import ModelSpec, Module

if TYPE_CHECKING:
    from planner.memory.step.optimizers import TrainedTensor

MAXIMUM_DEVICES = 64
UNMEASURED_SHARE = 0.05
"""Share of the peak by which the interval widens on several devices."""
FSDP_HELD = 2_684_354_560
FSDP_HELD_SHARE = 0.3
"""What FSDP 1, accelerate's default, may hold beyond the plan, for the interval's upper end on stack `peft`: bytes
(NCCL's buffers, context of several cards) and a share of what comes and goes, as weights that are gathered on a stream
of their own are not given back at once. With them the interval holds 37 of 40 published runs on 2 and 4 A100
(fms-acceleration, benchmarks/accuracy/collected.json), whose devices held 8 to 50 % more than was allocated.
"""
ZERO3_HELD_SHARE = 0.15
"""What ZeRO 3 may hold beyond the plan, as a share of it, for the interval's upper end: two published figures over 70B
lie 8 and 15 % above (peft 0.20, docs/source/accelerate/deepspeed.md), and there is no other.
"""
ZERO3_BUCKET = 500_000_000
"""Elements of DeepSpeed's own `reduce_bucket_size`, for ZeRO-3."""
ZERO_LIVE = 1_000_000_000
"""Elements of DeepSpeed's `stage3_max_live_parameters`: weights that stay gathered for their next use."""
ZERO_PREFETCH = 50_000_000
"""Elements of DeepSpeed's `stage3_prefetch_bucket_size`."""
MASTER = 4
"""Bytes of ZeRO's fp32 copy of a trained weight, which it keeps over fp32 weights too."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Bytes of one rank."""

    weights: int
    adapters: int
    optimizer_state: int
    gradients: int
    """Gradients that are there before the step begins."""
    buckets: int
    """Copies of gradients for the reduction (DDP, ZeRO-3) and weights gathered for use (ZeRO-3). FSDP's and ZeRO-2's
    come and go with the passes (`planner.memory.step.exchange`) or with the update (`zero_update`).
    """


def per_rank(
    choices: TrainingChoices,
    *,
    weights: int,
    adapters: int,
    optimizer_state: int,
    gradients: int,
    elements: int,
    itemsize: int,
    accumulating: bool,
    whole: int = 0,
) -> Shares:
    """One rank's share of the bytes that a single device would hold; n is the number of devices.

    ddp: everything; gradients of adapters, and the buckets they are copied to; where everything is trained gradients
    are made in the buckets, which stay from step to step. fsdp: all / n; gradients of adapters are reduced once a step
    and whole until then. zero2: optimizer state and fp32 master weights / n; gradients of adapters as under fsdp, of
    everything / n, in fp32. zero3: all / n, a bucket, up to 10^9 elements gathered and a prefetch bucket.
    `gradients`: bytes of all gradients once they exist; `elements`: trained elements; `itemsize`: bytes per weight;
    `whole`: bytes of `weights` that are on every rank (scales of quantised ones). Stack `peft` leaves the gradients of
    every micro-batch but the last unreduced under fsdp (transformers' Trainer under `no_sync`).
    """
    n = choices.num_gpus
    if n > MAXIMUM_DEVICES:
        raise InvalidInput(named("num_gpus"), f" {n} is beyond the {MAXIMUM_DEVICES} devices that are modelled")
    kept = gradients if accumulating else 0
    if n == 1:
        return Shares(weights, adapters, optimizer_state, kept, 0)
    _refuse(choices)
    everything = choices.method == "full"
    if choices.strategy == "ddp":
        held = gradients if everything else kept
        return Shares(weights, adapters, optimizer_state, held, 0 if everything else gradients)
    if choices.strategy == "fsdp":
        held = -(-kept // n) if everything and choices.stack == "builtin" else kept
        return Shares(whole + -(-(weights - whole) // n), -(-adapters // n), -(-optimizer_state // n), held, 0)
    # DeepSpeed's optimizer works on fp32 copies: its moments are fp32 whatever the weights are.
    state = max(optimizer_state, 2 * MASTER * elements if choices.optimizer == "adamw" else 0) + MASTER * elements
    if choices.strategy == "zero2":
        held = -(-MASTER * elements // n) if everything and accumulating else kept
        return Shares(weights, adapters, -(-state // n), held, 0)
    bucket = min(gradients, ZERO3_BUCKET * itemsize)
    divided = weights - whole
    gathered = min(divided, ZERO_LIVE * itemsize) + min(divided, ZERO_PREFETCH * itemsize)
    return Shares(whole + -(-divided // n), -(-adapters // n), -(-state // n), -(-kept // n), bucket + gathered)


def _refuse(choices: TrainingChoices) -> None:
    if choices.strategy == "ddp":
        return
    if choices.method == "qlora" and choices.stack == "builtin":
        raise NotModelled(
            named("strategy"),
            f" {choices.strategy} with quantised weights is not trained on ",
            named("stack"),
            " builtin; use ",
            named("strategy"),
            " ddp, or plan it for ",
            named("stack"),
            " peft",
        )
    if choices.method == "qlora" and choices.quantization == "int8" and choices.strategy != "zero2":
        raise NotModelled(
            named("strategy"),
            f" {choices.strategy} can't divide ",
            named("quantization"),
            " int8: bitsandbytes keeps its scales with the weights; use nf4, or ",
            named("strategy"),
            " ddp",
        )
    if choices.optimizer not in ("adamw", "sgd"):
        raise NotModelled(
            named("strategy"),
            f" {choices.strategy} with ",
            named("optimizer"),
            f" {choices.optimizer} is not modelled; use adamw, or ",
            named("strategy"),
            " ddp",
        )


def kept_share(choices: TrainingChoices) -> int:
    """By how much gradients are divided as soon as backward made them, and with them the update's transients."""
    return choices.num_gpus if choices.num_gpus > 1 and choices.strategy in ("fsdp", "zero3") else 1


def exchanges(choices: TrainingChoices) -> bool:
    """Whether weights are gathered layer by layer (FSDP)."""
    return choices.num_gpus > 1 and choices.strategy == "fsdp"


def may_hold(choices: TrainingChoices, total: int, moving: int) -> int:
    """Bytes beyond a plan of `total` that accelerate's FSDP or ZeRO 3 may hold; `moving`: those that come and go within
    a step.
    """
    if choices.num_gpus > 1 and choices.strategy == "zero3":
        return round(ZERO3_HELD_SHARE * total)
    return FSDP_HELD + round(FSDP_HELD_SHARE * moving) if exchanges(choices) and choices.stack == "peft" else 0


def zero2(choices: TrainingChoices) -> bool:
    """Whether the update is ZeRO-2's."""
    return choices.num_gpus > 1 and choices.strategy == "zero2"


def divides_gradients(choices: TrainingChoices) -> bool:
    """Whether gradients are reduced and divided within the backward pass (ZeRO-2 over all weights)."""
    return zero2(choices) and choices.method == "full"


def zero_update(tensors: list[TrainedTensor], choices: TrainingChoices) -> int:
    """Transient bytes of ZeRO-2's update on one rank, over weights, state and gradients as backward left them.

    A rank's part of the gradients is put into one flat tensor beside them (16-bit ones are added up in such a tensor
    from the start) and the optimizer works on that, in fp32: AdamW foreach takes one more of its size, for-loop two.
    Gradients of adapters come whole and are first copied, a bucket at a time, to be reduced, which takes more than the
    rest. fp32 parts stay through the update or not, from run to run (two processes, measured): they are counted.
    """
    elements = sum(tensor.elements * tensor.copies for tensor in tensors)
    whole = sum(tensor.size for tensor in tensors)
    part = -(-MASTER * elements // choices.num_gpus)
    temporaries = {"foreach": 1, "forloop": 2 if choices.optimizer == "adamw" else 1, "fused": 0}
    step = temporaries[choices.optimizer_implementation] * part
    half = whole < MASTER * elements
    if choices.method == "full":
        return step if half else part + step
    return max(min(whole, ZERO_BUCKET * whole // elements) + (part if half else 0), part + step - whole)


def zero_saved(tensors: list[TrainedTensor], choices: TrainingChoices) -> int:
    """Host bytes of ZeRO-2's rank 0 while it saves: whole moments and 16-bit weights' fp32 copies, and the weights'
    own copies, as they are parts of one flat tensor.
    """
    elements = sum(tensor.elements * tensor.copies for tensor in tensors)
    whole = sum(tensor.size for tensor in tensors)
    fp32 = (2 if choices.optimizer == "adamw" else 0) + (1 if whole < MASTER * elements else 0)
    return fp32 * MASTER * elements + whole


@dataclass(frozen=True, slots=True)
class Units:
    """Bytes of what FSDP gathers at once, adapters included."""

    layers: tuple[int, ...]
    """Every layer, an encoder's before a decoder's."""
    embedding: int
    """The input embeddings, where no other module shares them."""
    root: int
    """All else: whole from the forward pass to the end of the backward pass."""


def units(
    spec: ModelSpec, *, size: Callable[[Module], int], adapters: dict[str, tuple[int, tuple[int, ...] | None]]
) -> Units:
    """The units of a model. `size`: bytes of one copy of a module while it is whole; `adapters`: by module path, bytes
    of one adapter and the layers that carry it.
    """
    layers = [0] * max(spec.total_layers, 1)
    embedding = root = 0
    tied = {module.tied_to for module in spec.modules}
    for module in spec.modules:
        bytes_ = size(module)
        for index in module.layers or ():
            layers[_over_both(spec, module.path, index)] += bytes_
        if module.layers is None:
            if module.kind == "embedding" and module.path not in tied and not embedding:
                embedding = bytes_
            else:
                root += bytes_
    for path, (own, where) in adapters.items():
        for index in where or ():
            layers[_over_both(spec, path, index)] += own
        root += own if where is None else 0
    return Units(tuple(layers), embedding, root)


def _over_both(spec: ModelSpec, path: str, index: int) -> int:
    """A layer's index over both stacks of an encoder-decoder."""
    return index + spec.num_layers if spec.num_decoder_layers and "decoder" in path.split(".") else index
