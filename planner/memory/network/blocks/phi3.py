"""phi3 (Phi 3, 3.5 and 4): fused projections, residual dropout, partial rotary embedding."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers, liger
from planner.memory.network.attention import Style
from planner.memory.network.blocks import llama
from planner.memory.network.blocks.phi import rotary_dim
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Embeddings, masks, tables for the part of the heads that turns."""
    x = net.require_grad_of_inputs(layers.embed(net, "model.embed_tokens"))
    net.named.append(x.alias())
    net.prepare(rotary_dim(net), rotary=True)
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/phi3/modeling_phi3.py, Phi3DecoderLayer)."""
    tape, drop = net.tape, net.config("resid_pdrop", 0.0)
    assert isinstance(drop, int | float)
    residual = x
    hidden = layers.norm(net, "input_layernorm", x, form=net.spec.facts.norm_form)
    hidden = _attention(net, hidden, index)
    hidden = ops.add(tape, residual, layers.dropout(tape, hidden, drop))
    residual = hidden
    hidden = layers.norm(net, "post_attention_layernorm", hidden, form=net.spec.facts.norm_form)
    hidden = _mlp(net, hidden)
    return ops.add(tape, residual, layers.dropout(tape, hidden, drop))


def _attention(net: Net, hidden: Tensor, index: int) -> Tensor:
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        fused = layers.linear(net, "self_attn.qkv_proj", hidden)
        query = ops.part(tape, fused, spec.num_heads * spec.head_dim)
        key = ops.part(tape, fused, spec.num_kv_heads * spec.head_dim)
        value = ops.part(tape, fused, spec.num_kv_heads * spec.head_dim)
        query, key = _rotate(net, query, key)
        mask = net.window_mask if index in spec.sliding_layers else None
        style = Style(heads_first=not liger.runs(net.choices, "rope"))  # which lays them out token by token
        return layers.linear(net, "self_attn.o_proj", layers.attend(net, query, key, value, mask=mask, style=style))


def _rotate(net: Net, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Rotates the first dimensions of every head; queries are put together before the keys' turn begins."""
    if liger.runs(net.choices, "rope"):  # slices of one projection
        return llama.apply_rotary(net, query, key, strided=True)
    tape, share = net.tape, rotary_dim(net) / net.spec.head_dim
    assert net.cos is not None
    assert net.sin is not None
    turned = int(query.elements * share)
    query_turn, query_pass = ops.part(tape, query, turned), ops.part(tape, query, query.elements - turned)
    turned = int(key.elements * share)
    key_turn, key_pass = ops.part(tape, key, turned), ops.part(tape, key, key.elements - turned)
    rotated = ops.concat(tape, ops.rotary(tape, query_turn, net.cos, net.sin), query_pass)
    return rotated, ops.concat(tape, ops.rotary(tape, key_turn, net.cos, net.sin), key_pass)


def _mlp(net: Net, x: Tensor) -> Tensor:
    """down(up · act(gate)), gate and up being halves of one projection."""
    tape = net.tape
    up = layers.linear(net, "mlp.gate_up_proj", x)
    gate, up = ops.split(tape, up, net.spec.intermediate_size, net.spec.intermediate_size)
    if liger.runs(net.choices, "swiglu"):
        made = liger.gated(tape, ops.contiguous(tape, gate), ops.contiguous(tape, up))
        return layers.linear(net, "mlp.down_proj", made)  # the halves' names live on, and with them the whole
    up = ops.mul(tape, up, ops.activation(tape, gate, net.spec.activation))
    return layers.linear(net, "mlp.down_proj", up)


PROGRAM = Program(embed=embed, layer=layer, final=llama.final)
