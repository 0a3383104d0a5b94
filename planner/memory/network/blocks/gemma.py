"""gemma 2 and 3: norms before and after attention and MLP, soft caps (2) or norms on queries and keys (3), windows."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.engine.monomials import FP32
from planner.memory.network import layers, liger
from planner.memory.network.attention import Style
from planner.memory.network.blocks import llama
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Scaled embeddings, masks for both kinds of layers, rotary tables (gemma 3: one pair for either kind)."""
    x = llama.embed(net)
    if net.spec.facts.rotary_by_window:
        tape, width = net.tape, net.spec.head_dim
        with tape.scope("attention"):
            wide = [tape.new(net.positions, width, FP32) for _ in range(3)]
            net.window_tables += [tape.new(net.positions, width, net.itemsize) for _ in range(2)]
            del wide  # tidy
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One decoder layer (transformers models/gemma2/modeling_gemma2.py and gemma3, ...DecoderLayer)."""
    tape = net.tape
    residual = x
    hidden = layers.norm(net, "input_layernorm", x, form=net.spec.facts.norm_form)
    hidden = _attention(net, hidden, index)
    hidden = layers.norm(net, "post_attention_layernorm", hidden, form=net.spec.facts.norm_form)
    hidden = ops.add(tape, residual, hidden)
    residual = hidden
    hidden = layers.norm(net, "pre_feedforward_layernorm", hidden, form=net.spec.facts.norm_form)
    hidden = llama.gated_mlp(net, hidden)
    hidden = layers.norm(net, "post_feedforward_layernorm", hidden, form=net.spec.facts.norm_form)
    return ops.add(tape, residual, hidden)


def _attention(net: Net, hidden: Tensor, index: int) -> Tensor:
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        query = layers.linear(net, "self_attn.q_proj", hidden)
        key = layers.linear(net, "self_attn.k_proj", hidden)
        value = layers.linear(net, "self_attn.v_proj", hidden)
        normed = "self_attn.q_norm" in net.by_path
        if normed:
            if liger.runs(net.choices, "rms_norm"):  # which takes rows one after the other; here they are transposed
                query, key = ops.contiguous(tape, query), ops.contiguous(tape, key)
            query = layers.norm(net, "self_attn.q_norm", query, width=spec.head_dim, form=net.spec.facts.norm_form)
            key = layers.norm(net, "self_attn.k_norm", key, width=spec.head_dim, form=net.spec.facts.norm_form)
        sliding = index in spec.sliding_layers
        tables = net.window_tables if sliding and net.window_tables else (net.cos, net.sin)
        query, key = llama.apply_rotary(net, query, key, tables, strided=normed)
        mask = net.window_mask if sliding else None
        softcap = net.config("attn_logit_softcapping") is not None
        mixed = layers.attend(net, query, key, value, mask=mask, style=Style(softcap=softcap))
        return layers.linear(net, "self_attn.o_proj", mixed)


PROGRAM = Program(embed=embed, layer=layer, final=llama.final, kind=llama.kind)
