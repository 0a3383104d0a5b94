"""gpt2 and gpt_bigcode: learned positions, fused projections, plain MLP, dropout after both."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers
from planner.memory.network.attention import Style
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net, unmodelled


def embed(net: Net) -> Tensor:
    """Word and position embeddings, both named until the model returns, their sum with dropout."""
    tape = net.tape
    words = net.require_grad_of_inputs(layers.embed(net, "transformer.wte"))
    positions = layers.embed(net, "transformer.wpe", net.positions)
    x = ops.add(tape, words, positions)
    net.named += [words.alias(), positions.alias()]
    net.prepare(0, rotary=False)
    return layers.dropout(tape, x, net.spec.embedding_dropout)


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm."""
    x = layers.norm(net, "transformer.ln_f", x)
    net.release()
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One block (transformers models/gpt2/modeling_gpt2.py, GPT2Block; gpt_bigcode, GPTBigCodeBlock)."""
    tape = net.tape
    residual = x
    hidden = layers.norm(net, "ln_1", x)
    attended = _attention(net, hidden)
    hidden = ops.add(tape, attended, residual)
    residual = hidden
    hidden = layers.norm(net, "ln_2", hidden)
    forwarded = _mlp(net, hidden)
    return ops.add(tape, residual, forwarded)


def _attention(net: Net, hidden: Tensor) -> Tensor:
    tape, spec = net.tape, net.spec
    fp32 = spec.facts.fp32_softmax
    if not fp32 and net.choices.attention == "eager" and net.config("reorder_and_upcast_attn"):
        raise unmodelled("gpt2's reorder_and_upcast_attn under eager attention")
    with tape.scope("attention"):
        width = spec.num_kv_heads * spec.head_dim
        fused = layers.linear(net, "attn.c_attn", hidden)
        if net.choices.keep_cache:
            tape.returns(fused)  # its keys and values are views of it
        query, key, value = ops.split(tape, fused, spec.hidden_size, width, width)
        del fused  # tidy
        mixed = layers.attend(net, query, key, value, style=Style(fp32_softmax=fp32))
        mixed = layers.linear(net, "attn.c_proj", mixed)
        return layers.dropout(tape, mixed, spec.hidden_dropout)


def _mlp(net: Net, x: Tensor) -> Tensor:
    tape = net.tape
    if layers.lean_mlp(net, "mlp.c_proj"):
        hidden = layers.activated(net, "mlp.c_proj", layers.linear(net, "mlp.c_fc", x))
    else:
        hidden = layers.linear(net, "mlp.c_fc", x)
        hidden = ops.activation(tape, hidden, net.spec.activation)
        hidden = layers.linear(net, "mlp.c_proj", hidden)
    return layers.dropout(tape, hidden, net.spec.hidden_dropout)


PROGRAM = Program(embed=embed, layer=layer, final=final)
