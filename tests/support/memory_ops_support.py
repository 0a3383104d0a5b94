"""One operator run twice, by PyTorch and on the tape, and the bytes that live at its three moments.

Either way the inputs are made by an upstream node that drops their gradients, and the output goes into a node that
keeps
nothing and hands a dense gradient back. The three figures are live bytes, weights left out: the largest during forward
(inputs held by the caller), what autograd alone keeps between forward and backward, the largest during backward.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.memory.engine.graph import Node, Tensor
from planner.memory.engine.monomials import BSS, ONE, SS, TL, WIDTH, S, T
from planner.memory.engine.rules import Rules
from planner.memory.engine.tape import Tape
from planner.memory.engine.values import multipliers
from trainer.trace import int8, operators, scratch
from trainer.trace.fakes import quantization_tensors
from trainer.trace.recorder import StepRecorder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "bool": torch.bool}
ITEMSIZES = {"fp32": 4, "bf16": 2, "bool": 1}
BATCH, LENGTH = 2, 192

Figures = tuple[int, int, int]
"""Bytes: largest in forward, kept for backward, largest in backward."""


@dataclass(frozen=True)
class Input:
    """A tensor that enters an operator; letters in its shape are the batch (B), the length (S), the length - 1 (L)."""

    shape: tuple[Any, ...]
    dtype: str = "fp32"
    grad: bool = True

    def sizes(self, batch: int, length: int) -> tuple[int, ...]:
        """The shape in numbers."""
        values = {"B": batch, "S": length, "L": length - 1}
        return tuple(values.get(x, x) for x in self.shape)

    @property
    def monomial(self) -> int:
        """Index of the tape's monomial."""
        letters = "".join(sorted(x for x in self.shape if isinstance(x, str)))
        return {"": ONE, "S": S, "BS": T, "BSS": BSS, "SS": SS, "BL": TL}[letters]

    @property
    def elements(self) -> int:
        """Elements per unit of the monomial."""
        return int(np.prod([x for x in self.shape if isinstance(x, int)], dtype=np.int64))


@dataclass(frozen=True)
class Op:
    """An operator as PyTorch runs it and as the tape does."""

    name: str
    inputs: tuple[Input, ...]
    output: Input
    torch: Callable[..., Any]
    tape: Callable[..., Tensor]
    parameters: tuple[torch.nn.Parameter, ...] = ()
    device: str = "cpu"
    """`cuda`: on fake tensors with CUDA's operators; `cpu`: for real."""
    autocast: bool = False
    batch: int = BATCH
    length: int = LENGTH
    slack: int = 64
    """Bytes by which the figures may differ: scalars that the tape leaves out, or what a case names."""
    module: Any = field(default=None, compare=False)
    """Whose parameters count as weights."""
    mode: Any = field(default=None, compare=False)
    """The fake mode in which the module was made; None for a new one."""


class _Source(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, sizes: Any, dtype: Any) -> torch.Tensor:
        return torch.zeros(sizes, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return None, None, None


class _Sink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.sizes, ctx.dtype = x.shape, x.dtype
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return torch.zeros(ctx.sizes, dtype=ctx.dtype)


@contextlib.contextmanager
def _device(op: Op, recorder: StepRecorder) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if op.device == "cuda":
            from trainer.trace.autocast import cuda_autocast_rules

            recorder.scratch_for(scratch.cuda_scratch() | int8.scratch())
            recorder.stand_in_for({torch.ops.aten._grouped_mm.default: scratch.grouped_mm} | int8.stand_ins())
            changes = operators.device_operators("cuda", "auto") + int8.readable_weights() + int8.cuda_matmul()
            stack.enter_context(operators.replaced(changes))
            stack.enter_context(cuda_autocast_rules())
            stack.enter_context(op.mode or FakeTensorMode(allow_non_fake_inputs=True))
            from trainer.modeling.lean import apply as lean

            stack.enter_context(operators.replaced([(lean, "draw_seed", lambda: 0)]))
        stack.enter_context(recorder)
        yield


def run_torch(op: Op) -> Figures:
    """The operator's figures by PyTorch."""
    recorder = StepRecorder()
    with _device(op, recorder):
        for parameter in _parameters(op):
            recorder.take(parameter, "weights", "")
        leaf = torch.zeros((), requires_grad=True)
        base = recorder.current
        inputs = [
            _Source.apply(leaf, x.sizes(op.batch, op.length), DTYPES[x.dtype])
            if x.grad
            else torch.zeros(x.sizes(op.batch, op.length), dtype=DTYPES[x.dtype])
            for x in op.inputs
        ]
        recorder.enter("forward")
        with torch.autocast("cpu", torch.bfloat16, enabled=op.autocast):
            out = op.torch(*inputs, *op.parameters)
        recorder.enter("output")
        assert tuple(out.shape) == op.output.sizes(op.batch, op.length), (op.name, out.shape)
        assert out.dtype == DTYPES[op.output.dtype], (op.name, out.dtype)
        value = _Sink.apply(out)
        del out
        inputs.clear()
        recorder.enter("kept")
        kept = recorder.current
        recorder.enter("backward")
        value.backward()
        recorder.enter("end")
        figures = (recorder.instants["forward"] - base, kept - base, recorder.instants["backward"] - base)
    recorder.forget()
    for parameter in _parameters(op):
        parameter.grad = None
    return figures


def _parameters(op: Op) -> list[torch.Tensor]:
    if op.module is None:
        return list(op.parameters)
    packed = [tensor for _, tensor in quantization_tensors(op.module)]
    return [*op.parameters, *op.module.parameters(), *op.module.buffers(), *packed]


def run_tape(op: Op, tape: Tape | None = None) -> Figures:
    """The operator's figures on the tape; it gets the tape and the inputs."""
    tape = tape or Tape(Rules(target=op.device))
    tape.rules = replace(tape.rules, autocast=op.autocast)
    base = np.array(tape.ledger.live)
    inputs = [_tape_input(tape, x) for x in op.inputs]
    tape.ledger.begin("forward")
    tape.ledger.mark()
    out = op.tape(tape, *inputs)
    tape.leave_autocast()
    forward = tape.ledger.segments[-1].events
    size, width = (out.monomial, out.elements), out.itemsize
    value = tape.record(tape.new(ONE, 1, 4), (out,), (), lambda g, s: (tape.new(*size, width),))
    del out
    inputs.clear()
    tape.ledger.begin("kept")
    tape.ledger.mark()
    kept = tape.ledger.segments[-1].events
    tape.ledger.begin("backward")
    tape.backward(value, tape.new(ONE, 1, 4))
    backward = [event for segment in tape.ledger.segments if segment.name == "backward" for event in segment.events]
    values = multipliers(np.array([op.batch]), np.array([op.length]), np.array([0]), 64)[0]

    def largest(events: Sequence[Any]) -> int:
        return max(round(float(values @ (np.array(event) - base))) for event in events)

    assert len(values) == 2 * WIDTH
    figures = largest(forward), largest(kept), largest(backward)
    tape.ledger.closed = True
    return figures


def _tape_input(tape: Tape, x: Input) -> Tensor:
    tensor = tape.new(x.monomial, x.elements, ITEMSIZES[x.dtype])
    if x.grad:
        tape.sequence += 1
        tensor.node = Node(tape.sequence, (), (), lambda g, s: ())
    return tensor


def agrees(op: Op, tape: Tape | None = None) -> None:
    """Asserts that both give the same figures."""
    real, modelled = run_torch(op), run_tape(op, tape)
    named = zip(("forward", "kept", "backward"), real, modelled, strict=True)
    wrong = [f"{name}: torch {a}, tape {b} ({b - a:+d})" for name, a, b in named if abs(a - b) > op.slack]
    assert not wrong, f"{op.name}: {'; '.join(wrong)}"
