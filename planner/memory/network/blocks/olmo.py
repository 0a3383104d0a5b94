"""olmo: rotary tables in fp32, norms without weights."""

from __future__ import annotations

from planner.memory.engine import norms, ops
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import BYTE, FP32
from planner.memory.engine.tape import Tape
from planner.memory.network import layers
from planner.memory.network.blocks import llama
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Embeddings, masks, fp32 rotary tables."""
    x = net.require_grad_of_inputs(layers.embed(net, "model.embed_tokens"))
    net.named.append(x.alias())
    net.prepare(net.spec.head_dim, rotary=True, wide_tables=net.spec.facts.wide_rotary_tables)
    return x


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm of olmo, which has no weights."""
    x = _plain_norm(net, x)
    net.release()
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One layer of olmo (transformers models/olmo/modeling_olmo.py, OlmoDecoderLayer)."""
    tape = net.tape
    residual = x
    hidden = _plain_norm(net, x)
    hidden = attention(net, hidden)
    hidden = ops.add(tape, residual, hidden)
    residual = hidden
    hidden = _plain_norm(net, hidden)
    hidden = llama.gated_mlp(net, hidden)
    return ops.add(tape, residual, hidden)


def _plain_norm(net: Net, x: Tensor) -> Tensor:
    """Layer norm in fp32 without weight and bias."""
    tape = net.tape
    return ops.to(tape, norms.layer_norm(tape, ops.to(tape, x, FP32), None, None, net.spec.hidden_size), x.itemsize)


def attention(net: Net, hidden: Tensor) -> Tensor:
    """Projections, norms over all queries and keys where there are some, clamping, rotation, output projection."""
    tape = net.tape
    with tape.scope("attention"):
        query = layers.linear(net, "self_attn.q_proj", hidden)
        if "self_attn.q_norm" in net.by_path:
            # Liger leaves these two of a model that is there as they are.
            query = layers.norm(net, "self_attn.q_norm", query, form=net.spec.facts.norm_form, patched=False)
        key = layers.linear(net, "self_attn.k_proj", hidden)
        if "self_attn.k_norm" in net.by_path:
            key = layers.norm(net, "self_attn.k_norm", key, form=net.spec.facts.norm_form, patched=False)
        value = layers.linear(net, "self_attn.v_proj", hidden)
        if net.config("clip_qkv") is not None:
            query, key, value = (clamp_(tape, x) for x in (query, key, value))
        query, key = _rotate(net, query, key)
        return layers.linear(net, "self_attn.o_proj", layers.attend(net, query, key, value))


def _rotate(net: Net, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation in fp32; both fp32 results live until both are cast back."""
    tape = net.tape
    wide_query, wide_key = llama.apply_rotary(net, query, key)
    narrow_query = ops.to(tape, wide_query, query.itemsize)
    return narrow_query, ops.to(tape, wide_key, key.itemsize)


def clamp_(tape: Tape, x: Tensor) -> Tensor:
    """Clamping in place: backward needs the values from before, so that a copy of n·w is saved.

    Backward `where(x >= low and x <= high, grad, 0)`: two masks of n bytes, their conjunction, n·w.
    """
    out = x.alias()

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        low, high = tape.like(s[0], BYTE), tape.like(s[0], BYTE)
        both = tape.like(s[0], BYTE)
        del low, high
        result = tape.like(s[0])
        del both
        return [result]

    return tape.record(out, (x,), (tape.like(x),) if x.requires_grad else (), backward)


PROGRAM = Program(embed=embed, layer=layer, final=final)
