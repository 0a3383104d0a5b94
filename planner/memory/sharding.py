"""Bytes per rank on several devices: what DDP adds, and what ZeRO and FSDP share out.

Sources: Rajbhandari et al. 2020 (ZeRO), https://arxiv.org/abs/1910.02054, table 1 and section 5; PyTorch
DistributedDataParallel (gradients are copied into buckets of their total size unless `gradient_as_bucket_view`) and
FSDP2 (one layer's parameters are gathered while the next one's are fetched), documentation read 2026-11.
Not held against a measurement on several GPUs; the interval is widened accordingly.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import InvalidInput, NotModelled
from planner.spec import ModelSpec, TrainingChoices

MAXIMUM_DEVICES = 64
UNMEASURED_SHARE = 0.05
"""Share of the peak by which the interval widens on several devices."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Bytes of one rank."""

    weights: int
    adapters: int
    optimizer_state: int
    gradients: int
    buckets: int
    """Copies of gradients for the reduction (DDP) or parameters gathered for use (ZeRO-3, FSDP)."""


def per_rank(
    spec: ModelSpec,
    choices: TrainingChoices,
    *,
    weights: int,
    adapters: int,
    optimizer_state: int,
    gradients: int,
    itemsize: int,
) -> Shares:
    """One rank's share of the bytes that a single device would hold; n is the number of devices.

    ddp: everything, and buckets of the gradients' size. zero2: optimizer state and gradients / n, and one bucket of
    gradients. zero3 and fsdp: weights too / n, and two layers' weights gathered at a time, or the largest module
    outside the layers. `gradients`: bytes of all gradients once they exist; `itemsize`: bytes per weight.
    """
    n = choices.num_gpus
    if n > MAXIMUM_DEVICES:
        raise InvalidInput(f"--num-gpus {n} is beyond the {MAXIMUM_DEVICES} devices that are modelled")
    if n == 1:
        return Shares(weights, adapters, optimizer_state, 0, 0)
    if choices.method == "qlora" and choices.strategy != "ddp":
        raise NotModelled(f"--strategy {choices.strategy} with 4-bit weights is not modelled; use --strategy ddp")
    if choices.strategy == "ddp":
        return Shares(weights, adapters, optimizer_state, 0, gradients)
    if choices.strategy == "zero2":
        bucket = min(gradients, 500_000_000 * 2)  # DeepSpeed's default bucket: 5e8 elements, 16-bit
        return Shares(weights, adapters, -(-optimizer_state // n), 0, bucket)
    gathered = max(2 * layer_bytes(spec, itemsize), outside_bytes(spec, itemsize))
    return Shares(-(-weights // n), -(-adapters // n), -(-optimizer_state // n), 0, min(gathered, weights))


def layer_bytes(spec: ModelSpec, itemsize: int) -> int:
    """Bytes of the largest layer's weights."""
    sizes = [0] * max(spec.num_layers, spec.num_decoder_layers, 1)
    for module in spec.modules:
        for index in module.layers or ():
            sizes[index] += module.parameters * itemsize
    return max(sizes)


def outside_bytes(spec: ModelSpec, itemsize: int) -> int:
    """Bytes of the largest module outside the layers: the embeddings or the head."""
    return max((m.parameters * itemsize for m in spec.modules if m.layers is None), default=0)


def kept_share(choices: TrainingChoices) -> int:
    """By how much gradients are divided once they have been reduced: n where they are sharded."""
    return choices.num_gpus if choices.num_gpus > 1 and choices.strategy != "ddp" else 1
