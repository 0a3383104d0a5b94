"""Matrix products, and the 16-bit copies that autocast makes of their operands; read as `ops` is, with its words."""

from __future__ import annotations

from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import HALF, ONE
from planner.memory.engine.ops import contiguous, size_of, to
from planner.memory.engine.tape import Tape
from planner.memory.engine.weight import Weight


def linear(
    tape: Tape,
    x: Tensor,
    weight: Weight,
    out_features: int,
    in_features: int,
    bias: Weight | None = None,
    *,
    transposed: bool = False,
) -> Tensor:
    """x·Wᵀ + b: output tokens·out·w; saves W where x needs a gradient and x where W does; backward dX then dW.

    `x` has elements = tokens-coefficient · in_features. Under autocast x and W are cast to 16 bit first; a cast of a
    trained W is kept until autocast ends, one of a frozen W, or of its transpose (`transposed`: code that writes
    x @ W.T), as long as backward needs it.
    """
    if tape.rules.autocast:
        weight = _cast_weight(tape, weight, cached=not transposed)  # gcc evaluates arguments from the last to the first
        x = _cast_input(tape, x)
    outputs = x.elements * out_features // in_features
    needs_x, parameter = x.requires_grad, weight.parameter
    saved: list[Tensor] = []
    if parameter is not None:
        saved.append(x)
    if needs_x:
        saved.append(weight.tensor)
    size, width = size_of(x), x.itemsize
    count, weight_width = weight.tensor.elements, weight.tensor.itemsize
    bias_size = bias.tensor.elements if bias is not None and bias.parameter is not None else 0
    bias_width = bias.tensor.itemsize if bias is not None else 0

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        result: list[Tensor | None] = [None, None, None]
        if needs_x:
            result[0] = tape.new(size[0], size[1], width)
            tape.ledger.product()
        if parameter is not None:
            result[1] = tape.new(ONE, count, weight_width)
            tape.ledger.product()
        if bias_size:
            result[2] = tape.new(ONE, bias_size, bias_width)
        return result

    inputs = (x, weight.tensor, bias.tensor if bias is not None else None)
    tape.saves(inputs, saved, backward)
    out = tape.new(x.monomial, outputs, x.itemsize)
    tape.ledger.product()
    return tape.record(out, inputs, saved, backward)


def _cast_input(tape: Tape, x: Tensor) -> Tensor:
    """The 16-bit copy that autocast makes of an activation: n·2. That of a leaf (embeddings which ask for a gradient)
    is kept until autocast ends (ATen/autocast_mode.cpp, cached_cast), and the leaf with it (measured, torch 2.13).
    """
    if x.itemsize == HALF or not x.storage.leaf:
        return to(tape, x, HALF)
    key = id(x.storage)
    found = tape.autocast_cache.get(key)
    if found is None:
        found = tape.autocast_cache[key] = (to(tape, x, HALF), tape.ledger.layer)
        tape.autocast_cache[-key] = (x.alias(), tape.ledger.layer)
    return found[0].same()


def _cast_weight(tape: Tape, weight: Weight, *, cached: bool) -> Weight:
    """The 16-bit copy that autocast makes of an fp32 weight: n·2, and its gradient cast back to fp32.

    Those of trained weights are `cached` until autocast ends, in an evaluation too, but where a view of the weight is
    cast.
    """
    if weight.tensor.itemsize == HALF:
        return weight
    key = id(weight.parameter)
    found = tape.autocast_cache.get(key) if weight.parameter is not None else None
    held = found[0] if found is not None else None
    del found  # tidy
    copy = Weight.__new__(Weight)
    if held is None:
        source = weight.tensor
        held = tape.new(ONE, source.elements, HALF)
        count, width = source.elements, source.itemsize
        tape.record(held, (source,), (), lambda g, s: (tape.new(ONE, count, width),))
        if cached and weight.parameter is not None and (tape.grad_enabled or not tape.rules.training):
            tape.autocast_cache[key] = (held.same(), tape.ledger.layer)
    copy.tensor = held.same()
    copy.parameter = weight.parameter
    return copy


def matmul(
    tape: Tape, a: Tensor, b: Tensor, out_monomial: int, out_elements: int, *, copy_a: bool, copy_b: bool
) -> Tensor:
    """Batched matrix product. Operands whose batch and head dimensions cannot be merged are copied first, and it is the
    copies that backward keeps; with one sequence they always can. Backward one tensor of each operand's size."""
    if tape.rules.autocast:
        a, b = to(tape, a, HALF), to(tape, b, HALF)
    left = contiguous(tape, a) if copy_a and not tape.rules.single_sequence else a
    right = contiguous(tape, b) if copy_b and not tape.rules.single_sequence else b
    out = tape.new(out_monomial, out_elements, a.itemsize)
    tape.ledger.product()
    needs = (left.requires_grad, right.requires_grad)
    sizes = (size_of(left), size_of(right))
    width = a.itemsize
    saved: list[Tensor] = []
    if needs[0]:
        saved.append(right)
    if needs[1]:
        saved.append(left)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        return [tape.new(sizes[i][0], sizes[i][1], width) if needs[i] else None for i in range(2)]

    return tape.record(out, (left, right), saved, backward)
