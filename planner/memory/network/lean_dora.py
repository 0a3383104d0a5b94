"""Lean DoRA of stack `builtin` on the tape, statement by statement as trainer.modeling.lean.dora runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import FP32, HALF, ONE, R
from planner.memory.engine.tape import Tape
from planner.memory.engine.weight import Weight
from planner.memory.network.lean import FrozenLayer

if TYPE_CHECKING:
    from planner.contract.spec import Module
    from planner.memory.network.net import Net

NORM_ROWS = 512
"""Rows of the weight whose lengths are taken at a time."""


def dora(net: Net, module: Module, x: Tensor, a: Weight, b: Weight, *, quantized: bool) -> Tensor:
    """Saves x, tokens·r·w and the rows' lengths, 4·out.

    Forward: the output tokens·out·w; the weight where it is quantized or cast; for lengths 512·in·4; for R tokens at a
    time the product R·out·w and with dropout R·in·w of mask and another product. Backward: dX, the weight again, for R
    tokens products of R·out·w and R·in·w; dA, dB and dm.
    """
    tape, rank, choices = net.tape, net.choices.lora_r, net.choices
    width, out_width = module.in_features, module.out_features
    itemsize = HALF if tape.rules.autocast else net.compute_itemsize(x) if quantized else x.itemsize
    narrow = ops.to(tape, x, itemsize)
    base = FrozenLayer(net, module, quantized=quantized)
    magnitude = net.weight(out_width, net.adapter_itemsize, trainable=True)
    layer = _Dora(
        tape=tape,
        base=base,
        monomial=narrow.monomial,
        rows=narrow.elements // width,
        width=width,
        out_width=out_width,
        rank=rank,
        itemsize=itemsize,
        a_itemsize=a.tensor.itemsize,
        b_itemsize=b.tensor.itemsize,
        m_itemsize=magnitude.tensor.itemsize,
        dropped=choices.lora_dropout > 0 and tape.rules.training,
        needs_x=narrow.requires_grad,
    )
    out, low, lengths = layer.forward()
    leaves = (a.tensor, b.tensor, magnitude.tensor)
    tape.record(out, (narrow, *leaves), (narrow, low, lengths, *leaves), layer.backward)
    del low, lengths  # tidy
    return out if tape.rules.autocast else ops.to(tape, out, x.itemsize)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dora:
    """A linear layer with its adapter and magnitudes, of which nothing but sizes is held."""

    tape: Tape
    base: FrozenLayer
    monomial: int
    """Of the input's rows."""
    rows: int
    """Per unit of the monomial."""
    width: int
    out_width: int
    rank: int
    itemsize: int
    a_itemsize: int
    b_itemsize: int
    m_itemsize: int
    dropped: bool
    needs_x: bool

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """The output, the rank-sized share of the input, the lengths of the weight's rows."""
        tape, rank, width, out_width, itemsize = self.tape, self.rank, self.width, self.out_width, self.itemsize
        weight = self.base.weight(itemsize)
        lengths = tape.new(ONE, out_width, FP32)
        wide = tape.new(ONE, rank * width, FP32) if self.a_itemsize != FP32 else None
        block = tape.new(ONE, min(NORM_ROWS, out_width) * width, FP32)
        del block, wide
        ratio = tape.new(ONE, out_width, FP32)
        share = _share(tape, rank * out_width, itemsize, self.b_itemsize)
        small = tape.new(ONE, rank * width, itemsize) if self.a_itemsize != itemsize else None
        out = tape.new(self.monomial, self.rows * out_width, itemsize)
        low = tape.new(self.monomial, self.rows * rank, itemsize)
        made = tape.new(R, out_width, itemsize)
        if self.dropped:
            mask, again = tape.new(R, width, itemsize), tape.new(R, out_width, itemsize)
            del mask, again  # tidy
        del made, weight, ratio, share, small  # tidy
        return out, low, lengths

    def backward(self, g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Gradients of the input, A, B and the magnitudes."""
        tape, rank, width, out_width, itemsize = self.tape, self.rank, self.width, self.out_width, self.itemsize
        ratio = tape.new(ONE, out_width, FP32)
        weight = self.base.weight(itemsize)
        wide = tape.new(ONE, rank * out_width, FP32) if self.b_itemsize != FP32 else None
        share = _share(tape, rank * out_width, itemsize, FP32)
        small = tape.new(ONE, rank * width, itemsize) if self.a_itemsize != itemsize else None
        grad_low = tape.new(self.monomial, self.rows * rank, itemsize)
        product = tape.new(ONE, rank * out_width, itemsize)
        grad_b = tape.new(ONE, rank * out_width, FP32)
        del product
        summed = tape.new(ONE, rank * out_width, FP32)
        del summed
        grad_ratio = tape.new(ONE, out_width, FP32)
        if self.b_itemsize != FP32:
            grad_b = tape.like(grad_b, self.b_itemsize)
        grad_a = tape.new(ONE, rank * width, self.a_itemsize)
        grad_x = tape.new(self.monomial, self.rows * width, itemsize) if self.needs_x else None
        self._input_pieces()
        grad_magnitude = tape.new(ONE, out_width, self.m_itemsize)
        del ratio, weight, wide, share, small, grad_low, grad_ratio  # tidy
        return [grad_x, grad_a, grad_b, grad_magnitude]

    def _input_pieces(self) -> None:
        """What comes and goes while the input's and A's gradients are made, R tokens at a time."""
        tape, width, out_width, itemsize = self.tape, self.width, self.out_width, self.itemsize
        mask = tape.new(R, width, itemsize) if self.dropped else None
        masked = tape.new(R, width, itemsize) if self.dropped else None
        made = tape.new(R, out_width, itemsize)
        del made
        piece = tape.new(ONE, self.rank * width, itemsize)
        del piece, masked
        if self.needs_x:
            turned, made = tape.new(R, out_width, itemsize), tape.new(R, width, itemsize)
            del turned, made  # tidy
        del mask  # tidy


def _share(tape: Tape, elements: int, itemsize: int, from_itemsize: int) -> Tensor:
    """B · ratio · s in fp32, and its cast."""
    wide = tape.new(ONE, elements, FP32) if from_itemsize != FP32 else None
    made = tape.new(ONE, elements, FP32)
    del wide  # tidy
    return made if itemsize == FP32 else tape.like(made, itemsize)
