"""How tokens find their experts: the best few of all, weights that sum to one, rows taken by index."""

from __future__ import annotations

from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import FP32, INT64, T
from planner.memory.network.net import Net


def top_k(net: Net, chances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """topk: values and int64 indices, which backward keeps; backward zeros of the whole."""
    tape, size = net.tape, chances.elements
    values = tape.new(T, count, chances.itemsize)
    indices = tape.new(T, count, INT64)
    tape.record(values, (chances,), (indices.alias(),), lambda g, s: (tape.new(T, size, FP32),))
    return values, indices


def normalised(net: Net, values: Tensor) -> Tensor:
    """values /= their sum, in place: saves the sum and a copy of the old values; backward both products and sums."""
    tape, size = net.tape, values.elements
    total = tape.new(T, 1, FP32)
    if not values.requires_grad:
        return values
    before = tape.like(values)
    out = values.alias()

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        return [tape.new(T, size, FP32)]

    return tape.record(out, (values,), (before, total), backward)


def gather(net: Net, x: Tensor, monomial: int, elements: int, index: Tensor) -> Tensor:
    """x[index]: the rows copied; saves the index; backward zeros like x, into which the gradients are added."""
    tape, width = net.tape, x.itemsize
    size = (x.monomial, x.elements)
    out = x.alias(elements) if tape.ends_recompute() else tape.new(monomial, elements, width)
    return tape.record(out, (x,), (index,), lambda g, s: (tape.new(size[0], size[1], width),))
