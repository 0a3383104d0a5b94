"""Dropout that keeps a seed instead of a mask."""

from __future__ import annotations

from typing import Any

import torch

from trainer.modeling.lean.rows import Masks, pieces


class SeededDropout(torch.autograd.Function):
    """x · mask / (1-p), the mask drawn from `seed` in forward and again in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
        """Any shape; output of the same shape and dtype."""
        ctx.probability, ctx.seed = probability, seed
        return masked(x, probability, seed)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> object:
        """The gradient under the same mask."""
        return masked(gradient, ctx.probability, ctx.seed), None, None


def masked(x: torch.Tensor, probability: float, seed: int) -> torch.Tensor:
    """x under the mask of `seed`.

    Of (batch, heads, rows, columns), as attention's probabilities are, the mask is drawn into the result: its rows are
    no tokens, so that pieces of ROWS would be as many as its heads make them.
    """
    flat = x.reshape(-1, x.shape[-1])
    out = torch.empty_like(flat)
    masks = Masks(probability, seed, flat)
    if x.dim() > 3:
        return masks.draw(out).mul_(flat).view_as(x)
    for piece in pieces(flat.shape[0]):
        rows = flat[piece]
        torch.mul(masks.next(*rows.shape), rows, out=out[piece])
    return out.view_as(x)
