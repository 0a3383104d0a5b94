"""stablelm: layer norms, partial rotary embedding, optionally parallel residual and a norm for each head."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers
from planner.memory.network.attention import Style
from planner.memory.network.blocks import llama, phi
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm."""
    x = layers.norm(net, "model.norm", x)
    net.release()
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/stablelm/modeling_stablelm.py, StableLmDecoderLayer)."""
    tape, drop = net.tape, net.spec.hidden_dropout
    residual = x
    hidden = layers.norm(net, "input_layernorm", x)
    attended = _attention(net, hidden)
    if net.config("use_parallel_residual"):
        forwarded = llama.gated_mlp(net, hidden)
        forwarded = layers.dropout(tape, forwarded, drop)
        return ops.add(tape, ops.add(tape, residual, attended), forwarded)
    residual = ops.add(tape, residual, attended)
    forwarded = llama.gated_mlp(net, layers.norm(net, "post_attention_layernorm", residual))
    forwarded = layers.dropout(tape, forwarded, drop)
    return ops.add(tape, residual, forwarded)


def _attention(net: Net, hidden: Tensor) -> Tensor:
    with net.tape.scope("attention"):
        query = layers.linear(net, "self_attn.q_proj", hidden)
        key = layers.linear(net, "self_attn.k_proj", hidden)
        value = layers.linear(net, "self_attn.v_proj", hidden)
        if net.config("qk_layernorm"):
            query = _norm_per_head(net, "q", query, net.spec.num_heads)
            key = _norm_per_head(net, "k", key, net.spec.num_kv_heads)
        query, key, named = phi.partial_rotary(net, query, key)
        mixed = layers.attend(net, query, key, value, style=Style(heads_first=True))
        mixed = layers.linear(net, "self_attn.o_proj", mixed)
        del named  # tidy
        return mixed


def _norm_per_head(net: Net, name: str, x: Tensor, heads: int) -> Tensor:
    """Splits the heads, gives each its own layer norm, puts them together again."""
    width = net.spec.head_dim
    parts = ops.split(net.tape, x, *(width,) * heads)
    normed = [layers.norm(net, f"self_attn.{name}_layernorm.norms.{i}", part) for i, part in enumerate(parts)]
    return ops.concat(net.tape, *normed)


PROGRAM = Program(embed=phi.embed, layer=layer, final=final)
