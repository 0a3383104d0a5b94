"""LoRA on the fused expert tensors and the router of a mixture, as PEFT runs it on either stack.

PEFT folds the adapter into the whole tensor for the length of a forward: W + s·B·A for all experts at once, kept for
backward by the grouped product that reads it, whose gradient is as large. The parametrisation is tried once when it is
registered, which makes and drops the whole tensor before it is needed. Source: peft 0.21 tuners/lora/layer.py
(ParamWrapper, _LoraFactorsProxy), torch.nn.utils.parametrize (read 2026-11).
"""

from __future__ import annotations

from planner.contract.spec import Module
from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import HALF, ONE
from planner.memory.engine.tape import Tape
from planner.memory.engine.weight import Weight
from planner.memory.network.net import Net
from planner.models.lora import adapter_rank


class Folded:
    """An adapted expert tensor: its two factors in the tensor's dtype, and the sum when it is asked for."""

    def __init__(self, net: Net, module: Module) -> None:
        self.tape, self.itemsize = net.tape, net.itemsize
        experts, outputs, inputs = module.shape
        self.count = experts * outputs * inputs
        rank = experts * adapter_rank(net.spec, module, net.choices)
        a = net.weight(rank * inputs, net.adapter_itemsize, trainable=True)
        b = net.weight(rank * outputs, net.adapter_itemsize, trainable=True)
        with self.tape.scope("lora_activations"):
            self.left = _expert_first(net, b.tensor, self.itemsize)
            self.right = _in_dtype_of_weights(net, a.tensor)
            tried = self.sum()
            del tried  # tidy

    def sum(self) -> Tensor:
        """W + s·B·A: experts·out·in·w; saves the factors; backward two products of a factor's size for each."""
        tape, itemsize = self.tape, self.itemsize
        sizes = (self.left.elements, self.right.elements)

        def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
            return [_scaled(tape, size, itemsize) for size in sizes]

        with tape.scope("lora_activations"):
            out = tape.new(ONE, self.count, itemsize)
        return tape.record(out, (self.left, self.right), (self.left, self.right), backward)

    def weight(self) -> Weight:
        """The sum where a program takes a weight."""
        weight = Weight.__new__(Weight)
        weight.tensor, weight.parameter = self.sum(), None
        return weight


def _scaled(tape: Tape, elements: int, itemsize: int) -> Tensor:
    product = tape.new(ONE, elements, itemsize)
    return tape.like(product)


def _differ(net: Net, itemsize: int) -> bool:
    """Whether adapters of `itemsize` bytes per element have another dtype than the weights: fp16 beside bf16 too."""
    beside = net.choices.precision == "fp16" and net.choices.adapter_dtype == "bf16"
    return itemsize != net.itemsize or beside


def _in_dtype_of_weights(net: Net, x: Tensor) -> Tensor:
    if x.itemsize == net.itemsize and _differ(net, x.itemsize):
        return ops.recast(net.tape, x)
    return ops.to(net.tape, x, net.itemsize)


def _expert_first(net: Net, b: Tensor, itemsize: int) -> Tensor:
    """B (out, r·experts) as (experts, out, r) in `itemsize`; backward the cast back, and a copy in B's own layout."""
    tape, width, size, differs = net.tape, b.itemsize, b.elements, _differ(net, b.itemsize)
    out = tape.like(b, itemsize) if differs else b.alias()

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        cast = tape.new(ONE, size, width) if differs else None
        copy = tape.new(ONE, size, width)
        del cast  # tidy
        return [copy]

    return tape.record(out, (b,), (), backward)


def router(net: Net, module: Module, x: Tensor) -> Tensor:
    """x times the router's weight + s·B·A; saves x besides, since the sum has a gradient: T·H·w."""
    tape, width = net.tape, net.adapter_itemsize
    experts, hidden = module.shape
    rank, count = net.choices.lora_r, experts * hidden
    a = net.weight(rank * hidden, width, trainable=True)
    b = net.weight(rank * experts, width, trainable=True)
    with tape.scope("lora_activations"):
        product = tape.record(
            tape.new(ONE, count, width),
            (b.tensor, a.tensor),
            (),
            lambda g, s: (tape.new(ONE, rank * experts, width), tape.new(ONE, rank * hidden, width)),
        )
        scaled = ops.scale(tape, product)
        del product
        delta = _in_dtype_of_weights(net, scaled)
        del scaled
        tried = ops.shift(tape, delta)
        del tried
        weight = ops.shift(tape, delta)
    if tape.rules.autocast:
        x, weight = ops.to(tape, x, HALF), ops.to(tape, weight, HALF)
    size, narrow, needs_x = (x.monomial, x.elements), x.itemsize, x.requires_grad

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        grad_weight = tape.new(ONE, count, narrow)
        return [tape.new(size[0], size[1], narrow) if needs_x else None, grad_weight]

    saved = (x, weight)
    tape.saves((x, weight), saved, backward)
    out = tape.new(x.monomial, x.elements // hidden * experts, narrow)
    del delta  # tidy
    return tape.record(out, (x, weight), saved, backward)
