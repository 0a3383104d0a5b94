"""The distance to the limit: the arithmetic and the bytes that no trainer of this model can do without."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.throughput.workload import RAGGED, Workload
from planner import memory
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.data.lengths import DataLengths
from planner.devices.hardware import find
from planner.models import sources
from planner.models.lora import trainable_parameters


def flops(load: Workload, lengths: list[int]) -> float:
    """Operations of one epoch: a multiply-add is two; padding, recomputation and the optimizer are left out.

    Frozen weights W of the layers take 2·W a token forward and 2·W for the gradient of their input, the head the same
    for each target; adapters three such products. Attention: two products over the causal half of the pairs forward,
    four backward. Nothing before the first layer trains, so its query, key and value need no gradient of their input.
    """
    c = load.config()
    width, wide, layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    head = width // c["num_attention_heads"]
    keys = head * c["num_key_value_heads"]
    shapes = [(width, width), (width, keys), (width, keys), (width, width), *[(width, wide)] * 2, (wide, width)]
    layer = sum(a * b for a, b in shapes)
    adapters = load.lora_r * sum(a + b for a, b in shapes)
    first = width * (width + 2 * keys) + 3 * load.lora_r * width
    tokens, targets = sum(lengths), sum(length - 1 for length in lengths)
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    products = tokens * (4.0 * layer * layers - 2.0 * first + 6.0 * adapters * layers)
    return products + targets * 4.0 * width * load.vocabulary + 12.0 * width * pairs * layers


def floor_bytes(load: Workload, lengths: list[int]) -> int:
    """Weights, adapters and the token ids and labels of the fullest micro-batch."""
    spec = sources.from_config(load.config(), "benchmark")
    tokens = sum(sorted(lengths)[-load.batch_size :])
    size = 4 if load.precision == "fp32" else 2
    return spec.parameters * size + trainable_parameters(spec, _choices(load, 1)) * 4 + 16 * tokens


def planned_bytes(load: Workload, lengths: list[int], device: str, *, checkpointed: bool = False) -> int | None:
    """What the planner foretells of our run on these sequences, in tensors; None where it refuses."""
    spec = sources.from_config(load.config(), "benchmark")
    data = DataLengths(
        training=np.array(sorted(lengths, reverse=True)), validation=np.array([], dtype=np.int64), continued=True
    )
    hardware = find("cpu" if device == "cpu" else "auto")
    try:
        choices = replace(_choices(load, max(lengths)), gradient_checkpointing=checkpointed)
        report = memory.predict(spec, hardware, choices, lengths=data)
    except NotModelled:
        return None
    return max(size for name, size in report.instants.items() if name not in ("eval", "save"))


def _choices(load: Workload, length: int) -> TrainingChoices:
    from benchmarks.throughput.contenders import settings

    values: dict[str, Any] = {**settings(load, RAGGED), "max_length": length}
    return TrainingChoices(**{**values, "lora_targets": tuple(values["lora_targets"])})


def matmul_peak(load: Workload, device: str, *, seconds: float = 2.0) -> dict[str, float]:
    """Best operations per second of a large product in the workload's precision, by what multiplies."""
    import torch

    from trainer.modeling.lean import products

    dtype = torch.float32 if load.precision == "fp32" else torch.bfloat16
    size = 2048 if device == "cpu" else 8192
    x = torch.randn((size, size), device=device, dtype=dtype)
    matrix = torch.randn((size, size), device=device, dtype=dtype)
    kinds = {"torch.mm": torch.mm}
    if device == "cpu" and products.available():
        kinds["oneDNN"] = products.matmul
    found: dict[str, float] = {}
    for name, multiply in kinds.items():
        multiply(x, matrix)
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            multiply(x, matrix)
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
        found[name] = 2.0 * size**3 / best
    return found
