"""A frozen linear layer with int8 weights that keeps nothing for backward.

bitsandbytes' own function keeps its input on the graph, where checkpointing cannot drop it, and on a GPU quantises that
input too. Here the weight is de-quantised to the input's dtype for the product and again for its transpose, on every
device, as bitsandbytes itself does on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.modeling.functions import as_rows_of
from trainer.modeling.quantized import int8_state


def dequantized_int8(layer: torch.nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """The weight (out, in) in `dtype`: each row's values times its scale / 127. A temporary of in·out·w bytes."""
    values, scales = int8_state(layer)
    return values.to(dtype, copy=True).mul_(scales.unsqueeze(1).mul(1.0 / 127.0))


class FrozenLinear(torch.autograd.Function):
    """base(x); saves nothing."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, base: torch.nn.Module) -> torch.Tensor:
        """x (..., in) -> (..., out) in x's dtype."""
        ctx.base, ctx.shape = base, x.shape
        out = base.forward(x.reshape(-1, x.shape[-1]))
        return as_rows_of(out, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> object:
        """gradient (..., out) -> gradient of x."""
        return ctx.base.backward(gradient.reshape(-1, gradient.shape[-1])).view(ctx.shape), None
