"""starcoder2: llama's attention with biases, layer norms, a plain MLP, dropout after both."""

from __future__ import annotations

from planner.memory import ops
from planner.memory.blocks import llama
from planner.memory.net import Net
from planner.memory.tape import Tensor


def embed(net: Net) -> Tensor:
    """Embeddings with dropout; `inputs_embeds` names them before it until the model returns."""
    x = llama.embed(net)
    return ops.dropout(net.tape, x, net.spec.embedding_dropout, written_out=True)


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/starcoder2/modeling_starcoder2.py, Starcoder2DecoderLayer)."""
    tape = net.tape
    residual = x
    hidden = net.norm("input_layernorm", x)
    hidden = _attention(net, hidden, index)
    hidden = ops.add(tape, residual, hidden)
    residual = hidden
    hidden = net.norm("post_attention_layernorm", hidden)
    hidden = _mlp(net, hidden)
    return ops.add(tape, residual, hidden)


def _attention(net: Net, hidden: Tensor, index: int) -> Tensor:
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        query = net.linear("self_attn.q_proj", hidden)
        key = net.linear("self_attn.k_proj", hidden)
        value = net.linear("self_attn.v_proj", hidden)
        query, key = llama.apply_rotary(net, query, key)
        mixed = net.attend(query, key, value, mask=net.window_mask if index in spec.sliding_layers else None)
        mixed = net.linear("self_attn.o_proj", mixed)
        return ops.dropout(tape, mixed, spec.hidden_dropout, written_out=True)


def _mlp(net: Net, x: Tensor) -> Tensor:
    tape = net.tape
    lean = net.lean_mlp("mlp.c_proj")
    if lean:
        hidden = net.activated("mlp.c_proj", net.linear("mlp.c_fc", x))
    else:
        hidden = net.linear("mlp.c_fc", x)
        hidden = ops.activation(tape, hidden, net.spec.activation)
        hidden = net.linear("mlp.c_proj", hidden)
    # A function call, which keeps its mask but where the whole MLP has its lean form.
    return ops.dropout(tape, hidden, net.spec.hidden_dropout, written_out=not lean)
