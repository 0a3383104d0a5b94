"""distilbert: bert's embeddings and head around a block with names of its own."""

from __future__ import annotations

from planner.memory.engine import ops
from planner.memory.engine.graph import Tensor
from planner.memory.network import layers
from planner.memory.network.blocks import bert
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """DistilBERT's TransformerBlock."""
    tape = net.tape
    projections = ("attention.q_lin", "attention.k_lin", "attention.v_lin")
    attended, _weights = bert.mix(net, x, projections, "attention.out_lin")
    attended = layers.norm(net, "sa_layer_norm", ops.add(tape, attended, x))
    hidden = _feed_forward(net, attended)
    return layers.norm(net, "output_layer_norm", ops.add(tape, hidden, attended))


def _feed_forward(net: Net, x: Tensor) -> Tensor:
    hidden = layers.linear(net, "ffn.lin1", x)
    hidden = ops.activation(net.tape, hidden, net.spec.activation)
    hidden = layers.linear(net, "ffn.lin2", hidden)
    return layers.dropout(net.tape, hidden, net.spec.hidden_dropout)


PROGRAM = Program(embed=bert.embed, layer=layer, final=bert.final, finish=bert.finish)
