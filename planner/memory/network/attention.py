"""Attention cores: what each kernel saves and needs. q, k, v enter as (batch, heads, length, head_dim) views.

Sources: PyTorch aten/src/ATen/native/transformers/cuda/{attention,attention_backward}.cu, flash_attn/flash_api.cpp and
aten/src/ATen/native/transformers/attention.cpp; transformers' integrations/sdpa_attention.py (read 2026-11).
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.memory.engine import norms, ops, products
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import BSS, BSSP, BSU, BUU, BYTE, FP32, HALF, INT64, SS, SSP, TR, TRU, TU, T
from planner.memory.engine.tape import Tape


@dataclass(frozen=True, slots=True)
class Heads:
    """How many heads queries, and keys and values, have, and how wide one is."""

    query: int
    key_value: int
    size: int

    @property
    def grouped(self) -> bool:
        """Whether several query heads share a key and a value."""
        return self.key_value != self.query

    @property
    def groups(self) -> int:
        """Query heads to one of the keys."""
        return self.query // self.key_value

    @property
    def repeated(self) -> Heads:
        """The same with keys and values copied to every query head."""
        return Heads(self.query, self.query, self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a model writes its attention."""

    dropout: float | None = None
    """Probability; None: the model's."""
    causal: bool = True
    softcap: bool = False
    """Whether scores are squeezed by a tanh."""
    fp32_softmax: bool = True
    heads_first: bool = False
    """Whether a concatenation laid q and k out as (batch, heads, length, head_dim) in memory: written out, the product
    needs no copies of them; a kernel's output takes that layout over, and a copy brings it back to tokens first."""


def flash(tape: Tape, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    """Flash attention: output tokens·H·D·w and log-sum-exp 4·tokens·H; saves q, k, v, output, log-sum-exp.

    Backward: dQ, dK, dV; an fp32 accumulator of dQ and the row sums, with length rounded up to 128 and the head to 32;
    with grouped queries dK and dV at the full number of heads first.
    """
    out = tape.like(q)
    lse = tape.new(T, heads.query, FP32)
    size_q, size_k, width = q.elements, k.elements, q.itemsize
    rounded = -(-heads.size // 32) * 32 if heads.size <= 192 else 256

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        row_sums = tape.new(TR, heads.query, FP32)
        accumulator = tape.new(TR, heads.query * rounded, FP32)
        dq = tape.new(T, size_q, width)
        dk, dv = tape.new(T, size_k, width), tape.new(T, size_k, width)
        if heads.grouped:
            wide_k, wide_v = tape.new(T, size_q, width), tape.new(T, size_q, width)
            del wide_k, wide_v  # tidy
        del row_sums, accumulator  # tidy
        return [dq, dk, dv]

    return tape.record(out, (q, k, v), (q, k, v, out.alias(), lse), backward)


def gathered(tape: Tape, x: Tensor) -> Tensor:
    """The tokens of a padded batch taken by index into one row without gaps: a copy, its int64 index saved; backward
    zeros of the whole."""
    index = tape.new(T, 1, INT64)
    out = tape.like(x)
    return tape.record(out, (x,), (index,), lambda g, s: (tape.like(_one(g)),))


def _one(gradients: Gradients) -> Tensor:
    gradient = gradients[0]
    assert gradient is not None
    return gradient


def efficient(tape: Tape, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: Heads) -> Tensor:
    """Memory-efficient attention (the kernel that takes a mask): output and log-sum-exp as flash; also saves the mask.

    `mask` is additive, in the queries' dtype, or a boolean that is turned into one first; it may have the queries'
    gradient. Backward: dQ, dK, dV (and the mask's), row sums, an fp32 accumulator of dQ in tiles of 64 by 64, for heads
    wider than 128 in 16 bit those of dK and dV too; for fp32 inputs the row sums come from a product of full size.
    """
    if mask is not None and mask.itemsize == BYTE:
        mask = tape.new(BSS, 1, q.itemsize)
    if mask is not None and tape.unaligned and tape.rules.target == "cuda":
        mask = aligned(tape, mask)
    out = tape.like(q)
    rows_q, rows_k = (x.monomial for x in (q, k))
    lse = tape.new(rows_q, heads.query, FP32)
    size_q, size_k, size_v, width = q.elements, k.elements, v.elements, q.itemsize
    saved = [q, k, v, out.alias(), lse]
    if mask is not None:
        saved.append(mask)
    biased = mask is not None and mask.requires_grad
    bias_size = (BSSP if tape.unaligned else BSS, heads.query) if biased else None
    tile = heads.query * (-(-heads.size // 64) * 64)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        dq, dk, dv = tape.new(rows_q, size_q, width), tape.new(rows_k, size_k, width), tape.new(rows_k, size_v, width)
        bias = None if bias_size is None else tape.new(*bias_size, width)
        if tape.rules.target != "cuda":  # the CPU's kernel works in a few tiles per thread
            return [dq, dk, dv, bias]
        row_sums = tape.new(rows_q, heads.query, FP32)
        scratch = [tape.new(_rounded(rows_q), tile, FP32)]
        if heads.size > 128 and width == HALF:
            scratch += [tape.new(_rounded(rows_k), tile, FP32) for _ in range(2)]
        if width == FP32:
            scratch.append(tape.new(rows_q, size_q, FP32))
        del row_sums  # tidy
        scratch.clear()
        return [dq, dk, dv, bias]

    return tape.record(out, (q, k, v, mask), saved, backward)


def _rounded(tokens: int) -> int:
    """The monomial of tokens whose sequences are rounded up to 128."""
    return TRU if tokens == TU else TR


def aligned(tape: Tape, mask: Tensor) -> Tensor:
    """A mask with its rows padded to a multiple of 16, and the view without the padding (PyTorch's `pad_bias`).

    Backward: zeros of the padded whole, then what lies outside the padding.
    """
    size, monomial = (mask.monomial, mask.elements), BSSP if mask.monomial in (BSS, BUU, BSU) else SSP
    width, elements = mask.itemsize, mask.elements
    whole = tape.new(monomial, elements, width)
    whole = tape.record(whole, (mask,), (), lambda g, s: (tape.new(*size, width),))
    view = whole.alias()
    return tape.record(view, (whole,), (), lambda g, s: (tape.new(monomial, elements, width),))


def repeat_kv(tape: Tape, x: Tensor, groups: int, kv_heads: int = 0) -> Tensor:
    """Key or value heads copied to every query head; backward sums them: the copy's gradient is a view, then n·w.

    A single head (`kv_heads` = 1) is expanded in place: a view.
    """
    if groups == 1:
        return x
    size, width = x.elements, x.itemsize
    if kv_heads == 1:
        out = x.alias(x.elements * groups)
    else:
        out = tape.new(x.monomial, x.elements * groups, x.itemsize)
    return tape.record(out, (x,), (), lambda g, s: (tape.new(T, size, width),))


def eager(
    tape: Tape, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: Heads, style: Style
) -> tuple[Tensor, Tensor]:
    """Attention as transformers writes it out: scores, scaling, mask, fp32 softmax, dropout, product, copy.

    Returns the output and the weights that were multiplied with v.
    """
    groups, single = heads.groups, heads.key_value == 1
    keys = repeat_kv(tape, k, groups, heads.key_value)
    values = repeat_kv(tape, v, groups, heads.key_value)
    copies = (groups == 1 and not style.heads_first) or (groups > 1 and single)
    weights = products.matmul(tape, q, keys, BSS, heads.query, copy_a=not style.heads_first, copy_b=copies)
    weights = ops.scale(tape, weights)
    if style.softcap:
        weights = ops.scale(tape, weights)
        weights = ops.pointwise(tape, weights, save="output")
        weights = ops.scale(tape, weights)
    if mask is not None:
        weights = ops.add(tape, weights, mask)
    if style.fp32_softmax:
        weights = norms.softmax_fp32(tape, weights, back=q.itemsize)
    else:
        weights = ops.to(tape, norms.softmax(tape, weights), v.itemsize)
    weights = ops.dropout(tape, weights, style.dropout or 0.0)
    copies = groups == 1 or single
    out = products.matmul(tape, weights, values, T, heads.query * heads.size, copy_a=False, copy_b=copies)
    return ops.contiguous(tape, out), weights.alias()


def math(tape: Tape, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: Heads, style: Style) -> Tensor:
    """The composite kernel (fp32 with grouped queries on CUDA; training on Apple's MPS): like eager, in fp32.

    Scores, softmax and product run in fp32 whatever the inputs; q and k are scaled by the root of the scale each; a
    causal mask is made as bool and as fp32 of length². Saved: the copies of q, k, v that enter the products, the
    softmax (twice on its way: result and the copy with fully masked rows cleared).
    """
    narrow, rows = q.itemsize, q.monomial
    if mask is not None and mask.itemsize == BYTE:
        mask = tape.new(mask.monomial, mask.elements, narrow)
    wide_q, wide_k, wide_v = (ops.to(tape, x, FP32) for x in (q, k, v))
    query = ops.scale(tape, wide_q)
    if style.causal and mask is None:
        flags = tape.new(SS, 1, BYTE)
        mask = tape.new(SS, 1, FP32)
        del flags
    copied = not heads.grouped
    keys = repeat_kv(tape, wide_k, heads.groups)
    values = repeat_kv(tape, wide_v, heads.groups)
    weights = products.matmul(tape, query, ops.scale(tape, keys), BSS, heads.query, copy_a=True, copy_b=copied)
    if mask is not None and mask.requires_grad:
        weights = ops.add_(tape, weights, mask)
    weights = safe_softmax(tape, weights)
    weights = ops.dropout(tape, weights, style.dropout or 0.0)
    wide_out = products.matmul(tape, weights, values, rows, heads.query * heads.size, copy_a=False, copy_b=copied)
    out = ops.to(tape, wide_out, narrow)
    returned = tape.new(BSS, heads.query, narrow) if narrow != FP32 else None  # the weights in q's dtype: nobody's
    del returned, wide_out
    del q, k, v, wide_q, wide_k, wide_v, query, keys, values, weights, mask  # the kernel has returned
    return ops.contiguous(tape, out)


def safe_softmax(tape: Tape, x: Tensor) -> Tensor:
    """softmax whose fully masked rows are zero: result, a bool of the scores, the cleared copy, which is saved."""
    if tape.rules.target == "cpu":  # counted from outside, an operator's own temporaries stay unseen there
        out = tape.like(x)
    else:
        first, masked = tape.like(x), tape.like(x, BYTE)
        out = tape.like(x)
        del first, masked  # tidy
    return tape.record(out, (x,), (out.alias(),), lambda g, s: (norms.softmax_gradient(tape, s[0]),))
