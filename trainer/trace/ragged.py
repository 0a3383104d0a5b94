"""A micro-batch whose rows differ in length, or hold several sequences each, as the trainer's collator hands it over.

Stack `builtin` flattens it under the chunked loss (trainer.modeling.packing); that code runs here as it is, and only
the choice of its attention kernel, which asks the device, is answered for the device that is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.microbatches import Rows
from trainer.modeling import packing
from trainer.trace.attention import HALF
from trainer.trace.operators import Replacement
from trainer.trace.recorder import Arguments, ScratchRules


def check(rows: Rows, choices: TrainingChoices) -> None:
    """Raises InvalidInput for rows that `choices` would never make."""
    if not rows or any(not row or min(row) < 1 for row in rows):
        raise InvalidInput("lengths: every row needs at least one sequence of at least one token")
    if choices.padding != "packed" and any(len(row) > 1 for row in rows):
        raise InvalidInput("lengths: only --padding packed puts several sequences into one row")
    if max(sum(row) for row in rows) > choices.max_length:
        raise InvalidInput(f"lengths: a row is longer than --max-length {choices.max_length}")


def make_batch(rows: Rows, choices: TrainingChoices) -> dict[str, Any]:
    """int64 input_ids and labels (rows x longest, or x max_length where the padding says so), and the lengths."""
    length = max(sum(row) for row in rows) if choices.padding == "longest" else choices.max_length
    names = ("input_ids", "labels", "position_ids") if choices.padding == "packed" else ("input_ids", "labels")
    batch: dict[str, Any] = {name: torch.zeros((len(rows), length), dtype=torch.int64) for name in names}
    if choices.padding != "max":
        batch["lengths"] = [tuple(row) for row in rows]
    return batch


def targets(rows: Rows) -> int:
    """Tokens that are learned where every token of every sequence but the first is."""
    return sum(length - 1 for row in rows for length in row)


def device_kernels(target: str, kernel: str) -> list[Replacement]:
    """Replacements by which flat attention runs as it does on `target`."""

    def boundaries(lengths: Sequence[int], device: torch.device) -> torch.Tensor | None:
        return torch.zeros(len(lengths) + 1, dtype=torch.int32) if target == "cuda" else None

    def choose(query: torch.Tensor, lengths: object, dropout: float, window: int | None) -> str:
        if target != "cuda" or kernel not in ("auto", "flash") or dropout > 0:
            return "one by one"
        fits = query.dtype in HALF and query.shape[-1] <= 256 and query.shape[-1] % 8 == 0
        return "varlen" if fits and packing._varlen_kernel() is not None else "one by one"

    if target == "cpu":
        return []
    return [(packing, "boundaries", boundaries), (packing, "choose_kernel", choose)]


def varlen_backward_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """fp32 accumulator of dq and row sums, 128 rows more for every sequence; expanded dk and dv under grouped heads.

    PyTorch flash_attn/flash_api.cpp, `mha_varlen_bwd` (read 2026-11).
    """
    query, key, bounds = args[1], args[2], args[6]
    tokens, heads, width = query.shape
    rows = tokens + 128 * (bounds.shape[0] - 1)
    rounded = -(-width // 32) * 32 if width <= 192 else 256
    sizes = [rows * heads * rounded * 4, rows * heads * 4]
    if key.shape[1] != heads:
        sizes += [tokens * heads * width * query.element_size()] * 2
    return sizes


def scratch() -> ScratchRules:
    """Scratch rules of the kernels for sequences of different lengths, where this torch has them."""
    if packing._varlen_kernel() is None:
        return {}
    return {torch.ops.torch_attn._varlen_attn_backward.default: varlen_backward_scratch}
