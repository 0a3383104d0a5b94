"""Mixtures of experts: Mixtral, Qwen 1.5/2 MoE and Qwen 3 MoE.

Transformers 5 fuses the experts of a layer into two tensors and the router into one; they are bare parameters, which
no adapter on linear modules reaches.
"""

from __future__ import annotations

from dataclasses import replace

from planner.contract.spec import ModelSpec
from planner.models.sources.families.llama import Variant, attention_and_norms, feed_forward, head, spec
from planner.models.sources.layout import Layout
from planner.models.sources.reading import Reading


def mixtral(reading: Reading, identity: str) -> ModelSpec:
    """Mixtral: every layer sparse."""
    layers = tuple(range(reading.size("num_hidden_layers")))
    return _build(reading, identity, Variant(), layers, inner="intermediate_size", count="num_local_experts")


def qwen2_moe(reading: Reading, identity: str) -> ModelSpec:
    """Qwen 1.5 and 2 MoE: small experts beside one shared expert with a gate of its own."""
    variant, shared = Variant(qkv_bias=reading.flag("qkv_bias")), reading.size("shared_expert_intermediate_size")
    return _build(reading, identity, variant, _sparse(reading, "num_experts"), count="num_experts", shared=shared)


def qwen3_moe(reading: Reading, identity: str) -> ModelSpec:
    """Qwen 3 MoE: small experts, none shared, norms on queries and keys."""
    bias = reading.flag("attention_bias")
    variant = Variant(qkv_bias=bias, o_bias=bias, qk_norm="head")
    return _build(reading, identity, variant, _sparse(reading, "num_local_experts"), count="num_local_experts")


def _sparse(reading: Reading, count: str) -> tuple[int, ...]:
    """Layers with experts: every `decoder_sparse_step`-th, those named as dense left out."""
    step, dense = reading.size("decoder_sparse_step"), reading.config["mlp_only_layers"]
    if not isinstance(dense, list):
        raise reading.fail("mlp_only_layers", "a list of layer indices")
    if reading.count(count) == 0:
        return ()
    layers = reading.size("num_hidden_layers")
    return tuple(layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0)


def _build(
    reading: Reading,
    identity: str,
    variant: Variant,
    sparse: tuple[int, ...],
    *,
    count: str,
    inner: str = "moe_intermediate_size",
    shared: int = 0,
) -> ModelSpec:
    hidden, layers = reading.size("hidden_size"), reading.size("num_hidden_layers")
    width, per_token = reading.size(inner), reading.size("num_experts_per_tok")
    experts = reading.count(count)
    if sparse and per_token > experts:
        raise reading.fail("num_experts_per_tok", f"at most the {experts} experts")
    layout = Layout()
    everywhere = tuple(range(layers))
    dense = tuple(layer for layer in everywhere if layer not in sparse)

    def mlp() -> None:
        layout.repeat(dense)
        feed_forward(layout, reading, variant)
        layout.repeat(sparse)
        base = "model.layers.{}.mlp"
        layout.parameter(f"{base}.gate.weight", experts, hidden)
        layout.parameter(f"{base}.experts.gate_up_proj", experts, 2 * width, hidden)
        layout.parameter(f"{base}.experts.down_proj", experts, hidden, width)
        if shared:
            layout.linear(f"{base}.shared_expert.gate_proj", hidden, shared)
            layout.linear(f"{base}.shared_expert.up_proj", hidden, shared)
            layout.linear(f"{base}.shared_expert.down_proj", shared, hidden)
            layout.linear(f"{base}.shared_expert_gate", hidden, 1)
        layout.repeat(everywhere)

    layout.embedding("model.embed_tokens", reading.size("vocab_size"), hidden)
    layout.repeat(everywhere)
    attention_and_norms(layout, reading, variant, mlp)
    layout.repeat(None)
    layout.norm("model.norm", hidden)
    head(layout, reading, "model.embed_tokens")
    return replace(
        spec(reading, identity, layout),
        num_experts=experts if sparse else 0,
        experts_per_token=per_token if sparse else 0,
        expert_intermediate_size=width if sparse else 0,
        shared_expert_intermediate_size=shared if sparse else 0,
        sparse_layers=sparse,
    )
