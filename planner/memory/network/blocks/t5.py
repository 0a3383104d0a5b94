"""t5, its version 1.1 and FLAN: encoder and decoder, relative positions as an additive mask, RMS norms.

Answers may have a length of their own (planner.memory.network.answers). Source: transformers 5.23
models/t5/modeling_t5.py and integrations/sdpa_attention.py (create_position_bias_mask; read 2026-11).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

from planner.contract.sentence import named
from planner.memory.engine import ops
from planner.memory.engine.graph import Node, Tensor
from planner.memory.engine.monomials import BSS, BSU, BUU, BYTE, FP32, HALF, INT64, ONE, SS, T
from planner.memory.network import answers, attention, layers
from planner.memory.network.attention import Heads, Style
from planner.memory.network.blocks.bert import two_way_eager
from planner.memory.network.blocks.program import Program
from planner.memory.network.loss_heads import vocabulary
from planner.memory.network.net import Net, unmodelled


@dataclass(slots=True)
class Shared:
    """What all layers of one stack take besides the hidden states."""

    decoder: bool
    mask: Tensor | None = None
    """Padding (encoder), or causality under eager (decoder)."""
    cross_mask: Tensor | None = None
    bias: Tensor | None = None
    """Relative positions, made by the first layer: (1, heads, length, length), heads last in memory."""
    cross_bias: Tensor | None = None
    """The zeros that stand for positions in the cross attention."""
    states: Tensor | None = None
    """The encoder's output."""
    named: list[Tensor] = field(default_factory=list)


def embed(net: Net) -> Tensor:
    """The encoder's embeddings, its mask and dropout."""
    if net.spec.task == "classification":
        raise unmodelled("t5 with a classification head")
    if net.choices.precision == "fp16":
        raise unmodelled("t5 in ", named("precision"), " fp16 (its `wo` stays in fp32 and every layer clamps)")
    if net.choices.attention == "flash":
        raise unmodelled("t5 with ", named("attention"), " flash (transformers has none for it)")
    net.stack = Shared(decoder=False, mask=_mask(net, padding=True))
    return _embeddings(net)


def _embeddings(net: Net) -> Tensor:
    x = net.require_grad_of_inputs(layers.embed(net, "shared"))
    stack = _stack(net)
    stack.named.append(x.alias())
    return layers.dropout(net.tape, x, net.spec.embedding_dropout)


def _stack(net: Net) -> Shared:
    assert isinstance(net.stack, Shared)
    return net.stack


def _mask(net: Net, *, padding: bool) -> Tensor | None:
    """The encoder's padding mask, boolean or (eager) additive; with padding=False the decoder's causal one."""
    eager = net.choices.attention == "eager"
    if not (net.padded if padding else eager):
        return None
    with net.tape.scope("attention"):
        mask = net.tape.new(BSS if padding else SS, 1, BYTE)
        return net.tape.new(BSS, 1, net.itemsize) if eager else mask


def between(net: Net, x: Tensor) -> Tensor:
    """End of the encoder, the shifted labels, start of the decoder."""
    states = _finish_stack(net, "encoder", x)
    net.named.append(states)
    with answers.answers(net):
        ids = net.tape.new(T, 1, INT64)
        net.named.append(ids)
        decoder = Shared(decoder=True, states=states)
        net.stack = decoder
        x = net.require_grad_of_inputs(_lookup(net, ids))
        decoder.named.append(x.alias())
        decoder.mask = _mask(net, padding=False)
        with answers.both(net):
            decoder.cross_mask = _mask(net, padding=True)
        return layers.dropout(net.tape, x, net.spec.embedding_dropout)


def _lookup(net: Net, ids: Tensor) -> Tensor:
    module = net.by_path["shared"]
    count, width = module.shape[0] * module.shape[1], net.itemsize
    weight = net.shared_weight("shared", count)
    out = net.tape.new(T, module.shape[1], width)
    return net.tape.record(out, (weight.tensor,), (ids.alias(),), lambda g, s: (net.tape.new(ONE, count, width),))


def _finish_stack(net: Net, stack: str, x: Tensor) -> Tensor:
    x = _norm(net, f"{stack}.final_layer_norm", x)
    x = layers.dropout(net.tape, x, net.spec.hidden_dropout)
    net.stack = None
    return x


def final(net: Net, x: Tensor) -> Tensor:
    """End of the decoder; version 1.0 scales its output."""
    with answers.answers(net):
        x = _finish_stack(net, "decoder", x)
        net.named.append(x)
        if net.config("scale_decoder_outputs", True):
            x = ops.scale(net.tape, x)
            net.named.append(x)
        return x


def finish(net: Net, inputs: list[Tensor], keep: list[Tensor]) -> Tensor:
    """Output layer and cross-entropy."""
    with answers.answers(net):
        return vocabulary(net, inputs, keep, path="lm_head")


def kind(net: Net, index: int) -> bool:
    """Encoder or decoder."""
    return index >= net.spec.num_layers


def bind(net: Net, index: int) -> Bound:
    """T5Block with what it takes besides the hidden states: masks, the biases made so far, the encoder's output."""
    stack = _stack(net)
    return Bound(net, Shared(stack.decoder, stack.mask, stack.cross_mask, stack.bias, stack.cross_bias, stack.states))


@dataclass(frozen=True, slots=True)
class Bound:
    """A block that holds on to its arguments."""

    net: Net
    held: Shared

    def __call__(self, x: Tensor) -> Tensor:
        return _block(self.net, x, self.held)

    def offloaded(self) -> Callable[[Tensor], Tensor]:
        """The block on copies of its arguments that come back from host memory with the hidden states.

        transformers hands all of them to the checkpoint by position, which saves every one.
        """
        tape, net, decoder = self.net.tape, self.net, self.held.decoder
        there = {name: getattr(self.held, name) for name in ("mask", "bias", "states", "cross_mask", "cross_bias")}
        shapes = {
            name: (x.monomial, x.elements, x.itemsize, x.node, x.slot) for name, x in there.items() if x is not None
        }

        def again(x: Tensor) -> Tensor:
            back = {}
            for name, (monomial, elements, itemsize, node, slot) in shapes.items():
                back[name] = tape.new(monomial, elements, itemsize)
                back[name].node, back[name].slot = node, slot
                if net.choices.checkpoint_reentrant:  # whose backward runs inside the function that unpacked them
                    tape.hold(back[name])
            return _block(
                net,
                x,
                Shared(
                    decoder,
                    back.get("mask"),
                    back.get("cross_mask"),
                    back.get("bias"),
                    back.get("cross_bias"),
                    back.get("states"),
                ),
            )

        return again


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One block; layers run by `bind`, which keeps what they share."""
    return bind(net, index)(x)


def _block(net: Net, x: Tensor, held: Shared) -> Tensor:
    with answers.answers(net) if held.decoder else answers.source(net):
        return _parts(net, x, held)


def _parts(net: Net, x: Tensor, held: Shared) -> Tensor:
    base = f"{'decoder' if held.decoder else 'encoder'}.block.{{}}.layer"
    hidden, bias = _attention_layer(net, x, f"{base}.0", "SelfAttention", None, held.mask, held.bias, held.decoder)
    cross = None
    if held.decoder:
        hidden, cross = _attention_layer(
            net, hidden, f"{base}.1", "EncDecAttention", held.states, held.cross_mask, held.cross_bias, False
        )
    hidden = _feed_forward(net, hidden, f"{base}.{2 if held.decoder else 1}")
    if net.tape.refilling is None:
        stack = _stack(net)
        stack.bias, stack.cross_bias = bias, cross
    return hidden


def _attention_layer(
    net: Net,
    x: Tensor,
    layer: str,
    name: str,
    states: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """T5LayerSelfAttention or T5LayerCrossAttention; returns the bias as well."""
    tape = net.tape
    normed = _norm(net, f"{layer}.layer_norm", x)
    attended, bias = _attention(net, normed, f"{layer}.{name}", states, mask, bias, causal)
    attended = ops.add(tape, x, layers.dropout(tape, attended, net.spec.hidden_dropout))
    del normed  # tidy
    return attended, bias


def _attention(
    net: Net,
    x: Tensor,
    path: str,
    states: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    tape = net.tape
    with tape.scope("attention"):
        query = layers.linear(net, f"{path}.q", x)
        seen = x if states is None else states
        with nullcontext() if states is None else answers.source(net):
            key = layers.linear(net, f"{path}.k", seen)
            value = layers.linear(net, f"{path}.v", seen)
        with nullcontext() if states is None else answers.both(net):
            if bias is None:
                bias = _relative_positions(net, path) if states is None else _zero_positions(net, query.itemsize)
            if net.choices.attention == "eager":
                mixed, weights = two_way_eager(net, query, key, value, mask, net.spec.attention_dropout, bias)
                net.attention_weights = weights
            else:
                additive = _additive(net, bias, mask, causal=causal, copied=states is None)
                heads = Heads(net.spec.num_heads, net.spec.num_heads, net.spec.head_dim)
                if tape.rules.autocast:
                    query, key, value = (ops.to(tape, x, HALF) for x in (query, key, value))
                    additive = ops.to(tape, additive, HALF)
                if layers.composite_attention(net, net.spec.attention_dropout):
                    with tape.outside_autocast():
                        style = Style(causal=False, dropout=net.spec.attention_dropout)
                        mixed = attention.math(tape, query, key, value, additive, heads, style)
                else:
                    mixed = attention.efficient(tape, query, key, value, additive, heads)
                del additive
        mixed = layers.linear(net, f"{path}.o", mixed)
        return mixed, bias


def _relative_positions(net: Net, path: str) -> Tensor:
    """compute_bias: bucket numbers by several int64 tensors of length², then one row of the table for each.

    An encoder looks both ways, and holds which way besides.
    """
    tape, heads = net.tape, net.spec.num_heads
    module = net.by_path[f"{path}.relative_attention_bias"]
    count, width = module.shape[0] * module.shape[1], net.itemsize
    relative = tape.new(SS, 1, INT64)
    held = [tape.new(SS, 1, INT64) for _ in range(2 if path.startswith("decoder") else 3)]
    held.append(tape.new(SS, 1, BYTE))
    held.append(tape.new(SS, 1, INT64))
    buckets = tape.new(SS, 1, INT64)
    held.clear()
    weight = net.base_weight(count)
    out = tape.new(SS, heads, width)
    del relative  # tidy
    return tape.record(out, (weight.tensor,), (buckets,), lambda g, s: (tape.new(ONE, count, width),))


def _zero_positions(net: Net, itemsize: int) -> Tensor:
    """Zeros in the queries' dtype for the cross attention; under checkpointing a leaf that wants a gradient."""
    tape = net.tape
    zeros = tape.new(SS, net.spec.num_heads, itemsize)
    if net.choices.gradient_checkpointing and tape.grad_enabled:
        tape.sequence += 1
        zeros.node = Node(tape.sequence, (), (), net.input_gradients_kept)
        if tape.refilling is None:
            net.input_gradients.append(zeros.alias())
    return zeros


def _additive(net: Net, bias: Tensor, mask: Tensor | None, *, causal: bool, copied: bool) -> Tensor:
    """The bias with the mask laid over it, contiguous, spread over the batch; each layer makes its own."""
    tape, heads, width = net.tape, net.spec.num_heads, bias.itemsize
    if mask is None and causal:
        mask = tape.new(SS, 1, BYTE)
    if mask is not None:
        bias = _where(net, mask, bias)
    if copied:
        bias = ops.contiguous(tape, bias)
    if bias.monomial in (BSS, BUU, BSU):
        return bias
    return tape.record(bias.alias(), (bias,), (), lambda g, s: (tape.new(SS, heads, width),))


def _where(net: Net, mask: Tensor, bias: Tensor) -> Tensor:
    """where(mask, bias, lowest): saves the mask; backward a tensor of the full shape, then the sum over the batch."""
    tape, heads, width, monomial = net.tape, net.spec.num_heads, bias.itemsize, mask.monomial

    def backward(g: list[Tensor | None], s: tuple[Tensor, ...]) -> list[Tensor | None]:
        chosen = tape.new(monomial, heads, width)
        return [tape.new(SS, heads, width) if monomial in (BSS, BUU, BSU) else chosen]

    return tape.record(tape.new(monomial, heads, width), (bias,), (mask,), backward)


def _feed_forward(net: Net, x: Tensor, layer: str) -> Tensor:
    """T5LayerFF."""
    tape = net.tape
    hidden = _norm(net, f"{layer}.layer_norm", x)
    hidden = _dense(net, hidden, f"{layer}.DenseReluDense")
    return ops.add(tape, x, layers.dropout(tape, hidden, net.spec.hidden_dropout))


def _dense(net: Net, x: Tensor, path: str) -> Tensor:
    tape, name = net.tape, net.spec.activation
    if not net.config("is_gated_act"):
        hidden = layers.linear(net, f"{path}.wi", x)
        hidden = ops.activation(tape, hidden, name)
        hidden = layers.dropout(tape, hidden, net.spec.hidden_dropout)
        return layers.linear(net, f"{path}.wo", hidden)
    gate = ops.activation(tape, layers.linear(net, f"{path}.wi_0", x), name)
    up = layers.linear(net, f"{path}.wi_1", x)
    hidden = ops.mul(tape, gate, up)
    hidden = layers.dropout(tape, hidden, net.spec.hidden_dropout)
    hidden = layers.linear(net, f"{path}.wo", hidden)
    del gate, up  # tidy
    return hidden


def _norm(net: Net, path: str, x: Tensor) -> Tensor:
    """T5LayerNorm: x in its own dtype times the fp32 inverse root, cast back, times the weight."""
    tape, width = net.tape, net.spec.hidden_size
    weight = net.base_weight(width)
    variance = ops.mean_last(tape, ops.power(tape, ops.to(tape, x, FP32)), width)
    hidden = ops.mul(tape, x, ops.rsqrt(tape, ops.shift(tape, variance)))
    hidden = ops.to(tape, hidden, net.itemsize)
    return ops.mul(tape, weight.tensor, hidden)


PROGRAM = Program(embed=embed, layer=layer, final=final, kind=kind, finish=finish, between=between, bind=bind)
