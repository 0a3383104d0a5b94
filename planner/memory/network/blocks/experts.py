"""mixtral, qwen2_moe, qwen3_moe: llama-like layers whose MLP is a router and a mixture of experts.

The experts run as transformers 5 runs them by default, as one grouped matrix product over the tokens sorted by expert
(`grouped_mm`): every token has its `top_k` rows whichever experts it goes to, so that memory does not depend on how the
tokens spread. The load-balancing loss is off unless `output_router_logits` is set; with it there is no program.

Source: transformers 5.23 integrations/moe.py (grouped_mm_experts_forward), models/{mixtral,qwen2_moe,qwen3_moe}/
modeling_*.py; PyTorch's _grouped_mm saves its two operands (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Hashable

from planner.contract.sentence import named
from planner.memory.engine import norms, ops, products
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import BSS, BYTE, FP32, INT64, ONE, T
from planner.memory.engine.weight import Weight
from planner.memory.network import layers, liger
from planner.memory.network.blocks import expert_adapters, llama, routing, separate_experts
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net, unmodelled


def embed(net: Net) -> Tensor:
    """As llama, with a second mask where one is made; refuses what the experts' program does not cover."""
    if net.separate_experts:
        separate_experts.check(net)
    if net.config("output_router_logits"):
        raise unmodelled(f"{net.spec.architecture} with output_router_logits (the load-balancing loss)")
    if net.config("router_jitter_noise"):
        raise unmodelled(f"{net.spec.architecture} with router_jitter_noise")
    x = llama.embed(net)
    if net.spec.facts.window_mask_always and not net.spec.sliding_layers and net.choices.attention != "flash":
        # Without a window its config holds 0 for it, and the windowed mask is made all the same, for no layer.
        with net.tape.scope("attention"):
            net.named.append(net.tape.new(BSS, 1, net.itemsize if net.choices.attention == "eager" else BYTE))
    return x


def kind(net: Net, index: int) -> Hashable:
    """Dense and sparse layers differ."""
    return llama.kind(net, index), index in net.spec.sparse_layers


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (MixtralDecoderLayer, Qwen2MoeDecoderLayer, Qwen3MoeDecoderLayer)."""
    tape = net.tape
    residual = x
    hidden = layers.norm(net, "input_layernorm", x, form=net.spec.facts.norm_form)
    hidden = llama.attention(net, hidden, index)
    hidden = ops.add(tape, residual, hidden)
    residual = hidden
    hidden = layers.norm(net, "post_attention_layernorm", hidden, form=net.spec.facts.norm_form)
    hidden = _sparse(net, hidden) if index in net.spec.sparse_layers else _mlp(net, hidden, "mlp")
    return ops.add(tape, residual, hidden)


def _mlp(net: Net, x: Tensor, path: str) -> Tensor:
    tape = net.tape
    if layers.lean_mlp(net, f"{path}.down_proj"):
        return layers.activated(
            net,
            f"{path}.down_proj",
            layers.linear(net, f"{path}.gate_proj", x),
            layers.linear(net, f"{path}.up_proj", x),
        )
    return layers.linear(
        net,
        f"{path}.down_proj",
        ops.mul(
            tape,
            ops.activation(tape, layers.linear(net, f"{path}.gate_proj", x), net.spec.activation),
            layers.linear(net, f"{path}.up_proj", x),
        ),
    )


def _sparse(net: Net, x: Tensor) -> Tensor:
    """The sparse block, for qwen2_moe with the expert that all tokens share."""
    if net.separate_experts:
        return separate_experts.block(net, x)
    tape = net.tape
    shared = _mlp(net, x, "mlp.shared_expert") if net.spec.shared_expert_intermediate_size else None
    _logits, weights, chosen = _router(net, x)
    out = _experts(net, x, weights, chosen)
    if shared is None:
        return out
    opening = ops.pointwise(tape, layers.linear(net, "mlp.shared_expert_gate", x), save="output")
    shared = ops.mul(tape, opening, shared)
    del opening
    return ops.add(tape, out, shared)


def _router(net: Net, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of all experts, softmax in fp32, the best `top_k` of them, made to sum to one; weights and indices."""
    tape, experts, per_token = net.tape, net.spec.num_experts, net.spec.experts_per_token
    module = net.by_path["mlp.gate.weight"]
    if net.has_adapter(module):
        logits = expert_adapters.router(net, module, x)
    else:
        weight = net.base_weight(experts * net.spec.hidden_size)
        logits = products.linear(tape, x, weight, experts, net.spec.hidden_size)
    wide = ops.to(tape, logits, FP32)
    chances = norms.softmax(tape, wide)
    del wide
    best, indices = routing.top_k(net, chances, per_token)
    facts = net.spec.facts.experts
    assert facts is not None
    if facts.normalised or net.config("norm_topk_prob"):
        best = routing.normalised(net, best)
    if facts.narrowed:
        best = ops.to(tape, best, logits.itemsize)
    return logits, best, indices


def _experts(net: Net, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """grouped_mm_experts_forward: rows sorted by expert, up, gate, down, weighted, put back and summed per token."""
    tape, spec = net.tape, net.spec
    hidden, inner, top_k = spec.hidden_size, spec.expert_intermediate_size, spec.experts_per_token
    down, up = (_adapted(net, f"mlp.experts.{name}") for name in ("down_proj", "gate_up_proj"))
    if liger.runs(net.choices, "swiglu"):
        if up is not None or down is not None:
            raise unmodelled(
                "adapters on experts with ", named("liger"), ", whose kernel does not run in PEFT's wrapper (leave "
                "swiglu out of ", named("liger_kernels"), ")",
            )  # fmt: skip
        both = (
            net.base_weight(spec.num_experts * hidden * 2 * inner),
            net.base_weight(spec.num_experts * inner * hidden),
        )
        return liger.experts(tape, x, both, weights, inner)
    order, sorted_ids = tape.new(T, top_k, INT64), tape.new(T, top_k, INT64)
    rows = routing.gather(net, x, T, top_k * hidden, tape.new(T, top_k, INT64))
    factors = routing.gather(net, weights, T, top_k, order.alias())
    counted = tape.new(T, top_k, FP32)
    wide = net.base_weight(spec.num_experts * hidden * 2 * inner) if up is None else up.weight()
    out = _grouped(net, rows, hidden, 2 * inner, wide)
    out = _gate(net, out)
    narrow = net.base_weight(spec.num_experts * inner * hidden) if down is None else down.weight()
    out = _grouped(net, out, inner, hidden, narrow)
    weighted = ops.mul(tape, out, factors)
    inverse = tape.new(T, top_k, INT64)
    numbers = tape.new(T, top_k, INT64)
    del numbers
    weighted = routing.gather(net, weighted, T, top_k * hidden, inverse)
    final = _sum_rows(net, weighted, top_k)
    result = ops.to(tape, final, x.itemsize)
    del sorted_ids, counted, rows, chosen, wide, narrow, up, down  # tidy
    return result


def _adapted(net: Net, path: str) -> expert_adapters.Folded | None:
    """The adapter on a fused expert tensor, if it has one."""
    module = net.by_path[path]
    return expert_adapters.Folded(net, module) if net.has_adapter(module) else None


def _grouped(net: Net, x: Tensor, inputs: int, outputs: int, weight: Weight) -> Tensor:
    """Grouped product with every expert's weight: output rows·out·w; saves as a linear layer does; backward dX, dW."""
    tape = net.tape
    out = tape.new(x.monomial, x.elements // inputs * outputs, weight.tensor.itemsize)
    needs_x, trains = x.requires_grad, weight.tensor.requires_grad
    saved = ([x] if trains else []) + ([weight.tensor] if needs_x else [])
    size, width, count, weight_width = x.elements, x.itemsize, weight.tensor.elements, weight.tensor.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        return [
            tape.new(T, size, width) if needs_x else None,
            tape.new(ONE, count, weight_width) if trains else None,
        ]

    return tape.record(out, (x, weight.tensor), saved, backward)


def _gate(net: Net, x: Tensor) -> Tensor:
    """act(gate) · up of the two halves, which are views."""
    tape = net.tape
    gate, up = ops.split(tape, x, x.elements // 2, x.elements // 2)
    return ops.mul(tape, ops.activation(tape, gate, net.spec.activation), up)


def _sum_rows(net: Net, x: Tensor, top_k: int) -> Tensor:
    """Sum over a token's rows; backward the gradient expanded, and copied because it is then viewed as rows."""
    tape, elements, width = net.tape, x.elements, x.itemsize
    out = tape.new(T, elements // top_k, width)
    return tape.record(out, (x,), (), lambda g, s: (tape.new(T, elements, width),))


PROGRAM = Program(embed=embed, layer=layer, final=llama.final, kind=kind)
