"""The lean step of stack `builtin` on the tape, statement by statement as trainer.modeling.lean runs it.

R is the number of tokens that a piece handles at a time (trainer.modeling.lean.rows.ROWS, or all of them if fewer), RX
that of the second one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Node, Tensor
from planner.memory.engine.monomials import FP32, HALF, ONE, RX, TU, TX, R, T
from planner.memory.engine.tape import Tape
from planner.memory.engine.weight import Weight

if TYPE_CHECKING:
    from planner.contract.spec import Module
    from planner.memory.network.net import Net


def _one(gradients: Gradients) -> Tensor:
    gradient = gradients[0]
    assert gradient is not None
    return gradient


class FrozenLayer:
    """The frozen layer under an adapter: its product, and the product with its transpose."""

    def __init__(self, net: Net, module: Module, *, quantized: bool) -> None:
        self.tape = net.tape
        self.count = module.in_features * module.out_features
        self.storage = net.storage_itemsize
        self.own = net.itemsize
        self.quantized = quantized
        self.nested = net.choices.quantization == "nf4-double"
        self.int8 = net.choices.quantization == "int8"
        self.out_width = module.out_features

    def weight(self, itemsize: int) -> Tensor | None:
        """A temporary copy of the weight: de-quantised, or cast where the product runs in another dtype."""
        if self.quantized and self.int8:
            unpacked = self.tape.new(ONE, self.count, itemsize)
            factors = self.tape.new(ONE, self.out_width, FP32)
            del factors  # tidy
            return unpacked
        if self.quantized:
            scales = self.tape.new(ONE, self.count // 64, FP32) if self.nested else None
            weight = self.tape.new(ONE, self.count, self.storage)
            del scales  # tidy
            return weight if itemsize == self.storage else self.tape.like(weight, itemsize)
        return None if itemsize == self.own else self.tape.new(ONE, self.count, itemsize)

    def product(self, monomial: int, elements: int, itemsize: int) -> Tensor:
        """A result of the product or of the product with the transpose."""
        weight = self.weight(itemsize)
        out = self.tape.new(monomial, elements, itemsize)
        self.tape.ledger.product()
        del weight  # tidy
        return out


def lora(net: Net, module: Module, x: Tensor, a: Weight, b: Weight, *, quantized: bool) -> Tensor:
    """base(x) + scaling·B(A(dropout(x))): saves x and tokens·r·w.

    Forward: the output tokens·out·w; with dropout a mask of R·in·w at a time. Backward: dX tokens·in·w, and with
    dropout two tensors of R·in·w; dA and dB; rank-sized pieces.
    """
    tape, rank = net.tape, net.choices.lora_r
    width, out_width = module.in_features, module.out_features
    itemsize = HALF if tape.rules.autocast else net.compute_itemsize(x) if quantized else x.itemsize
    narrow = ops.to(tape, x, itemsize)
    base = FrozenLayer(net, module, quantized=quantized)
    rows = narrow.elements // width
    monomial, dropped = narrow.monomial, net.choices.lora_dropout > 0 and tape.rules.training
    out = base.product(monomial, rows * out_width, itemsize)
    low = tape.new(monomial, rows * rank, itemsize)
    small = tape.new(ONE, rank * width, itemsize) if a.tensor.itemsize != itemsize else None
    if dropped:
        mask = tape.new(R, width, itemsize)
        del mask
    wide = tape.new(ONE, rank * out_width, itemsize) if b.tensor.itemsize != itemsize else None
    del small, wide  # tidy
    needs_x = narrow.requires_grad
    size, a_width, b_width = (monomial, narrow.elements), a.tensor.itemsize, b.tensor.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        grad_b = _transposed_const(tape, rank * out_width, itemsize, b_width)
        grad_low = tape.new(monomial, rows * rank, itemsize)
        small = tape.new(ONE, rank * width, itemsize) if a_width != itemsize else None
        grad_x = base.product(size[0], size[1], itemsize) if needs_x else None
        if dropped:
            grad_a = tape.new(ONE, rank * width, a_width)
            mask = tape.new(R, width, itemsize)
            if needs_x:
                share = tape.new(R, width, itemsize)
                del share
            piece = _cast_const(tape, rank * width, itemsize, a_width)
            del mask, piece  # tidy
        else:
            grad_a = _cast_const(tape, rank * width, itemsize, a_width)
        del grad_low, small  # tidy
        return [grad_x, grad_a, grad_b]

    tape.record(out, (narrow, a.tensor, b.tensor), (narrow, low, a.tensor, b.tensor), backward)
    del low  # tidy
    return out if tape.rules.autocast else ops.to(tape, out, x.itemsize)


def _cast_const(tape: Tape, elements: int, itemsize: int, to_itemsize: int) -> Tensor:
    """A small product and its cast."""
    made = tape.new(ONE, elements, itemsize)
    return made if itemsize == to_itemsize else tape.like(made, to_itemsize)


def _transposed_const(tape: Tape, elements: int, itemsize: int, to_itemsize: int) -> Tensor:
    """A small product that is made transposed, and its copy the right way round."""
    made = tape.new(ONE, elements, itemsize)
    return tape.like(made, to_itemsize)


@dataclass(frozen=True, slots=True)
class _Mlp:
    """The end of an MLP: its activation, the product with the second factor, its last linear with the adapter."""

    tape: Tape
    base: FrozenLayer
    name: str
    """The activation."""
    rows: int
    """Per unit of T."""
    width: int
    out_width: int
    rank: int
    itemsize: int
    a_itemsize: int
    b_itemsize: int
    gated: bool
    adapted: bool
    dropped: bool

    def forward(self) -> None:
        """What comes and goes while two pieces are made."""
        tape, width, itemsize = self.tape, self.width, self.itemsize
        whole = None
        for piece in (R, RX):
            made = _activation_forward(tape, piece, width, itemsize, self.name)
            result = self.base.product(piece, self.out_width, itemsize)
            if whole is None:  # the output, which the only piece's result is itself
                whole = tape.new(TX, self.rows * self.out_width, itemsize)
            if self.adapted:
                small = tape.new(ONE, self.rank * width, itemsize) if self.a_itemsize != itemsize else None
                mask = tape.new(piece, width, itemsize) if self.dropped else None
                del mask, small
            del made, result
        del whole  # tidy

    def backward(self, g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Gradients of the two factors, and of A and B."""
        tape, rank, width, itemsize = self.tape, self.rank, self.width, self.itemsize
        grad_first = tape.new(T, self.rows * width, itemsize)
        grad_second = tape.new(T, self.rows * width, itemsize) if self.gated else None
        grad_a = tape.new(ONE, rank * width, self.a_itemsize) if self.adapted else None
        elements = rank * self.out_width
        grad_b = _transposed_const(tape, elements, itemsize, self.b_itemsize) if self.adapted else None
        tape.grad_enabled = True
        leaf = grad_first.alias(width)
        leaf.monomial = tape.substitution.get(R, R)
        received: list[Tensor] = []
        leaf.node = Node(0, (), (), _keep(received))
        with tape.outside_autocast():  # backward runs there
            result = ops.activation(tape, leaf, self.name)
        tape.grad_enabled = False
        product = self.base.product(R, width, itemsize)
        if self.adapted:
            self._adapter_backward()
        tape.backward(result, product.alias())
        del result, leaf, product  # tidy
        received.clear()
        return [grad_first, grad_second, grad_a, grad_b]

    def _adapter_backward(self) -> None:
        """A piece of the activated values, its share through A, its mask; all gone again."""
        tape, width, itemsize = self.tape, self.width, self.itemsize
        made = tape.new(R, width, itemsize) if self.gated else None
        part = tape.new(R, self.rank, itemsize)
        small = tape.new(ONE, self.rank * width, itemsize) if self.a_itemsize != itemsize else None
        if self.dropped:
            mask = tape.new(R, width, itemsize)
            share = tape.new(R, width, itemsize)
            del share
            piece = _cast_const(tape, self.rank * width, itemsize, self.a_itemsize)
            del mask, piece  # tidy
        del made, part, small  # tidy


def activated(
    net: Net,
    module: Module,
    first: Tensor,
    second: Tensor | None,
    adapter: tuple[Weight, Weight] | None,
    *,
    quantized: bool,
) -> Tensor:
    """last(act(first)·second) with its adapter: saves first, second and tokens·r·w; the activation is made again.

    Everything between is made for R tokens at a time. Backward: the gradients of first and second, and per piece the
    activation's own graph, the product with the weight, and with an adapter the activated piece, its mask and a share.
    """
    tape, rank = net.tape, net.choices.lora_r
    width, itemsize = module.in_features, first.itemsize
    a, b = (None, None) if adapter is None else (weight.tensor for weight in adapter)
    mlp = _Mlp(
        tape=tape,
        base=FrozenLayer(net, module, quantized=quantized),
        name=net.spec.activation,
        rows=first.elements // width,
        width=width,
        out_width=module.out_features,
        rank=rank,
        itemsize=itemsize,
        a_itemsize=itemsize if a is None else a.itemsize,
        b_itemsize=itemsize if b is None else b.itemsize,
        gated=second is not None,
        adapted=adapter is not None,
        dropped=adapter is not None and net.choices.lora_dropout > 0 and tape.rules.training,
    )
    low = None if adapter is None else tape.new(T, mlp.rows * rank, itemsize)
    mlp.forward()
    out = tape.new(T, mlp.rows * mlp.out_width, itemsize)
    saved = [tensor for tensor in (first, second, low) if tensor is not None]
    return tape.record(out, (first, second, a, b), saved, mlp.backward)


def _keep(received: list[Tensor]) -> Callable[[Gradients, tuple[Tensor, ...]], list[Tensor | None]]:
    def backward(gradients: Gradients, saved: tuple[Tensor, ...]) -> list[Tensor | None]:
        received.extend(g for g in gradients if g is not None)
        return []

    return backward


def _activation_forward(tape: Tape, piece: int, width: int, itemsize: int, name: str) -> Tensor:
    """act of a piece, without a graph, in the piece's dtype; its operands are views of what is there."""
    view = Tensor(tape.null_storage, piece, width, itemsize)
    return ops.to(tape, ops.activation(tape, view, name), itemsize)


def rms_norm(tape: Tape, x: Tensor, weight: Weight, width: int, *, late: bool, kept: bool = False) -> Tensor:
    """Saves x, or where they are `kept` the normed values, 4·n, and one fp32 number per token.

    Forward: an fp32 copy of x where x is 16-bit (in which the normed values are made), its square, the output; kept
    values are not written over. Backward: the normed values unless kept, an fp32 copy of the gradient, their product,
    dX; dW's product where the weight trains.
    """
    rows = x.elements // width
    half = x.itemsize == HALF
    wide = tape.like(x, FP32) if half else None
    square = tape.like(x, FP32)
    inverse = tape.new(x.monomial, rows, FP32)
    del square
    saved = x
    if kept:
        saved = wide if wide is not None else tape.like(x, FP32)
        product = tape.like(x, FP32) if half and late else None
        out = tape.like(x)
        del product  # tidy
    else:
        out = tape.like(x)
    del wide  # tidy
    trains = weight.parameter is not None
    needs_x, size, itemsize = x.requires_grad, (x.monomial, x.elements), x.itemsize
    count, weight_width = weight.tensor.elements, weight.tensor.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        copy = tape.new(size[0], size[1], FP32) if half and not kept else None
        normed = None if kept else tape.new(size[0], size[1], FP32)
        del copy
        grad = tape.new(size[0], size[1], FP32) if half else None
        grad_weight = None
        if trains:
            product = tape.new(size[0], size[1], FP32)
            grad_weight = tape.new(ONE, count, weight_width)
            del product
        if not needs_x:
            return [None, grad_weight]
        if grad is None:
            grad = tape.new(size[0], size[1], FP32)
        product = tape.new(size[0], size[1], FP32)
        del product
        result = tape.new(size[0], size[1], itemsize) if half else grad
        del normed, grad  # tidy
        return [result, grad_weight]

    return tape.record(out, (x, weight.tensor), (saved, inverse, weight.tensor), backward)


def seeded_dropout(tape: Tape, x: Tensor, probability: float, width: int) -> Tensor:
    """Output n·w and a mask of R·width·w at a time; saves nothing; backward the same."""
    if probability <= 0:
        return x.same()

    def masked(source: Tensor) -> Tensor:
        out = tape.like(source)
        mask = tape.new(R if source.monomial in (T, TU) else source.monomial, width, source.itemsize)
        del mask  # tidy
        return out

    return tape.record(masked(x), (x,), (), lambda g, s: (masked(_one(g)),))
