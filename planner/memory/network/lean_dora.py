"""Lean DoRA of stack `builtin` on the tape, statement by statement as trainer.modeling.lean.dora runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import FP32, HALF, ONE, R
from planner.memory.engine.ops import Weight
from planner.memory.engine.tape import Tape
from planner.memory.network.lean import FrozenLayer

if TYPE_CHECKING:
    from planner.contract.spec import Module
    from planner.memory.network.net import Net

NORM_ROWS = 512
"""Rows of the weight whose lengths are taken at a time."""


def dora(net: Net, module: Module, x: Tensor, a: Weight, b: Weight, *, packed: bool) -> Tensor:
    """Saves x, tokens·r·w and the rows' lengths, 4·out.

    Forward: the output tokens·out·w; the weight where it is packed or cast; for lengths 512·in·4; for R tokens at a
    time the product R·out·w and with dropout R·in·w of mask and another product. Backward: dX, the weight again, for R
    tokens products of R·out·w and R·in·w; dA, dB and dm.
    """
    tape, rank, choices = net.tape, net.choices.lora_r, net.choices
    width, out_width = module.in_features, module.out_features
    itemsize = HALF if tape.rules.autocast else net.compute_itemsize(x) if packed else x.itemsize
    narrow = ops.to(tape, x, itemsize)
    base = FrozenLayer(net, module, packed=packed)
    magnitude = net.weight(out_width, net.adapter_itemsize, trainable=True)
    rows, dropped = narrow.elements // width, choices.lora_dropout > 0 and tape.rules.training
    a_width, b_width, m_width = (w.tensor.itemsize for w in (a, b, magnitude))

    weight = base.weight(itemsize)
    lengths = tape.new(ONE, out_width, FP32)
    wide = tape.new(ONE, rank * width, FP32) if a_width != FP32 else None
    block = tape.new(ONE, min(NORM_ROWS, out_width) * width, FP32)
    del block, wide
    ratio = tape.new(ONE, out_width, FP32)
    share = _share(tape, rank * out_width, itemsize, b_width)
    small = tape.new(ONE, rank * width, itemsize) if a_width != itemsize else None
    out = tape.new(narrow.monomial, rows * out_width, itemsize)
    low = tape.new(narrow.monomial, rows * rank, itemsize)
    made = tape.new(R, out_width, itemsize)
    if dropped:
        mask, again = tape.new(R, width, itemsize), tape.new(R, out_width, itemsize)
        del mask, again
    del made, weight, ratio, share, small
    needs_x, size = narrow.requires_grad, (narrow.monomial, narrow.elements)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        ratio = tape.new(ONE, out_width, FP32)
        weight = base.weight(itemsize)
        wide = tape.new(ONE, rank * out_width, FP32) if b_width != FP32 else None
        share = _share(tape, rank * out_width, itemsize, FP32)
        small = tape.new(ONE, rank * width, itemsize) if a_width != itemsize else None
        grad_low = tape.new(size[0], rows * rank, itemsize)
        product = tape.new(ONE, rank * out_width, itemsize)
        grad_b = tape.new(ONE, rank * out_width, FP32)
        del product
        summed = tape.new(ONE, rank * out_width, FP32)
        del summed
        grad_ratio = tape.new(ONE, out_width, FP32)
        if b_width != FP32:
            grad_b = tape.like(grad_b, b_width)
        grad_a = tape.new(ONE, rank * width, a_width)
        grad_x = tape.new(size[0], size[1], itemsize) if needs_x else None
        mask = tape.new(R, width, itemsize) if dropped else None
        masked = tape.new(R, width, itemsize) if dropped else None
        made = tape.new(R, out_width, itemsize)
        del made
        piece = tape.new(ONE, rank * width, itemsize)
        del piece, masked
        if needs_x:
            turned, made = tape.new(R, out_width, itemsize), tape.new(R, width, itemsize)
            del turned, made
        del mask
        grad_magnitude = tape.new(ONE, out_width, m_width)
        del ratio, weight, wide, share, small, grad_low, grad_ratio
        return [grad_x, grad_a, grad_b, grad_magnitude]

    leaves = (a.tensor, b.tensor, magnitude.tensor)
    tape.record(out, (narrow, *leaves), (narrow, low, lengths, *leaves), backward)
    del low, lengths
    return out if tape.rules.autocast else ops.to(tape, out, x.itemsize)


def _share(tape: Tape, elements: int, itemsize: int, from_itemsize: int) -> Tensor:
    """B · ratio · s in fp32, and its cast."""
    wide = tape.new(ONE, elements, FP32) if from_itemsize != FP32 else None
    made = tape.new(ONE, elements, FP32)
    del wide
    return made if itemsize == FP32 else tape.like(made, itemsize)
