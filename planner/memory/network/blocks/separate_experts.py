"""mixtral before transformers 5: a router and experts that are linear modules of their own, run one after another.

Every expert takes the rows that were sent to it and adds what it makes of them to the sum in place. How many rows an
expert gets is data; they are counted as spread evenly, tokens · top_k / experts each. What all of them keep for
backward does not depend on the spread, only what one of them holds while it runs.

Source: transformers 4.48 models/mixtral/modeling_mixtral.py, MixtralSparseMoeBlock, MixtralBlockSparseTop2MLP (read
2026-11); the trace runs trainer/modeling/experts.py.
"""

from __future__ import annotations

from planner.contract.sentence import named
from planner.contract.spec import Module
from planner.memory.engine import norms, ops, products
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import BYTE, FP32, INT64, T
from planner.memory.network import liger, quantized
from planner.memory.network.blocks import routing
from planner.memory.network.net import Net, unmodelled


def check(net: Net) -> None:
    """Refuses Liger's MLP, and adapters on experts or router, which PEFT puts on each linear module by itself."""
    if liger.runs(net.choices, "swiglu"):
        raise unmodelled(
            named("liger"), " for experts that are modules of their own (", named("transformers_version"), " below 5)"
        )
    if any(module.kind == "parameter" and net.has_adapter(module) for module in net.spec.modules):
        raise unmodelled(
            "adapters on experts that are modules of their own (", named("transformers_version"), " below 5)"
        )


def block(net: Net, x: Tensor) -> Tensor:
    """The sparse block: T·H of zeros that the experts add to, one-hot choices T·top_k·experts·8, then one by one."""
    tape, spec = net.tape, net.spec
    count, top_k, hidden = spec.num_experts, spec.experts_per_token, spec.hidden_size
    logits = _product(net, x, count, hidden)
    wide = ops.to(tape, logits, FP32)
    chances = norms.softmax(tape, wide)
    del wide
    weights, chosen = routing.top_k(net, chances, top_k)
    weights = routing.normalised(net, weights)
    weights = ops.to(tape, weights, x.itemsize)
    out = tape.new(T, hidden, x.itemsize)
    choices = tape.new(T, top_k * count, INT64)
    rows: list[Tensor] = []
    made: Tensor | None = None
    for _ in range(count):
        places = [tape.new(T, -(-INT64 * top_k // count), BYTE) for _ in range(2)]
        rows[:] = [routing.gather(net, x, T, top_k * hidden // count, places[1].alias())]
        made = _expert(net, rows[0])
        factor = routing.gather(net, weights, T, 1, places[0].alias())
        made = ops.mul(tape, made, factor)
        del factor
        out = _add_rows(net, out, ops.to(tape, made, x.itemsize), places[1])
    del rows, made, places, choices, chosen, logits, chances
    return out


def _expert(net: Net, x: Tensor) -> Tensor:
    """w2(act(w1(x)) · w3(x))."""
    tape, hidden, inner = net.tape, net.spec.hidden_size, net.spec.expert_intermediate_size
    gated = ops.mul(
        tape,
        ops.activation(tape, _product(net, x, inner, hidden), net.spec.activation),
        _product(net, x, inner, hidden),
    )
    return _product(net, gated, hidden, inner)


def _product(net: Net, x: Tensor, outputs: int, inputs: int) -> Tensor:
    """x with the weight (outputs, inputs) of one linear module, quantised or not."""
    if net.choices.method == "qlora":
        return quantized.linear(net, Module(path="", kind="linear", shape=(outputs, inputs)), x)
    return products.linear(net.tape, x, net.base_weight(outputs * inputs), outputs, inputs)


def _add_rows(net: Net, total: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """total.index_add_(0, index, rows): in place; saves the index and, for its shape, rows.

    Backward hands the gradient on and makes its rows.
    """
    tape = net.tape
    out = total.alias()
    needs = (total.requires_grad, rows.requires_grad)
    size, width = (rows.monomial, rows.elements), rows.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        gradient = g[0]
        assert gradient is not None
        return [gradient.alias() if needs[0] else None, tape.new(size[0], size[1], width) if needs[1] else None]

    return tape.record(out, (total, rows), (index, rows), backward)
