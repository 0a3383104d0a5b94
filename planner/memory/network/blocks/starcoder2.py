"""starcoder2: llama's attention with biases, layer norms, a plain MLP, dropout after both."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers
from planner.memory.network.blocks import llama, stablelm
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Embeddings with dropout; `inputs_embeds` names them before it until the model returns."""
    x = llama.embed(net)
    return ops.dropout(net.tape, x, net.spec.embedding_dropout)


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/starcoder2/modeling_starcoder2.py, Starcoder2DecoderLayer)."""
    tape = net.tape
    residual = x
    hidden = layers.norm(net, "input_layernorm", x)
    hidden = _attention(net, hidden, index)
    hidden = ops.add(tape, residual, hidden)
    residual = hidden
    hidden = layers.norm(net, "post_attention_layernorm", hidden)
    hidden = _mlp(net, hidden)
    return ops.add(tape, residual, hidden)


def _attention(net: Net, hidden: Tensor, index: int) -> Tensor:
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        query = layers.linear(net, "self_attn.q_proj", hidden)
        key = layers.linear(net, "self_attn.k_proj", hidden)
        value = layers.linear(net, "self_attn.v_proj", hidden)
        query, key = llama.apply_rotary(net, query, key)
        mixed = layers.attend(net, query, key, value, mask=net.window_mask if index in spec.sliding_layers else None)
        mixed = layers.linear(net, "self_attn.o_proj", mixed)
        return ops.dropout(tape, mixed, spec.hidden_dropout)


def _mlp(net: Net, x: Tensor) -> Tensor:
    tape = net.tape
    lean = layers.lean_mlp(net, "mlp.c_proj")
    if lean:
        hidden = layers.activated(net, "mlp.c_proj", layers.linear(net, "mlp.c_fc", x))
    else:
        hidden = layers.linear(net, "mlp.c_fc", x)
        hidden = ops.activation(tape, hidden, net.spec.activation)
        hidden = layers.linear(net, "mlp.c_proj", hidden)
    # A function call, which keeps its mask but where the whole MLP has its lean form.
    return (layers.dropout if lean else ops.dropout)(tape, hidden, net.spec.hidden_dropout)


PROGRAM = Program(embed=embed, layer=layer, final=stablelm.final)
