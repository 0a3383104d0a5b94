"""phi (1.5 and 2): parallel attention and MLP, partial rotary embedding, LayerNorm, residual dropout."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers
from planner.memory.network.attention import Style
from planner.memory.network.blocks.llama import apply_rotary
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Embeddings with dropout, masks, tables for the part of the heads that turns."""
    x = net.require_grad_of_inputs(layers.embed(net, "model.embed_tokens"))
    net.prepare(rotary_dim(net), rotary=True)
    x = layers.dropout(net.tape, x, net.spec.embedding_dropout)
    net.named.append(x.alias())
    return x


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm."""
    x = layers.norm(net, "model.final_layernorm", x)
    net.release()
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/phi/modeling_phi.py, PhiDecoderLayer)."""
    tape = net.tape
    drop = net.spec.hidden_dropout
    residual = x
    hidden = layers.norm(net, "input_layernorm", x)
    attended = _attention(net, hidden)
    attended = layers.dropout(tape, attended, drop)
    forwarded = layers.dropout(tape, _mlp(net, hidden), drop)
    return ops.add(tape, ops.add(tape, attended, forwarded), residual)


def _attention(net: Net, hidden: Tensor) -> Tensor:
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        query = layers.linear(net, "self_attn.q_proj", hidden)
        key = layers.linear(net, "self_attn.k_proj", hidden)
        value = layers.linear(net, "self_attn.v_proj", hidden)
        if "self_attn.q_layernorm" in net.by_path:
            query = layers.norm(net, "self_attn.q_layernorm", query, width=spec.head_dim)
            key = layers.norm(net, "self_attn.k_layernorm", key, width=spec.head_dim)
        query, key, named = partial_rotary(net, query, key)
        mixed = layers.attend(net, query, key, value, style=Style(heads_first=True))
        mixed = layers.linear(net, "self_attn.dense", mixed)
        del named  # tidy
        return mixed


def partial_rotary(net: Net, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Rotates the first dimensions of every head and puts the rest back behind them.

    Also returns the parts, which an attention that rotates in its own body goes on naming until its end.
    """
    tape, spec = net.tape, net.spec
    share = rotary_dim(net) / spec.head_dim
    turned, passed = int(query.elements * share), query.elements - int(query.elements * share)
    query_turn, query_pass = ops.part(tape, query, turned), ops.part(tape, query, passed)
    turned, passed = int(key.elements * share), key.elements - int(key.elements * share)
    key_turn, key_pass = ops.part(tape, key, turned), ops.part(tape, key, passed)
    query_turn, key_turn = apply_rotary(net, query_turn, key_turn)
    whole_query, whole_key = ops.concat(tape, query_turn, query_pass), ops.concat(tape, key_turn, key_pass)
    return whole_query, whole_key, (query_turn, query_pass, key_turn, key_pass)


def rotary_dim(net: Net) -> int:
    """Dimensions per head that the rotary embedding turns."""
    rope = net.spec.config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", net.spec.config.get("partial_rotary_factor", 1.0))
    return int(net.spec.head_dim * share)


def _mlp(net: Net, x: Tensor) -> Tensor:
    if layers.lean_mlp(net, "mlp.fc2"):
        return layers.activated(net, "mlp.fc2", layers.linear(net, "mlp.fc1", x))
    hidden = layers.linear(net, "mlp.fc1", x)
    hidden = ops.activation(net.tape, hidden, net.spec.activation)
    return layers.linear(net, "mlp.fc2", hidden)


PROGRAM = Program(embed=embed, layer=layer, final=final)
