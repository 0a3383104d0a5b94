"""A linear layer with DoRA as one autograd function.

y = b + W·x + (m/n - 1)·W·x' + m/n·s·B·A·x', where x' is x after dropout and n the length of each row of W + s·B·A,
which gets no gradient (Liu et al. 2024, arXiv:2402.09353, section 4.3). Kept for backward: x, the product of rank r, n.
PEFT makes B·A and W + s·B·A as whole matrices by way of an identity of in·in; here n is made some rows at a time.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.modeling.functions import as_rows_of
from trainer.modeling.lean import products
from trainer.modeling.lean.lora import Beside
from trainer.modeling.lean.rows import pieces

NORM_ROWS = 512
"""Rows of the weight whose lengths are taken at a time, in fp32."""


def row_lengths(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """|W + s·B·A| by row, fp32 (out): weight (out, in), a (r, in), b (out, r)."""
    lengths = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    small = a.float()
    for start in range(0, weight.shape[0], NORM_ROWS):
        block = slice(start, start + NORM_ROWS)
        rows = weight[block].to(torch.float32, copy=True).addmm_(b[block].float(), small, alpha=scaling)
        lengths[block] = torch.linalg.vector_norm(rows, dim=1)
        del rows
    return lengths


class DoraLinear(torch.autograd.Function):
    """base(x) with its rows brought to the lengths m after B·A is added."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        magnitude: torch.Tensor,
        beside: Beside,
    ) -> torch.Tensor:
        """x (..., in), a (r, in), b (out, r), magnitude (out) -> (..., out) in x's dtype."""
        flat = x.reshape(-1, x.shape[-1])
        base, scaling = beside.base, beside.scaling
        weight = base.weight(flat.dtype)
        lengths = row_lengths(weight if base.four_bit or base.int8 else base.raw(), a, b, scaling)
        ratio = magnitude.float() / lengths
        share = (b.float() * (ratio * scaling).unsqueeze(1)).to(flat.dtype)
        small = a.to(flat.dtype)
        out = flat.new_empty((flat.shape[0], weight.shape[0]))
        low = flat.new_empty((flat.shape[0], a.shape[0]))
        masks = beside.masks(flat)
        for piece in pieces(flat.shape[0]):
            rows = flat[piece]
            made = products.linear(rows, weight)
            if masks is None:
                dropped = rows
                made.mul_(ratio)
            else:
                dropped = masks.next(*rows.shape).mul_(rows)
                made.add_(products.linear(dropped, weight).mul_(ratio - 1))
            torch.mm(dropped, small.t(), out=low[piece])
            made.addmm_(low[piece], share.t())
            if base.layer.bias is not None:
                made.add_(base.layer.bias)
            out[piece] = made
            del made, dropped, rows  # else they would live while the next piece is made
        ctx.save_for_backward(x, a, b, magnitude, low, lengths)
        ctx.beside = beside
        return as_rows_of(out, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """gradient (..., out) -> gradients of x, a, b and magnitude."""
        beside: Beside = ctx.beside
        scaling = beside.scaling
        x, a, b, magnitude, low, lengths = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1])
        grad = gradient.reshape(-1, gradient.shape[-1])
        ratio = magnitude.float() / lengths
        weight = beside.base.weight(grad.dtype)
        wide = b.float()
        share = (wide * (ratio * scaling).unsqueeze(1)).to(grad.dtype)
        small = a.to(flat.dtype)
        grad_low = products.matmul(grad, share)
        grad_b = (low.t() @ grad).t().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        grad_ratio = (grad_b * wide).sum(1).mul_(scaling)
        grad_b = grad_b.mul_((ratio * scaling).unsqueeze(1)).to(b.dtype)
        grad_a = torch.zeros_like(a)
        grad_x = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        masks = beside.masks(flat)
        for piece in pieces(flat.shape[0]):
            rows, above = flat[piece], grad[piece]
            mask = None if masks is None else masks.next(*rows.shape)
            dropped = rows if mask is None else mask * rows
            grad_ratio += products.linear(dropped, weight).mul_(above).sum(0, dtype=torch.float32)
            grad_a += (grad_low[piece].t() @ dropped).to(a.dtype)
            del dropped
            if grad_x is not None:
                turned = above.clone(memory_format=torch.contiguous_format).mul_(ratio if mask is None else ratio - 1)
                made = products.matmul(turned, weight).addmm_(grad_low[piece], small)
                if mask is not None:
                    made.mul_(mask).addmm_(above, weight)
                grad_x[piece] = made
                del turned, made
            del rows, above, mask
        grad_magnitude = (grad_ratio / lengths).to(magnitude.dtype)
        grad_x = None if grad_x is None else grad_x.view_as(x)
        return grad_x, grad_a, grad_b, grad_magnitude, None
