"""Autocast for the mixed modes, arranged as accelerate arranges it around the model's forward."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import contextlib
from typing import Any

import torch

from planner.contract.choices import TrainingChoices

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16, "bf16-amp": torch.bfloat16}


def autocast_dtype(choices: TrainingChoices) -> torch.dtype | None:
    """The dtype that autocast computes in, or None where the weights' dtype is used as it is."""
    return _AUTOCAST.get(choices.precision)


def precision_context(dtype: torch.dtype | None, device_type: str) -> contextlib.AbstractContextManager[Any]:
    """The autocast context of one forward pass; nothing when `dtype` is None."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device_type=device_type, dtype=dtype)


def wrap_forward(model: torch.nn.Module, dtype: torch.dtype | None, device_type: str) -> None:
    """Runs the model's forward under autocast and turns its half-precision outputs into fp32.

    This is what `accelerate.Accelerator.prepare` does under mixed precision; the copy of the logits that it makes is
    part of a run's peak. A trainer that goes through accelerate must not call this as well.
    """
    if dtype is None:
        return
    from accelerate.utils.operations import convert_outputs_to_fp32

    context = torch.autocast(device_type=device_type, dtype=dtype)
    model.forward = convert_outputs_to_fp32(context(model.forward))
