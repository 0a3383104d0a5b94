"""olmo2: as olmo, with norms after attention and MLP."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers
from planner.memory.network.blocks import llama, olmo
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One layer of olmo2 (transformers models/olmo2/modeling_olmo2.py, Olmo2DecoderLayer)."""
    tape = net.tape
    residual = x
    hidden = olmo.attention(net, x)
    hidden = layers.norm(net, "post_attention_layernorm", hidden, form=net.spec.facts.norm_form)
    hidden = ops.add(tape, residual, hidden)
    residual = hidden
    hidden = llama.gated_mlp(net, hidden)
    hidden = layers.norm(net, "post_feedforward_layernorm", hidden, form=net.spec.facts.norm_form)
    return ops.add(tape, residual, hidden)


PROGRAM = Program(embed=olmo.embed, layer=layer, final=llama.final)
