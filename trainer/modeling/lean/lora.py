"""A linear layer with LoRA as one autograd function.

Kept for backward: the input once (query, key and value share it, as do gate and up), the two small matrices and their
product of rank r per token. Not kept: an fp32 copy of the input, the dropped-out input, its mask, a gradient of the
frozen weight. The input may also be an activation that is computed from what was kept (`ActivatedLora`).
Over 4-bit and int8 weights the base product and its transpose de-quantise the weight when they need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trainer.modeling.functions import as_rows_of
from trainer.modeling.lean import products
from trainer.modeling.lean.frozen import dequantized_int8
from trainer.modeling.lean.rows import Masks, pieces
from trainer.modeling.quantized import is_int8


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype that products run in: autocast's where it is on, else the input's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _grad_b(low: torch.Tensor, grad: torch.Tensor, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """Gradient of B (out, r). Made transposed: a product with few rows is several times faster than one with few
    columns on a CPU."""
    made = (low.t() @ grad).mul_(scaling)
    return made.t().to(dtype, memory_format=torch.contiguous_format, copy=True)


class FrozenBase:
    """The frozen linear layer under an adapter: its product and the product with its transpose."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.conv1d = type(layer).__name__ == "Conv1D"
        self.four_bit = hasattr(layer.weight, "quant_state")
        self.int8 = is_int8(layer)

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight as (out, in) in `dtype`; a view or a temporary."""
        weight = self.layer.weight
        if self.four_bit:
            from bitsandbytes.functional import dequantize_4bit

            values: torch.Tensor = dequantize_4bit(weight, weight.quant_state)
            return values.to(dtype)
        if self.int8:
            return dequantized_int8(self.layer, dtype)
        return self.raw().to(dtype)

    def raw(self) -> torch.Tensor:
        """The stored weight as (out, in), where it is not packed."""
        weight: torch.Tensor = self.layer.weight
        return weight.t() if self.conv1d else weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, in) -> (rows, out)."""
        bias = self.layer.bias
        return products.linear(x, self.weight(x.dtype), None if bias is None else bias.to(x.dtype))

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """gradient (rows, out) -> (rows, in)."""
        return products.matmul(gradient, self.weight(gradient.dtype))


@dataclass(frozen=True, slots=True)
class Beside:
    """What the product of a layer with an adapter needs beside its tensors."""

    base: FrozenBase
    scaling: float = 1.0
    probability: float = 0.0
    """Of dropout before the adapter."""
    seed: int = 0
    """Of the dropout's masks."""
    act: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Activation before the layer."""

    def masks(self, like: torch.Tensor) -> Masks | None:
        """The dropout's masks for rows like these; None without dropout."""
        return Masks(self.probability, self.seed, like) if self.probability > 0 else None


class LoraLinear(torch.autograd.Function):
    """base(x) + scaling · B(A(dropout(x)))."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        beside: Beside,
    ) -> torch.Tensor:
        """x (..., in), a (r, in), b (out, r) -> (..., out) in x's dtype."""
        flat = x.reshape(-1, x.shape[-1])
        out = beside.base.forward(flat)
        small = a.to(flat.dtype)
        masks = beside.masks(flat)
        if masks is None:
            low = products.linear(flat, small)
        else:
            low = flat.new_empty((flat.shape[0], a.shape[0]))
            for piece in pieces(flat.shape[0]):
                rows = flat[piece]
                torch.mm(masks.next(*rows.shape).mul_(rows), small.t(), out=low[piece])
        out.addmm_(low, b.to(flat.dtype).t(), alpha=beside.scaling)
        ctx.save_for_backward(x, a, b, low)
        ctx.beside = beside
        return as_rows_of(out, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """gradient (..., out) -> gradients of x, a and b."""
        beside: Beside = ctx.beside
        x, a, b, low = ctx.saved_tensors
        flat = x.reshape(-1, x.shape[-1])
        grad = gradient.reshape(-1, gradient.shape[-1])
        grad_b = _grad_b(low, grad, beside.scaling, b.dtype)
        grad_low = products.matmul(grad, b.to(grad.dtype)).mul_(beside.scaling)
        small = a.to(flat.dtype)
        masks = beside.masks(flat)
        grad_x = beside.base.backward(grad) if ctx.needs_input_grad[0] else None
        if masks is None:
            grad_a = (grad_low.t() @ flat).to(a.dtype)
            if grad_x is not None:
                grad_x.addmm_(grad_low, small)
        else:
            grad_a = torch.zeros_like(a)
            for piece in pieces(flat.shape[0]):
                rows, part = flat[piece], grad_low[piece]
                mask = masks.next(*rows.shape)
                if grad_x is not None:
                    grad_x[piece].addcmul_(part @ small, mask)
                grad_a += (part.t() @ mask.mul_(rows)).to(a.dtype)
                del mask
        return None if grad_x is None else grad_x.view_as(x), grad_a, grad_b, None


class ActivatedLora(torch.autograd.Function):
    """LoraLinear of act(first) or act(first) · second, which is made piece by piece and made again in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        first: torch.Tensor,
        second: torch.Tensor | None,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
        beside: Beside,
    ) -> torch.Tensor:
        """first, second (..., in), a (r, in), b (out, r) -> (..., out); without a and b the base layer alone."""
        flat = first.reshape(-1, first.shape[-1])
        other = None if second is None else second.reshape(flat.shape)
        low = None if a is None else flat.new_empty((flat.shape[0], a.shape[0]))
        masks = beside.masks(flat) if a is not None else None
        act = beside.act
        assert act is not None
        out: torch.Tensor | None = None
        for piece in pieces(flat.shape[0]):
            made = act(flat[piece]).to(flat.dtype)  # CUDA's autocast computes powers in fp32
            if other is not None:
                made = made.mul_(other[piece]) if made is not flat else made * other[piece]
            result = beside.base.forward(made)
            if out is None:
                out = result if result.shape[0] == flat.shape[0] else result.new_empty((flat.shape[0], result.shape[1]))
            dropped: torch.Tensor | None = None
            if low is not None and a is not None and b is not None:
                dropped = made if masks is None else masks.next(*made.shape).mul_(made)
                torch.mm(dropped, a.to(flat.dtype).t(), out=low[piece])
                result.addmm_(low[piece], b.to(flat.dtype).t(), alpha=beside.scaling)
            if result is not out:
                out[piece] = result
            del made, result, dropped  # else they would live while the next piece is made
        assert out is not None
        kept = (first, second, a, b, low)
        ctx.present = [tensor is not None for tensor in kept]
        ctx.save_for_backward(*(tensor for tensor in kept if tensor is not None))
        ctx.beside = beside
        return as_rows_of(out, first)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """gradient (..., out) -> gradients of first, second, a and b."""
        beside: Beside = ctx.beside
        act = beside.act
        assert act is not None
        made_of = iter(ctx.saved_tensors)
        kept: list[Any] = [next(made_of) if present else None for present in ctx.present]
        first, second, a, b, low = kept
        flat = first.reshape(-1, first.shape[-1])
        other = None if second is None else second.reshape(flat.shape)
        grad = gradient.reshape(-1, gradient.shape[-1])
        grad_first = torch.empty_like(flat)
        grad_second = None if other is None else torch.empty_like(other)
        grad_a = None if a is None else torch.zeros_like(a)
        grad_b = None if b is None else _grad_b(low, grad, beside.scaling, b.dtype)
        masks = beside.masks(flat) if a is not None else None
        for piece in pieces(flat.shape[0]):
            rows = grad[piece]
            with torch.enable_grad():
                leaf = flat[piece].detach().requires_grad_()
                activated = act(leaf)
            product = beside.base.backward(rows)
            if a is not None and grad_a is not None:
                made = activated.detach() if other is None else activated.detach() * other[piece]
                part = products.matmul(rows, b.to(rows.dtype)).mul_(beside.scaling)
                if masks is None:
                    product.addmm_(part, a.to(rows.dtype))
                    grad_a += (part.t() @ made).to(a.dtype)
                else:
                    mask = masks.next(*made.shape)
                    product.addcmul_(part @ a.to(rows.dtype), mask)
                    grad_a += (part.t() @ mask.mul_(made)).to(a.dtype)
                    del mask
                del made
            if grad_second is not None:
                torch.mul(product, activated.detach(), out=grad_second[piece])
                assert other is not None
                product.mul_(other[piece])
            (grad_first[piece],) = torch.autograd.grad(activated, leaf, product)
            del leaf, activated, product
        return (
            grad_first.view_as(first),
            None if grad_second is None else grad_second.view_as(second),
            grad_a,
            grad_b,
            None,
        )
