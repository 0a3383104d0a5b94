"""Quantised base weights on the tape: what they take, and bitsandbytes' products over them.

Sources: bitsandbytes 0.50 nn/modules.py (Linear4bit, Linear8bitLt), autograd/_functions.py (MatMul4Bit, MatMul8bitLt,
MatMul8bitFp), backends/{cuda,default}/ops.py; transformers 5.23 integrations/bitsandbytes.py; read 2026-11.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.contract.errors import NotModelled
from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import BYTE, FP32, HALF, ONE
from planner.memory.network import lean

if TYPE_CHECKING:
    from planner.contract.choices import TrainingChoices
    from planner.contract.spec import Module
    from planner.memory.network.net import Net

BLOCK_4BIT = 64
"""Values of a 4-bit weight that share a scale."""
BLOCK_NESTED = 256
"""Scales that share a scale of their own under double quantisation."""


def is_quantized(net: Net, module: Module) -> bool:
    """Whether the module's weight is quantised, as transformers converts: every plain `nn.Linear` and GPT-2's `Conv1D`
    but the output head.

    Outside the stack an encoder's head has one that is no output layer; a recorded network has those that don't give
    the vocabulary (learning compares the bytes with the network's own). The very last parameter is kept too, which is a
    matrix only where norms have no weights and the head is tied. Source: transformers 5.23 quantizers/base.py,
    integrations/bitsandbytes.py.
    """
    spec = net.spec
    if net.separate_experts and module.kind == "parameter":
        return net.choices.method == "qlora"
    if net.choices.method != "qlora" or module.kind not in ("linear", "conv1d") or module.path in net.unquantized:
        return False
    decoder = spec.facts.decoder
    if decoder is not None and decoder.norm == "plain" and spec.tie_embeddings:
        raise NotModelled("quantised weights of OLMo with a tied head: transformers leaves its last matrix unquantized")
    if spec.facts.own_linear or module.leaf in spec.facts.unquantized:
        return False
    if module.layers is None and "recorded" in spec.config:
        return module.out_features != spec.vocab_size
    encoder = spec.facts.encoder
    return module.layers is not None or (encoder is not None and module.path == encoder.transform[0])


def bytes_4bit(elements: int, *, nested: bool) -> int:
    """Storage of a 4-bit weight: half a byte a value, a scale per 64 (fp32; or one byte, with fp32 per 256), a
    table.
    """
    blocks = -(-elements // BLOCK_4BIT)
    size = -(-elements // 2) + 16 * 4
    if nested:
        return size + blocks + -(-blocks // BLOCK_NESTED) * 4 + 256 * 4 + 4
    return size + blocks * 4


def bytes_int8(module: Module) -> int:
    """Storage of an int8 weight: a byte a value, an fp32 scale per output."""
    return module.in_features * module.out_features + module.out_features * FP32


def matrices(module: Module) -> int:
    """How many quantised weights a module is: one, or of a layer's fused experts each one's gate, up and down."""
    if module.kind != "parameter" or len(module.shape) < 3:
        return 1
    return module.shape[0] * (2 if module.leaf == "gate_up_proj" else 1)


def stored(choices: TrainingChoices, module: Module) -> tuple[int, int]:
    """Bytes of a quantised weight's values, and of all that belongs to them (scales, tables); of each, if several."""
    elements = math.prod(module.shape) // matrices(module)
    if choices.quantization == "int8":
        return elements, bytes_int8(module) - elements
    values = -(-elements // 2)
    return values, bytes_4bit(elements, nested=choices.quantization == "nf4-double") - values


def bias_itemsize(net: Net) -> int:
    """Bytes per element of a quantised layer's bias: 4-bit layers turn it into their compute dtype, int8 ones into that
    of their input."""
    return net.itemsize if net.choices.quantization == "int8" else net.storage_itemsize


def linear(net: Net, module: Module, x: Tensor) -> Tensor:
    """The product of x with a quantised weight, without an adapter."""
    if net.choices.quantization != "int8":
        return linear_4bit(net, module, x)
    if net.tape.rules.lean:
        return _int8_lean(net, module, x)
    if net.tape.rules.target == "cpu" and net.tape.rules.training:
        return _int8_cpu(net, module, x)
    return _int8_gpu(net, module, x)


def dequantized(net: Net, module: Module) -> Tensor:
    """The whole weight as PEFT's DoRA asks for it: 4-bit in its stored dtype, int8 in fp32 (made in two steps)."""
    tape, count = net.tape, module.in_features * module.out_features
    if net.choices.quantization == "int8":
        first = tape.new(ONE, count, FP32) if tape.rules.target != "cpu" else None
        weight = tape.new(ONE, count, FP32)
        del first
        return weight
    scales = tape.new(ONE, count // BLOCK_4BIT, FP32) if net.choices.quantization == "nf4-double" else None
    weight = tape.new(ONE, count, net.storage_itemsize)
    del scales  # tidy
    return weight


def linear_4bit(net: Net, module: Module, x: Tensor) -> Tensor:
    """bitsandbytes: x cast to the compute dtype, product with the de-quantised weight, result cast back.

    Forward holds the de-quantised weight (n·w) and, under double quantisation, its fp32 scales (n/64·4) without and
    with their mean; backward the weight and one of them. Saves nothing through autograd: the quantised weight hangs on
    the function itself.
    """
    tape = net.tape
    compute = net.compute_itemsize(x)
    narrow = ops.to(tape, x, compute)
    count = module.in_features * module.out_features
    nested = net.choices.quantization == "nf4-double"
    scales = [tape.new(ONE, count // BLOCK_4BIT, FP32) for _ in range(2 if nested else 0)]
    weight = tape.new(ONE, count, compute)
    result = tape.new(narrow.monomial, narrow.elements * module.out_features // module.in_features, compute)
    tape.ledger.product()
    scales.clear()
    del weight
    size = (narrow.monomial, narrow.elements)

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        scales = tape.new(ONE, count // BLOCK_4BIT, FP32) if nested else None
        weight = tape.new(ONE, count, net.storage_itemsize)
        del scales
        if compute != net.storage_itemsize:
            weight = tape.new(ONE, count, compute)  # the cast's operand has no name: it is gone before the product
        gradient = tape.new(size[0], size[1], compute)
        tape.ledger.product()
        del weight  # tidy
        return [gradient]

    tape.record(result, (narrow,), (), backward)
    return ops.to(tape, result, x.itemsize)


def _int8_lean(net: Net, module: Module, x: Tensor) -> Tensor:
    """Stack `builtin`: saves nothing; the weight is de-quantised to the product's dtype (n·w), again in backward."""
    tape = net.tape
    narrow = ops.to(tape, x, HALF if tape.rules.autocast else x.itemsize)
    itemsize, size = narrow.itemsize, (narrow.monomial, narrow.elements)
    base = lean.FrozenLayer(net, module, quantized=True)
    result = base.product(narrow.monomial, narrow.elements // module.in_features * module.out_features, itemsize)
    return tape.record(result, (narrow,), (), lambda g, s: (base.product(size[0], size[1], itemsize),))


def _int8_cpu(net: Net, module: Module, x: Tensor) -> Tensor:
    """bitsandbytes in training on a CPU: the weight in x's dtype (n·w) and a plain product, cast under autocast.

    x stays on the graph until the whole graph goes: it is not saved through autograd, and no checkpoint drops it.
    """
    tape = net.tape
    count, rows = module.in_features * module.out_features, x.elements // module.in_features
    weight = tape.new(ONE, count, x.itemsize)
    compute = HALF if tape.rules.autocast else x.itemsize
    casts = [] if compute == x.itemsize else [tape.like(x, compute), tape.new(ONE, count, compute)]
    result = tape.new(x.monomial, rows * module.out_features, compute)
    del weight  # tidy
    casts.clear()
    return _recorded(net, module, x, result)


def _int8_gpu(net: Net, module: Module, x: Tensor) -> Tensor:
    """LLM.int8 on a GPU: x's int8 values tokens·in and scales, the int32 product tokens·out·4, its fp16 form, the cast.

    While x is quantised there are an fp16 copy of it, its magnitudes (fp16) and a flag for each, by which outlying
    columns are found. How many there are is data; none are counted. x stays on the graph as above.
    """
    tape = net.tape
    rows = x.elements // module.in_features
    inside = tape.rules.target != "cpu"  # counted from outside, an operator's own temporaries stay unseen there
    fp16 = x.itemsize == HALF and net.choices.precision.startswith("fp16")
    half = None if fp16 else tape.like(x, HALF)
    scales = tape.new(x.monomial, rows, FP32)
    values = tape.like(x, BYTE)
    if inside:
        magnitudes, flags = tape.like(x, HALF), tape.like(x, BYTE)
        del magnitudes, flags
    del half
    size = (x.monomial, rows * module.out_features)
    scratch = [tape.new(*size, FP32)] if inside else []
    if inside and not fp16:
        scratch.append(tape.new(*size, HALF))
    result = tape.new(*size, x.itemsize)
    del values, scales  # tidy
    scratch.clear()
    return _recorded(net, module, x, result)


def _recorded(net: Net, module: Module, x: Tensor, result: Tensor) -> Tensor:
    """Keeps x on the graph; backward: the weight in x's dtype (n·w), the gradient cast to it, dX tokens·in·w."""
    tape, count = net.tape, module.in_features * module.out_features
    size, itemsize = (x.monomial, x.elements), x.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        weight = tape.new(ONE, count, itemsize)
        gradient = g[0]
        assert gradient is not None
        cast = tape.like(gradient, itemsize) if gradient.itemsize != itemsize else None
        made = tape.new(size[0], size[1], itemsize)
        del weight, cast  # tidy
        return [made]

    if x.requires_grad:
        tape.hold(x)
    return tape.record(result, (x,), (), backward)
