"""One kind of operation of a micro-batch, and the number formats that it runs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from planner.contract.choices import TrainingChoices

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One kind of operation of a micro-batch, with the cost of one forward pass of one copy."""

    name: str
    engine: Literal["matmul", "attention", "vector", "dequantize"]
    """What it runs on: matrix units in large products, an attention kernel, element-wise arithmetic, or a kernel that
    unpacks quantised weights.
    """
    flops: Array
    bytes: Array
    copies: int
    backward: float
    """Backward cost in forward passes: 0 where nothing before it is trained."""
    in_layer: bool
    """Whether a checkpointed layer repeats it."""
    kernels: float
    """Kernels launched by one forward pass of one copy."""
    dtype: str
    """Arithmetic type: fp32, tf32, bf16 or fp16."""
    backward_kernels: float | None = None
    """Kernels of the backward in those of forward, where they aren't as many as its cost in forward passes."""
    span: Array | float = 0.0
    """What a kernel's work runs over: tokens of a row in attention, summands of each output in a matrix product."""


def compute_dtype(choices: TrainingChoices) -> str:
    """Arithmetic type of the matrix products under `--precision`: fp32, bf16 or fp16."""
    return choices.precision.removesuffix("-mixed").removesuffix("-amp")


def autocasts(choices: TrainingChoices) -> bool:
    """Whether products run under autocast, in 16 bit whatever their inputs are stored in."""
    return choices.precision.endswith(("-mixed", "-amp"))


def stream_dtype(choices: TrainingChoices) -> str:
    """Type of what flows between the layers: fp32 behind norms that k-bit preparation made fp32, else the products'.

    transformers' RMSNorm multiplies with its weight last, and bitsandbytes' Linear4bit hands out what it was given
    (transformers modeling_llama.py, bitsandbytes nn/modules.py, read 2026-11-27).
    """
    return "fp32" if choices.kbit_prepared != "none" else compute_dtype(choices)


def vector(
    name: str,
    choices: TrainingChoices,
    tokens: Array,
    bytes_per_token: float,
    copies: int,
    kernels: float,
    *,
    kept: float = 0.0,
    backward: float = 2.0,
) -> Operation:
    """An element-wise operation; its backward moves about twice what its forward does (gradient, saved input, out),
    less what it needn't make again (`kept`, in forward passes). Sums, scalings and rotations move as much as forward:
    nothing saved is read, and a sum hands its gradient on as it is."""
    moved = bytes_per_token * tokens
    return Operation(
        name=name,
        engine="vector",
        flops=np.zeros_like(moved),
        bytes=moved,
        copies=copies,
        backward=backward - kept,
        backward_kernels=2.0 - kept,
        in_layer=True,
        kernels=kernels,
        dtype="fp32",
    )
