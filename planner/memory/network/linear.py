"""Linear modules as the chosen stack runs them: plain or quantised base weights, with or without an adapter.

Sources: peft 0.21 tuners/lora/{layer,bnb,variants,dora}.py; read 2026-11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.memory.engine import ops, products
from planner.memory.engine.graph import Tensor
from planner.memory.engine.monomials import FP32, HALF, ONE
from planner.memory.engine.weight import Weight
from planner.memory.network import lean, lean_dora, quantized
from planner.memory.network.quantized import is_quantized

if TYPE_CHECKING:
    from planner.contract.spec import Module
    from planner.memory.network.net import Net


def linear(net: Net, path: str, x: Tensor) -> Tensor:
    """The module at `path` applied to x, its adapter included."""
    module = net.by_path[path]
    if _lean_adapter(net, module):
        with net.tape.scope("lora_activations"):
            a, b = _matrices(net, module)
            run = lean_dora.dora if net.choices.lora_variant == "dora" else lean.lora
            return run(net, module, x, a, b, quantized=is_quantized(net, module))
    base = [quantized.linear(net, module, x) if is_quantized(net, module) else _plain(net, path, module, x)]
    if not net.has_adapter(module):
        return base.pop()
    if net.choices.lora_variant == "dora":
        return _dora(net, path, module, x, base)
    return _lora(net, module, x, base)


def lean_mlp(net: Net, path: str) -> bool:
    """Whether the MLP that ends at `path` runs as one function from its activation on, which it makes again: over a
    frozen weight.
    """
    module, choices = net.by_path[path], net.choices
    if not choices.makes_again("mlp") or choices.method == "full" or module.path in net.saved:
        return False
    return not (choices.lora_variant == "dora" and net.has_adapter(module))


def activated(net: Net, path: str, first: Tensor, second: Tensor | None = None) -> Tensor:
    """The MLP's last linear at `path` of act(first) or act(first) · second, in the lean form."""
    if net.tape.rules.autocast:  # here, where nobody else names the operands, so that they die as they are cast
        first = ops.to(net.tape, first, HALF)
        second = None if second is None else ops.to(net.tape, second, HALF)
    module = net.by_path[path]
    with net.tape.scope("lora_activations"):
        adapter = _matrices(net, module) if net.has_adapter(module) else None
        return lean.activated(net, module, first, second, adapter, quantized=is_quantized(net, module))


def _lean_adapter(net: Net, module: Module) -> bool:
    """Whether the module's adapter runs in its lean form: stack `builtin`, no embedding."""
    return net.tape.rules.lean and net.has_adapter(module)


def _plain(net: Net, path: str, module: Module, x: Tensor) -> Tensor:
    count = module.in_features * module.out_features
    weight = net.head_weight(path) if module.layers is None else net.base_weight(count, module.path)
    bias = net.base_weight(module.out_features, module.path) if module.bias else None
    if module.layers is not None and net.spec.facts.own_linear:  # x @ W.T + b, written out
        product = products.linear(net.tape, x, weight, module.out_features, module.in_features, transposed=True)
        return product if bias is None else ops.add(net.tape, product, bias.tensor)
    return products.linear(net.tape, x, weight, module.out_features, module.in_features, bias)


def _matrices(net: Net, module: Module) -> tuple[Weight, Weight]:
    """LoRA's A (r, in) and B (out, r)."""
    rank, width = net.choices.lora_r, net.adapter_itemsize
    a = net.weight(rank * module.in_features, width, trainable=True)
    return a, net.weight(rank * module.out_features, width, trainable=True)


def _lora(net: Net, module: Module, x: Tensor, base: list[Tensor]) -> Tensor:
    """result + B(A(dropout(x)))·scaling, as PEFT writes it; the result is taken out of `base`, so that it dies here.

    Over a plain weight the sum is made in the adapters' dtype and cast back; over a quantised one the adapter's share
    is cast to the result's dtype, but under autocast neither x nor the share is; a 4-bit product is copied first.
    """
    tape, rank = net.tape, net.choices.lora_r
    over_quantized = is_quantized(net, module)
    a, b = _matrices(net, module)
    result = base.pop()
    narrow = result.itemsize
    with tape.scope("lora_activations"):
        if over_quantized and net.choices.quantization != "int8":
            result = ops.contiguous(tape, result)
        wide = x.same() if over_quantized and tape.rules.autocast else _adapted(net, x)
        share = _share(net, module, wide, a, b, rank)
        if over_quantized and not tape.rules.autocast:
            share = ops.to(tape, share, narrow)
        result = ops.add(tape, result, share, wide=_promoted(net, narrow))
        del share
    return ops.to(tape, result, narrow)


def _adapted(net: Net, x: Tensor) -> Tensor:
    """x in the adapters' dtype."""
    if _promoted(net, x.itemsize) or (_cast_back(net) and x.itemsize == HALF):
        return ops.recast(net.tape, x)
    return ops.to(net.tape, x, net.adapter_itemsize)


def _promoted(net: Net, itemsize: int) -> int:
    """Bytes of what fp16 activations of `itemsize` and bf16 adapters make together: fp32; 0 where they do not meet."""
    differ = net.choices.precision == "fp16" and net.choices.adapter_dtype == "bf16"
    return FP32 if differ and itemsize == HALF else 0


def _cast_back(net: Net) -> bool:
    """Whether bf16 adapters meet autocast to fp16, which casts x back and the adapters too."""
    return net.choices.precision == "fp16-mixed" and net.choices.adapter_dtype == "bf16"


def _recast(net: Net, weight: Weight) -> Weight:
    """A 16-bit weight in autocast's dtype; only casts of fp32 ones are kept by it."""
    copy = Weight.__new__(Weight)
    copy.tensor, copy.parameter = ops.recast(net.tape, weight.tensor), weight.parameter
    return copy


def _share(net: Net, module: Module, x: Tensor, a: Weight, b: Weight, rank: int) -> Tensor:
    tape = net.tape
    dropped = [ops.dropout(tape, x, net.choices.lora_dropout)]
    del x  # tidy
    if _cast_back(net):
        dropped.append(ops.recast(tape, dropped.pop()))
        a, b = _recast(net, a), _recast(net, b)
    low = products.linear(tape, dropped.pop(), a, rank, module.in_features)
    return ops.scale(tape, products.linear(tape, low, b, module.out_features, rank))


def _dora(net: Net, path: str, module: Module, x: Tensor, held: list[Tensor]) -> Tensor:
    """Weight-decomposed LoRA: the sum above, scaled per output by magnitude / |W + BA|.

    The norm needs B·A and W + s·B·A as matrices of out·in, a quantized W de-quantised; with dropout the base product is
    made a second time, on the dropped-out input and a copy of W in the adapters' dtype, which backward keeps. Where a
    Conv1D's W is of that dtype already, its transpose gets a gradient, out·in·w, that lives as long as the graph, and
    autocast keeps its cast.
    """
    tape, rank, choices = net.tape, net.choices.lora_r, net.choices
    over_quantized = is_quantized(net, module)
    dropping = choices.lora_dropout > 0 and tape.rules.training
    a, b = _matrices(net, module)
    result = held.pop()
    narrow = result.itemsize
    count = module.in_features * module.out_features
    with tape.scope("lora_activations"):
        if over_quantized and choices.quantization != "int8":
            result = ops.contiguous(tape, result)
        wide = x.same() if over_quantized and tape.rules.autocast else _adapted(net, x)
        dropped = ops.dropout(tape, wide, choices.lora_dropout) if dropping else wide
        product = _weight_product(net, module, a, b)
        product = ops.to(tape, product, dropped.itemsize)
        if over_quantized:
            weight = quantized.dequantized(net, module)
        else:
            weight = net.weight(count, net.itemsize, trainable=False).tensor
        promoted = 0 if over_quantized and tape.rules.autocast else _promoted(net, x.itemsize)
        matrix = tape.new(ONE, count, dropped.itemsize) if promoted or dropped.itemsize != weight.itemsize else weight
        own = matrix is weight and not over_quantized
        del weight
        scaled = tape.new(ONE, count, dropped.itemsize)
        total = tape.new(ONE, count, dropped.itemsize)
        del scaled
        norm = tape.new(ONE, module.out_features, dropped.itemsize)
        del total
        magnitude = net.weight(module.out_features, net.adapter_itemsize, trainable=True)
        ratio = ops.mul(tape, magnitude.tensor, norm)
        share = products.linear(
            tape, products.linear(tape, dropped, a, rank, module.in_features), b, module.out_features, rank
        )
        if dropping:
            # PEFT's transpose of a Conv1D's own weight is a new nn.Parameter, which asks for a gradient as they all do.
            leaf = module.kind == "conv1d" and own
            factor = net.graph_leaf(matrix) if leaf else net.frozen(matrix)
            base = products.linear(tape, dropped, factor, module.out_features, module.in_features)
        else:
            base = ops.shift(tape, result, net.itemsize) if module.bias else result
        extra = ops.add(
            tape,
            ops.mul(tape, base, ops.shift(tape, ratio), wide=0 if dropping else promoted),
            ops.scale(tape, ops.mul(tape, share, ratio)),
        )
        del base, share, ratio, product, matrix, norm
        result = ops.add(tape, result, extra, wide=promoted)
        del extra
    return result if over_quantized and tape.rules.autocast else ops.to(tape, result, narrow)


def _weight_product(net: Net, module: Module, a: Weight, b: Weight) -> Tensor:
    """B(A(I))ᵀ: the identity (in²), A's product (in·r), B's product (in·out)."""
    tape, rank = net.tape, net.choices.lora_r
    identity = tape.new(ONE, module.in_features**2, net.adapter_itemsize)
    first = products.linear(tape, identity, a, rank, module.in_features)
    return products.linear(tape, first, b, module.out_features, rank)
