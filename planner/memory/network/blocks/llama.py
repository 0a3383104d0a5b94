"""llama and its kin: mistral, qwen2, qwen3, granite, smollm3 (rotary, RMSNorm, gated MLP, pre-norm)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers, liger
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Embeddings (some scale them), masks and rotary tables; `inputs_embeds` is named until the model returns."""
    x = layers.embed(net, "model.embed_tokens")
    if net.spec.facts.scaled_embeddings == "inside":
        x = ops.scale(net.tape, x)
    x = net.require_grad_of_inputs(x)
    if net.spec.facts.scaled_embeddings == "after":
        x = ops.scale(net.tape, x)
    net.named.append(x.alias())
    net.prepare(net.spec.head_dim, rotary=True)
    return x


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm."""
    x = layers.norm(net, "model.norm", x, form=net.spec.facts.norm_form)
    net.release()
    return x


def kind(net: Net, index: int) -> Hashable:
    """Layers differ by whether they take a mask of their own, for a window, and whether they rotate."""
    masked = net.windowed or net.implementation == "eager"
    return masked and index in net.spec.sliding_layers, uses_rotary(net, index)


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/llama/modeling_llama.py, LlamaDecoderLayer)."""
    tape = net.tape
    scaled = net.spec.facts.scaled_residuals
    residual = x
    hidden = layers.norm(net, "input_layernorm", x, form=net.spec.facts.norm_form)
    hidden = attention(net, hidden, index)
    hidden = ops.add(tape, residual, ops.scale(tape, hidden) if scaled else hidden)
    residual = hidden
    hidden = layers.norm(net, "post_attention_layernorm", hidden, form=net.spec.facts.norm_form)
    hidden = gated_mlp(net, hidden)
    return ops.add(tape, residual, ops.scale(tape, hidden) if scaled else hidden)


def attention(net: Net, hidden: Tensor, index: int) -> Tensor:
    """Projections, norms on queries and keys where there are some, rotation, attention, output projection."""
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        query = layers.linear(net, "self_attn.q_proj", hidden)
        if "self_attn.q_norm" in net.by_path:
            query = layers.norm(net, "self_attn.q_norm", query, width=spec.head_dim, form=net.spec.facts.norm_form)
        key = layers.linear(net, "self_attn.k_proj", hidden)
        if "self_attn.k_norm" in net.by_path:
            key = layers.norm(net, "self_attn.k_norm", key, width=spec.head_dim, form=net.spec.facts.norm_form)
        value = layers.linear(net, "self_attn.v_proj", hidden)
        if uses_rotary(net, index):
            query, key = apply_rotary(net, query, key)
        mixed = layers.attend(net, query, key, value, mask=net.window_mask if index in spec.sliding_layers else None)
        mixed = layers.linear(net, "self_attn.o_proj", mixed)
        return ops.dropout(tape, mixed, spec.hidden_dropout) if spec.facts.drops_residuals else mixed


def uses_rotary(net: Net, index: int) -> bool:
    """smollm3 leaves the rotary embedding out of some layers (`no_rope_layers`: 1 = rotary)."""
    layers = net.spec.config.get("no_rope_layers")
    return not layers or bool(layers[index])


def apply_rotary(
    net: Net, query: Tensor, key: Tensor, tables: Sequence[Tensor | None] | None = None, *, strided: bool = False
) -> tuple[Tensor, Tensor]:
    """Rotates query and key by the shared `tables` or a layer's own; both old tensors live until both new ones are
    there. `strided`: as Liger's rotation says.
    """
    cos, sin = (net.cos, net.sin) if tables is None else tables
    assert cos is not None
    assert sin is not None
    if liger.runs(net.choices, "rope"):
        return liger.rotary(net.tape, query, key, cos, sin, strided=strided)
    rotated = ops.rotary(net.tape, query, cos, sin)
    return rotated, ops.rotary(net.tape, key, cos, sin)


def gated_mlp(net: Net, x: Tensor) -> Tensor:
    """down(act(gate(x)) · up(x)), with dropout where the architecture calls it."""
    if not net.spec.facts.drops_residuals:
        return _gated(net, x)
    # A function call, which keeps its mask but where the whole MLP has its lean form.
    drop = layers.dropout if layers.lean_mlp(net, "mlp.down_proj") else ops.dropout
    return drop(net.tape, _gated(net, x), net.spec.hidden_dropout)


def _gated(net: Net, x: Tensor) -> Tensor:
    tape = net.tape
    if layers.lean_mlp(net, "mlp.down_proj"):
        return layers.activated(
            net, "mlp.down_proj", layers.linear(net, "mlp.gate_proj", x), layers.linear(net, "mlp.up_proj", x)
        )
    if liger.runs(net.choices, "swiglu"):
        made = liger.gated(tape, layers.linear(net, "mlp.gate_proj", x), layers.linear(net, "mlp.up_proj", x))
        return layers.linear(net, "mlp.down_proj", made)
    return layers.linear(
        net,
        "mlp.down_proj",
        ops.mul(
            tape,
            ops.activation(tape, layers.linear(net, "mlp.gate_proj", x), net.spec.activation),
            layers.linear(net, "mlp.up_proj", x),
        ),
    )


PROGRAM = Program(embed=embed, layer=layer, final=final, kind=kind)
