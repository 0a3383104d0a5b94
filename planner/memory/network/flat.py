"""Attention over a flat row: sequences of different lengths one after the other, each attending only to itself.

Stack `builtin` runs ragged micro-batches so (trainer.modeling.packing), by one of three kernels. Sums over all
sequences are T = Σ s_i and BSS = Σ s_i²; of one sequence at a time L = s_i and SS = s_i²; TP and QP are the sums up to
and with that sequence. A peak is the largest over all sequences, so the envelope is evaluated once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Node, Storage, Tensor
from planner.memory.engine.monomials import BSS, BSSP, BYTE, FP32, HALF, ONE, QP, SS, SSP, TP, WIDTH, B, L, T, Vector
from planner.memory.engine.tape import Tape
from planner.memory.network import attention
from planner.memory.network.attention import Heads, Style

if TYPE_CHECKING:
    from planner.memory.network.net import Net

VARLEN_ROWS = 128
"""Rows that the ragged kernel's accumulators have more than tokens, for every sequence."""


def attend(net: Net, q: Tensor, k: Tensor, v: Tensor, heads: Heads, style: Style) -> Tensor:
    """trainer.modeling.packing.attention; where q is laid out heads first, the ragged kernel's output is too."""
    tape = net.tape
    rules = tape.rules
    if rules.autocast:
        q, k, v = (ops.to(tape, x, HALF) for x in (q, k, v))
    dropped = bool(style.dropout) and rules.training
    windowed = net.windowed and net.index in net.spec.sliding_layers
    if rules.target == "cpu" and not dropped and not windowed:
        return _in_one_function(tape, q, k, v, heads)
    half = q.itemsize == HALF and heads.size <= 256
    flash = rules.target == "cuda" and rules.flash
    if flash and not dropped and half and heads.size % 8 == 0:
        return _varlen(tape, q, k, v, heads, copied=style.heads_first)

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own, mask = heads, None
        if own.grouped and (windowed or own.size > 256):
            k, v = (attention.repeat_kv(tape, x, own.groups) for x in (k, v))
            own = own.repeated
        if windowed:
            mask = tape.new(BSS, 1, BYTE)
        if flash and half and mask is None:
            return attention.flash(tape, q, k, v, own)
        if (own.grouped and rules.target == "cuda") or rules.target == "mps" or (rules.target == "cpu" and dropped):
            return attention.math(tape, q, k, v, mask, own, replace(style, causal=True))
        return attention.efficient(tape, q, k, v, mask, own)

    return _one_by_one(tape, one, [_split(tape, x) for x in (q, k, v)], heads.query * heads.size)


def _in_one_function(tape: Tape, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    """The CPU's flash kernel, sequence by sequence into one output: saves q, k, v, the output and its log-sum-exp.

    One sequence's pieces at a time: its output, under grouped heads its keys and values at every head; in backward its
    three gradients, and the sum over a group.
    """
    size_q, size_k, size_v, width = q.elements, k.elements, v.elements, q.itemsize
    grouped = heads.grouped

    def repeated() -> list[Tensor]:
        return [tape.new(L, size_q, width) for _ in range(2)] if grouped else []

    out = tape.new(T, size_q, width)
    wide = repeated()
    made, sums = tape.new(L, size_q, width), tape.new(TP, heads.query, FP32)
    del wide, made, sums
    lse = tape.new(T, heads.query, FP32)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        gradients: list[Tensor | None] = [tape.new(T, size, width) for size in (size_q, size_k, size_v)]
        wide = repeated()
        parts = [tape.new(L, size_q, width) for _ in range(3)]
        if grouped:
            parts.append(tape.new(L, size_k, width))
        wide.clear()
        parts.clear()
        return gradients

    return tape.record(out, (q, k, v), (q, k, v, out.alias(), lse), backward)


def _varlen(tape: Tape, q: Tensor, k: Tensor, v: Tensor, heads: Heads, *, copied: bool) -> Tensor:
    """CUDA's flash kernel for sequences of different lengths: as flash, its accumulators 128 rows longer for each.

    PyTorch flash_attn/flash_api.cpp, `mha_varlen_bwd`; torch/nn/attention/varlen.py (read 2026-11).
    """
    size_q, size_k, size_v, width = q.elements, k.elements, v.elements, q.itemsize
    rounded = -(-heads.size // 32) * 32 if heads.size <= 192 else 256
    out, lse = tape.like(q), tape.new(T, heads.query, FP32)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        gradients: list[Tensor | None] = [tape.new(T, size, width) for size in (size_q, size_k, size_v)]
        scratch = [
            tape.new(monomial, factor * heads.query * columns, FP32)
            for monomial, factor in ((T, 1), (B, VARLEN_ROWS))
            for columns in (rounded, 1)
        ]
        if heads.grouped:
            scratch += [tape.new(T, size_q, width) for _ in range(2)]
        if copied:
            scratch.append(tape.new(T, size_q, width))  # the output row by row
        scratch.clear()
        return gradients

    out = tape.record(out, (q, k, v), (q, k, v, out.alias(), lse), backward)
    return ops.contiguous(tape, out) if copied else out


def _split(tape: Tape, x: Tensor) -> Tensor:
    """Views of every sequence; backward puts their gradients together, n·w."""
    size, width = x.elements, x.itemsize
    return tape.record(x.alias(), (x,), (), lambda g, s: (tape.new(T, size, width),))


def _one_by_one(tape: Tape, one: Callable[..., Tensor], inputs: list[Tensor], size: int) -> Tensor:
    """`one` for each sequence, and their outputs put together: T·size.

    Run for one sequence of length L, with what those before it saved standing beside it (in backward: with the
    gradients of those after it too); what one leaves behind per token and per score is what all do.
    """
    rows = _Rows(tape, one, inputs, ([], [], []))
    with tape.ledger.silence():
        before = tuple(tape.ledger.live)
        part, graph = rows.run()
        whole = _change(tape, before)
        del part
        saved = _change(tape, before)
        del graph
    beside = _moved(whole, TP, QP)
    _shift(tape, beside)
    part, graph = rows.run()
    _shift(tape, beside, -1)
    with tape.ledger.silence():
        rest, outputs = _held(tape, _moved(saved, T, BSS)), _held(tape, _moved(_minus(whole, saved), T, BSS))
    out = tape.new(T, size, part.itemsize)
    del part, outputs  # tidy
    sizes = [(x.elements, x.itemsize) if x.requires_grad else None for x in inputs]
    return tape.record(out, inputs, (graph, *rest), partial(_backward, tape, saved, sizes, rows.received))


@dataclass(frozen=True, slots=True)
class _Rows:
    """`one` on views of the inputs that stand for a single sequence; their gradients are `received`."""

    tape: Tape
    one: Callable[..., Tensor]
    inputs: list[Tensor]
    received: tuple[list[Tensor], ...]

    def run(self) -> tuple[Tensor, Tensor]:
        """The output, and what stands for the graph without holding the output."""
        with _apart(self.tape):
            part = self.one(*self._leaves())
        graph = Tensor(self.tape.null_storage, ONE, 0, part.itemsize)
        graph.node, part.node = part.node, None
        return part, graph

    def _leaves(self) -> list[Tensor]:
        made = []
        for number, (x, into) in enumerate(zip(self.inputs, self.received, strict=True)):
            leaf = x.alias()
            leaf.monomial = x.monomial if self.tape.ledger.log_values is not None else L
            leaf.node = Node(-number, (), (), _keep(into)) if x.requires_grad else None
            made.append(leaf)
        return made


def _backward(
    tape: Tape,
    saved: Vector,
    sizes: list[tuple[int, int] | None],
    received: tuple[list[Tensor], ...],
    g: Gradients,
    s: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """Backward through one sequence's graph, with what those after it still hold standing beside it."""
    incoming = g[0]
    assert incoming is not None
    others = _minus(_moved(saved, TP, QP), _moved(saved, T, BSS))
    later = sum(elements * width for elements, width in filter(None, sizes))
    others = _minus(others, _vector({T: -later, TP: later}))
    _shift(tape, others)
    root = s[0].same()
    gradient = incoming.alias()
    if tape.ledger.log_values is None:
        gradient.monomial = L
    with _apart(tape):
        tape.backward(root, gradient)
    del root, gradient  # tidy
    _shift(tape, others, -1)
    for into in received:
        into.clear()
    with tape.ledger.silence():
        return [None if size is None else tape.new(T, size[0], size[1]) for size in sizes]


@contextmanager
def _apart(tape: Tape) -> Iterator[None]:
    """Ops inside are of one sequence, and belong to a graph of their own; to none where a checkpoint drops what it
    saves.
    """
    before = tape.substitution, tape.saving, tape.refilling, tape.ledger.layer, tape.grad_enabled
    tape.grad_enabled = tape.grad_enabled and tape.saving is None
    tape.substitution = {} if tape.ledger.log_values is not None else {T: L, BSS: SS, BSSP: SSP}
    tape.saving = tape.refilling = None
    tape.ledger.layer = 0
    try:
        yield
    finally:
        tape.substitution, tape.saving, tape.refilling, tape.ledger.layer, tape.grad_enabled = before


def _keep(received: list[Tensor]) -> Callable[[Gradients, tuple[Tensor, ...]], list[Tensor | None]]:
    def backward(gradients: Gradients, saved: tuple[Tensor, ...]) -> list[Tensor | None]:
        received.extend(g for g in gradients if g is not None)
        return []

    return backward


def _change(tape: Tape, before: Sequence[int]) -> Vector:
    return tuple(now - then for now, then in zip(tape.ledger.live, before, strict=True))


def _minus(left: Sequence[int], right: Sequence[int]) -> Vector:
    return tuple(x - y for x, y in zip(left, right, strict=True))


def _vector(entries: dict[int, int]) -> Vector:
    return tuple(entries.get(index, 0) for index in range(2 * WIDTH))


def _moved(change: Vector, tokens: int, squares: int) -> Vector:
    """What other sequences hold where one holds `change`: per token and per square of the sum, less its own."""
    padded = BSSP if squares == BSS else squares
    moved = {L: -change[L], SS: -change[SS], SSP: -change[SSP], tokens: change[L], squares: change[SS]}
    moved[padded] = moved.get(padded, 0) + change[SSP]
    return _vector(moved)


def _shift(tape: Tape, delta: Vector, factor: int = 1) -> None:
    scaled = tuple(factor * value for value in delta)
    tape.ledger.shift(scaled, {tape.component: scaled})


def _held(tape: Tape, amounts: Vector) -> list[Tensor]:
    """Tensors of so many bytes (some negative) of each monomial."""
    found = [(monomial, size) for monomial, size in enumerate(amounts[:WIDTH]) if size]
    return [Tensor(Storage(tape.ledger, monomial, size, tape.component), monomial, size, 1) for monomial, size in found]
