"""Root-mean-square norms that keep their input and one number per token, and make the rest again in backward; or keep
the normed values in its place."""

from __future__ import annotations

from typing import Any

import torch


class RmsNorm(torch.autograd.Function):
    """weight · x / rms(x), computed in fp32, in x's dtype; `offset` is added to the weight (gemma: 1).

    `late`: the weight multiplies before the cast back (gemma, olmo2) instead of after it (llama).
    `kept`: the normed values, 4 bytes an element, are saved in place of x, and backward needn't make them again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, late: bool, kept: bool = False
    ) -> torch.Tensor:
        """x (..., width), weight (width) -> (..., width)."""
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        normed = wide * inverse if wide is x else wide.mul_(inverse)
        gain = weight.float() + offset if offset else weight
        if late:
            out = (normed * gain.float() if kept else normed.mul_(gain.float())).to(x.dtype)
        else:
            out = normed.to(x.dtype)
            apart = gain.dtype == out.dtype and not (kept and out is normed)
            out = out.mul_(gain) if apart else out * gain
        ctx.save_for_backward(normed if kept else x, weight, inverse)
        ctx.offset, ctx.kept, ctx.dtype = offset, kept, x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> object:
        """gradient (..., width) -> gradients of x and weight."""
        saved, weight, inverse = ctx.saved_tensors
        normed = saved if ctx.kept else saved.float() * inverse  # kept ones are used once, and written into below
        grad = gradient.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            gain = weight.float() + ctx.offset if ctx.offset else weight.float()
            grad = grad * gain if grad is gradient else grad.mul_(gain)
            dot = (grad * normed).mean(-1, keepdim=True)
            grad_x = grad.sub_(normed.mul_(dot)).mul_(inverse).to(ctx.dtype)
        return grad_x, grad_weight, None, None, None, None
