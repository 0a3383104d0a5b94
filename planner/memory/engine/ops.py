"""What each PyTorch operator allocates, saves for backward and allocates in backward; one small function per operator.

Formulas follow PyTorch's tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp (read 2026-11).
`n` is the number of elements of the tensor in question, `w` its bytes per element. Backward temporaries of one C++
expression live until the expression ends. Backward rules hold sizes only, never tensors: what they need is `saved`.
A backward gradient takes the dtype of the forward input: where an operator computes it in another, a cast follows.
"""

from __future__ import annotations

from planner.memory.engine.graph import Gradients, Raw, Tensor
from planner.memory.engine.monomials import BSS, BSU, BUU, BYTE, FP32, INT64, ONE, SS, SU, TE, TU, UU, B, C, S, T, U
from planner.memory.engine.tape import Tape
from planner.memory.engine.weight import Weight


def _cast(tape: Tape, gradient: Tensor, itemsize: int) -> Tensor:
    """The gradient in the input's dtype: itself, or a copy of n·itemsize bytes."""
    return gradient if gradient.itemsize == itemsize else tape.like(gradient, itemsize)


def to(tape: Tape, x: Tensor, itemsize: int) -> Tensor:
    """Cast: output n·itemsize; saves nothing; backward a cast of the gradient back. The same dtype is the same
    tensor.
    """
    if x.itemsize == itemsize:
        return x.same()
    back = x.itemsize
    return tape.record(tape.like(x, itemsize), (x,), (), lambda g, s: (tape.like(first(g), back),))


def recast(tape: Tape, x: Tensor) -> Tensor:
    """Cast between fp16 and bf16: output n·w; backward the same."""
    return tape.record(tape.like(x), (x,), (), lambda g, s: (tape.like(first(g)),))


def contiguous(tape: Tape, x: Tensor) -> Tensor:
    """A copy that changes the layout: output n·w; backward passes the gradient on as a view."""
    return tape.record(tape.like(x), (x,), (), lambda g, s: (first(g).alias(),))


def first(gradients: Gradients) -> Tensor:
    """The gradient of an operator's only output."""
    gradient = gradients[0]
    assert gradient is not None
    return gradient


def size_of(x: Tensor) -> tuple[int, int]:
    """Monomial and elements per unit of it."""
    return x.monomial, x.elements


def add(tape: Tape, a: Tensor, b: Tensor, *, wide: int = 0) -> Tensor:
    """a + b: output in the wider dtype, or of `wide` bytes (fp16 and bf16 make fp32); backward hands the same gradient
    to both, cast where a dtype differs.
    """
    wide = max(a.itemsize, b.itemsize, wide)
    wa, wb = a.itemsize, b.itemsize
    full = a if _covers(a, b) else b
    out = tape.new(full.monomial, full.elements, wide)
    needs_a, needs_b = a.requires_grad, b.requires_grad
    size_a, size_b = size_of(a), size_of(b)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        grad = first(g)
        result: list[Tensor | None] = [None, None]
        for index, (needed, size, width) in enumerate(((needs_a, size_a, wa), (needs_b, size_b, wb))):
            if not needed:
                continue
            if size != (grad.monomial, grad.elements):
                result[index] = tape.new(size[0], size[1], width)  # summed over the broadcast dimensions
            elif grad.itemsize != width:
                result[index] = tape.like(grad, width)
            else:
                result[index] = grad.alias()
        return result

    return tape.record(out, (a, b), (), backward)


def _covers(a: Tensor, b: Tensor) -> bool:
    """Whether `a` has the broadcast shape (monomials in the order of growth)."""
    order = {ONE: 0, S: 1, U: 1, C: 2, T: 3, TU: 3, SS: 4, UU: 4, SU: 4, BSS: 5, BUU: 5, BSU: 5, B: 1}
    if a.monomial != b.monomial:
        return order[a.monomial] > order[b.monomial]
    return a.elements >= b.elements


def add_(tape: Tape, a: Tensor, b: Tensor) -> Tensor:
    """a += b: no new bytes; backward as `add`."""
    out = a.alias()
    needs_a, needs_b, wb = a.requires_grad, b.requires_grad, b.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        grad = first(g)
        return [grad.alias() if needs_a else None, _cast(tape, grad, wb).alias() if needs_b else None]

    return tape.record(out, (a, b), (), backward)


def mul(tape: Tape, a: Tensor, b: Tensor, *, wide: int = 0) -> Tensor:
    """a·b: output n·w in the wider dtype (or `wide`, as in `add`); saves each factor that the other's gradient needs;
    backward one product each.

    A factor that was broadcast gets its product at full size first, then the sum.
    """
    wide = max(a.itemsize, b.itemsize, wide)
    full = a if _covers(a, b) else b
    needs = (a.requires_grad, b.requires_grad)
    sizes = (size_of(a), size_of(b))
    widths = (a.itemsize, b.itemsize)
    saved: list[Tensor] = []
    if needs[0]:
        saved.append(b)
    if needs[1]:
        saved.append(a)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | Raw | None]:
        grad = first(g)
        made = [tape.like(grad, wide) if needed else None for needed in needs]
        return [
            None if product is None else Raw(product, size, width)
            for product, size, width in zip(made, sizes, widths, strict=True)
        ]

    tape.saves((a, b), saved, backward)
    out = tape.new(full.monomial, full.elements, wide)
    return tape.record(out, (a, b), saved, backward)


def scale(tape: Tape, x: Tensor) -> Tensor:
    """x times a number: output n·w; saves nothing; backward n·w."""
    return tape.record(tape.like(x), (x,), (), lambda g, s: (tape.like(first(g)),))


def shift(tape: Tape, x: Tensor, other_itemsize: int = 0) -> Tensor:
    """x plus a number, or a frozen vector of `other_itemsize`: output n·w in the wider dtype; saves nothing; backward
    passes the gradient on."""
    narrow = x.itemsize
    out = tape.like(x, max(narrow, other_itemsize))
    return tape.record(out, (x,), (), lambda g, s: (_cast(tape, first(g), narrow).alias(),))


def neg(tape: Tape, x: Tensor) -> Tensor:
    """-x: output n·w; backward n·w."""
    return scale(tape, x)


def power(tape: Tape, x: Tensor) -> Tensor:
    """x**k: output n·w; saves x; backward `grad · (k · x**(k-1))`, three tensors of n·w in one expression.

    Autocast computes powers in fp32.
    """
    if tape.rules.autocast:
        x = to(tape, x, FP32)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        lower = tape.like(s[0])
        scaled = tape.like(s[0])
        result = tape.like(s[0])
        del lower, scaled  # tidy
        return [result]

    return tape.record(tape.like(x), (x,), (x,), backward)


def mean_last(tape: Tape, x: Tensor, width: int) -> Tensor:
    """Mean over the last dimension of `width`: output n/width·w; backward the expanded gradient divided: n·w."""
    size = size_of(x)
    out = tape.new(x.monomial, x.elements // width, x.itemsize)
    return tape.record(out, (x,), (), lambda g, s: (tape.new(size[0], size[1], first(g).itemsize),))


def rsqrt(tape: Tape, x: Tensor) -> Tensor:
    """1/sqrt(x): output n·w, saved; backward `-0.5 · grad · result**3`: three small tensors."""
    out = tape.like(x)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        first = tape.like(s[0])
        cube = tape.like(s[0])
        result = tape.like(s[0])
        del first, cube  # tidy
        return [result]

    return tape.record(out, (x,), (out.alias(),), backward)


def pointwise(tape: Tape, x: Tensor, *, save: str = "input") -> Tensor:
    """One fused activation kernel (silu, gelu save their input; tanh, sigmoid, relu their result): output and
    backward n·w.
    """

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (tape.like(first(g)),)

    if save == "input":
        tape.saves((x,), (x,), backward)
    out = tape.like(x)
    return tape.record(out, (x,), (x,) if save == "input" else (out.alias(),), backward)


def concat(tape: Tape, *parts: Tensor) -> Tensor:
    """cat: output the sum of n·w; backward narrow views of the gradient."""
    out = tape.new(parts[0].monomial, sum(part.elements for part in parts), max(part.itemsize for part in parts))
    sizes = [part.elements for part in parts]
    return tape.record(out, parts, (), lambda g, s: [first(g).alias(size) for size in sizes])


def part(tape: Tape, x: Tensor, elements: int) -> Tensor:
    """A slice: a view; backward zeros of the whole, filled: n_whole·w."""
    size = size_of(x)
    out = x.alias(elements)
    return tape.record(out, (x,), (), lambda g, s: (tape.new(size[0], size[1], first(g).itemsize),))


def split(tape: Tape, x: Tensor, *elements: int) -> list[Tensor]:
    """split/chunk/unbind: views; backward one concatenation of the gradients: n_whole·w (zeros where none came)."""
    size, width = size_of(x), x.itemsize
    outs = [x.alias(count) for count in elements]
    tape.record_many(outs, (x,), (), lambda g, s: (tape.new(size[0], size[1], width),))
    return outs


def dropout(tape: Tape, x: Tensor, probability: float) -> Tensor:
    """Dropout in training: output n·w and a mask, saved; backward n·w. Probability 0 is the same tensor.

    CUDA's fused kernel keeps a mask of 1 byte per element; the CPU's composite keeps one in the tensor's dtype.
    """
    if probability <= 0 or not tape.rules.training:
        return x.same()
    out = tape.like(x)
    mask = tape.like(x, BYTE) if tape.rules.target == "cuda" else tape.like(x)
    return tape.record(out, (x,), (mask,), lambda g, s: (tape.like(first(g)),))


def embedding(tape: Tape, weight: Weight, width: int, monomial: int = T) -> Tensor:
    """Row lookup: output tokens·width·w; backward a dense gradient of the whole table.

    CUDA sorts the tokens first and sums in parts of ten: 1.1·tokens·width·4 and six index arrays, beside the gradient
    (native/cuda/EmbeddingBackwardKernel.cu, 2.13). Up to 3072 tokens another kernel runs.
    """
    out = tape.new(monomial, width, weight.tensor.itemsize)
    count, itemsize = weight.tensor.elements, weight.tensor.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> tuple[Tensor]:
        gradient = tape.new(ONE, count, itemsize)
        if tape.rules.target == "cuda" and monomial == T:
            sums = tape.new(TE, width * FP32 * 11 // 10 + 6 * INT64, 1)
            del sums  # tidy
        return (gradient,)

    return tape.record(out, (weight.tensor,), (), backward)


def rotary(tape: Tape, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x·cos + rotate_half(x)·sin with transformers' operators: two products, a negation, a concatenation, a sum.

    Backward of the two half slices makes zeros of the whole, twice.
    """
    first = mul(tape, x, cos)
    second = mul(tape, rotate_half(tape, x), sin)
    return add(tape, first, second)


def rotate_half(tape: Tape, x: Tensor) -> Tensor:
    """cat(-x2, x1) of the two halves."""
    left = part(tape, x, x.elements // 2)
    right = part(tape, x, x.elements // 2)
    return concat(tape, neg(tape, right), left)


def activation(tape: Tape, x: Tensor, name: str) -> Tensor:
    """The activation functions of transformers' ACT2FN: fused kernels, or several operators where it writes them
    out.
    """
    # Nested as the original expressions are, so that operands die when theirs do.
    if name == "gelu_new":
        return mul(
            tape,
            scale(tape, x),
            shift(tape, pointwise(tape, scale(tape, add(tape, x, scale(tape, power(tape, x)))), save="output")),
        )
    if name == "gelu_fast":
        return mul(
            tape,
            scale(tape, x),
            shift(
                tape,
                pointwise(tape, mul(tape, scale(tape, x), shift(tape, mul(tape, scale(tape, x), x))), save="output"),
            ),
        )
    if name == "quick_gelu":
        return mul(tape, x, pointwise(tape, scale(tape, x), save="output"))
    if name in ("relu", "sigmoid", "tanh"):
        return pointwise(tape, x, save="output")
    if name in ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_accurate", "gelu_10"):
        return pointwise(tape, x)
    from planner.contract.errors import NotModelled

    raise NotModelled(f"activation function {name!r} is not modelled")
