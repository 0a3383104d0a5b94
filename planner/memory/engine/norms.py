"""Softmax and the norms as transformers and PyTorch run them; the conventions are those of `ops`."""

from __future__ import annotations

from planner.contract.architecture import NormForm
from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import FP32, HALF, ONE
from planner.memory.engine.ops import first
from planner.memory.engine.tape import Tape
from planner.memory.engine.weight import Weight


def softmax_fp32(tape: Tape, x: Tensor, *, back: int = 0) -> Tensor:
    """softmax(x, dtype=fp32), then cast to `back` bytes, or x's own: bf16 input is converted first (4n), the result
    (4n) is saved.

    CUDA converts fp16 as it goes, without that copy, and its gradient is fp16 at once.
    """
    if tape.rules.fused_half_softmax and x.itemsize == HALF:
        narrow = x.itemsize
        out = tape.like(x, FP32)
        out = tape.record(out, (x,), (out.alias(),), lambda g, s: (softmax_gradient(tape, s[0], narrow),))
        return ops.to(tape, out, back or x.itemsize)
    wide = ops.to(tape, x, FP32)
    out = tape.like(wide)
    out = tape.record(out, (wide,), (out.alias(),), lambda g, s: (softmax_gradient(tape, s[0]),))
    del wide
    return ops.to(tape, out, back or x.itemsize)


def softmax(tape: Tape, x: Tensor) -> Tensor:
    """softmax in x's own dtype: output n·w, saved; backward n·w. Autocast computes it in fp32 and leaves it so."""
    if tape.rules.autocast and x.itemsize == HALF:
        return softmax_fp32(tape, x, back=FP32)
    out = tape.like(x)
    return tape.record(out, (x,), (out.alias(),), lambda g, s: (softmax_gradient(tape, s[0]),))


def softmax_gradient(tape: Tape, result: Tensor, itemsize: int = 0) -> Tensor:
    """softmax's backward: n·w, or n·`itemsize`; on CUDA the product of gradient and result, n·w, beside it while the
    kernel runs (softmax_backward_cuda_out in PyTorch's native/cuda/SoftMax.cu, 2.13).
    """
    made = tape.like(result, itemsize)
    if tape.rules.target == "cuda":
        product = tape.like(result)
        del product  # tidy
    return made


def layer_norm(tape: Tape, x: Tensor, weight: Weight | None, bias: Weight | None, width: int) -> Tensor:
    """native_layer_norm: output n·w, mean and rstd 4 B per row each; saves input, mean, rstd; backward n·w + dW, db."""
    if tape.rules.autocast:
        x = ops.to(tape, x, FP32)
    out = tape.like(x)
    rows = x.elements // width
    mean = tape.new(x.monomial, rows, FP32)
    rstd = tape.new(x.monomial, rows, FP32)
    needs_x = x.requires_grad
    count = weight.tensor.elements if weight is not None and weight.parameter is not None else 0
    weight_width = weight.tensor.itemsize if weight is not None else 0
    has_bias = bias is not None and bias.parameter is not None

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        result: list[Tensor | None] = [tape.like(first(g)) if needs_x else None, None, None]
        if count:
            result[1] = tape.new(ONE, count, weight_width)
        if has_bias:
            result[2] = tape.new(ONE, count, weight_width)
        return result

    inputs = (x, weight.tensor if weight is not None else None, bias.tensor if bias is not None else None)
    saved = (x, mean, rstd) if weight is None else (x, mean, rstd, weight.tensor)
    return tape.record(out, inputs, saved, backward)


def rms_norm(tape: Tape, x: Tensor, weight: Weight, width: int, *, form: NormForm) -> Tensor:
    """Root-mean-square norm as transformers writes it, operator by operator.

    `cast_then_gain`: weight · (fp32 norm cast back); `shifted_gain`: fp32 norm · (1 + weight) in fp32, cast at the
    end; `gain_then_cast`: (weight · fp32 norm) cast at the end. The fp32 copy of x is saved twice over (power and
    product), the normalised x once where the weight trains.
    """
    narrow = x.itemsize
    if form == "shifted_gain":
        wide = ops.to(tape, x, FP32)
        normed = _normed(tape, wide, width)
        del wide
        gain = ops.to(tape, weight.tensor, FP32)
        gain = ops.shift(tape, gain)
        out = ops.mul(tape, normed, gain)
        del normed, gain
        return ops.to(tape, out, narrow)
    hidden = ops.to(tape, x, FP32)
    variance = ops.mean_last(tape, ops.power(tape, hidden), width)
    hidden = ops.mul(tape, hidden, ops.rsqrt(tape, ops.shift(tape, variance)))
    # The fp32 tensor keeps its name while the rest is computed.
    if form == "gain_then_cast":
        return ops.to(tape, ops.mul(tape, weight.tensor, hidden), narrow)
    return ops.mul(tape, weight.tensor, ops.to(tape, hidden, narrow))


def _normed(tape: Tape, x: Tensor, width: int) -> Tensor:
    variance = ops.mean_last(tape, ops.power(tape, x), width)
    return ops.mul(tape, x, ops.rsqrt(tape, ops.shift(tape, variance)))
