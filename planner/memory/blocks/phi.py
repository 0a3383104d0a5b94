"""phi (1.5 and 2): parallel attention and MLP, partial rotary embedding, LayerNorm, residual dropout."""

from __future__ import annotations

from planner.memory import ops
from planner.memory.blocks.llama import apply_rotary
from planner.memory.net import Net
from planner.memory.tape import Tensor


def embed(net: Net) -> Tensor:
    """Embeddings with dropout, masks, tables for the part of the heads that turns."""
    x = net.require_grad_of_inputs(net.embed("model.embed_tokens"))
    net.prepare(rotary_dim(net), rotary=True)
    x = ops.dropout(net.tape, x, net.spec.embedding_dropout)
    net.named.append(x.alias())
    return x


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm."""
    x = net.norm("model.final_layernorm", x)
    net.release()
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/phi/modeling_phi.py, PhiDecoderLayer)."""
    tape = net.tape
    drop = net.spec.hidden_dropout
    residual = x
    hidden = net.norm("input_layernorm", x)
    attended = _attention(net, hidden)
    attended = ops.dropout(tape, attended, drop)
    forwarded = ops.dropout(tape, _mlp(net, hidden), drop)
    return ops.add(tape, ops.add(tape, attended, forwarded), residual)


def _attention(net: Net, hidden: Tensor) -> Tensor:
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        query = net.linear("self_attn.q_proj", hidden)
        key = net.linear("self_attn.k_proj", hidden)
        value = net.linear("self_attn.v_proj", hidden)
        if "self_attn.q_layernorm" in net.by_path:
            query = net.norm("self_attn.q_layernorm", query, width=spec.head_dim)
            key = net.norm("self_attn.k_layernorm", key, width=spec.head_dim)
        query, key, named = partial_rotary(net, query, key)
        mixed = net.attend(query, key, value, heads_first=True)
        mixed = net.linear("self_attn.dense", mixed)
        del named
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
    if net.lean_mlp("mlp.fc2"):
        return net.activated("mlp.fc2", net.linear("mlp.fc1", x))
    hidden = net.linear("mlp.fc1", x)
    hidden = ops.activation(net.tape, hidden, net.spec.activation)
    return net.linear("mlp.fc2", hidden)
