"""gpt_neox (Pythia): fused projections, partial rotary embedding, parallel or serial residual."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers
from planner.memory.network.attention import Style
from planner.memory.network.blocks.phi import partial_rotary, rotary_dim
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Embeddings with dropout; `inputs_embeds` names them before it until the model returns."""
    x = net.require_grad_of_inputs(layers.embed(net, "gpt_neox.embed_in"))
    net.named.append(x.alias())
    net.prepare(rotary_dim(net), rotary=True)
    return layers.dropout(net.tape, x, net.spec.embedding_dropout)


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm."""
    x = layers.norm(net, "gpt_neox.final_layer_norm", x)
    net.release()
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/gpt_neox/modeling_gpt_neox.py, GPTNeoXLayer)."""
    tape, drop = net.tape, net.spec.hidden_dropout
    attended = _attention(net, layers.norm(net, "input_layernorm", x))
    attended = layers.dropout(tape, attended, drop)
    if net.config("use_parallel_residual", True):
        forwarded = _mlp(net, layers.norm(net, "post_attention_layernorm", x))
        forwarded = layers.dropout(tape, forwarded, drop)
        return ops.add(tape, ops.add(tape, forwarded, attended), x)
    attended = ops.add(tape, attended, x)
    forwarded = _mlp(net, layers.norm(net, "post_attention_layernorm", attended))
    forwarded = layers.dropout(tape, forwarded, drop)
    return ops.add(tape, forwarded, attended)


def _attention(net: Net, hidden: Tensor) -> Tensor:
    tape = net.tape
    with tape.scope("attention"):
        fused = layers.linear(net, "attention.query_key_value", hidden)
        width = fused.elements // 3
        query, key, value = ops.split(tape, fused, width, width, width)
        query, key, _ = partial_rotary(net, query, key)
        del _
        return layers.linear(
            net, "attention.dense", layers.attend(net, query, key, value, style=Style(heads_first=True))
        )


def _mlp(net: Net, x: Tensor) -> Tensor:
    if layers.lean_mlp(net, "mlp.dense_4h_to_h"):
        return layers.activated(net, "mlp.dense_4h_to_h", layers.linear(net, "mlp.dense_h_to_4h", x))
    hidden = layers.linear(net, "mlp.dense_h_to_4h", x)
    hidden = ops.activation(net.tape, hidden, net.spec.activation)
    return layers.linear(net, "mlp.dense_4h_to_h", hidden)


PROGRAM = Program(embed=embed, layer=layer, final=final)
