"""falcon with rotary positions: one key-value head (7B), groups of them (40B, 180B) or one for each query head."""

from __future__ import annotations

from planner.memory.engine import norms, ops, products
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import BSS, BYTE, FP32, HALF, T
from planner.memory.engine.tape import Tape
from planner.memory.network import attention, layers
from planner.memory.network.attention import Heads, Style
from planner.memory.network.blocks import llama
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """Embeddings, rotary tables and a mask that is always made, padding or not, but for flash attention."""
    x = net.require_grad_of_inputs(layers.embed(net, "transformer.word_embeddings"))
    net.named.append(x.alias())
    net.prepare(net.spec.head_dim, rotary=True)
    if net.mask is None and net.choices.attention != "flash":
        with net.tape.scope("attention"):
            net.mask = net.tape.new(net.mask_rows, 1, BYTE)
    return x


def final(net: Net, x: Tensor) -> Tensor:
    """The last norm; the last layer's outputs are named until the model returns."""
    x = layers.norm(net, "transformer.ln_f", x)
    net.release()
    return x


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """One layer (transformers models/falcon/modeling_falcon.py, FalconDecoderLayer)."""
    tape, spec = net.tape, net.spec
    grouped, parallel = bool(net.config("new_decoder_architecture")), bool(net.config("parallel_attn"))
    residual = x
    if grouped and net.config("num_ln_in_parallel_attn") == 2:
        normed = layers.norm(net, "ln_attn", x)
        mlp_input = layers.norm(net, "ln_mlp", x)
    else:
        normed = mlp_input = layers.norm(net, "input_layernorm", x)
    attended = _attention(net, normed)
    if not grouped and not parallel:
        residual = _dropout_add(net, attended, residual, spec.attention_dropout)
        mlp_input = layers.norm(net, "post_attention_layernorm", residual)
    hidden = _mlp(net, mlp_input)
    if grouped or parallel:
        hidden = ops.add_(tape, hidden, attended)
    out = _dropout_add(net, hidden, residual, spec.hidden_dropout)
    if net.attention_weights is not None:
        tape.also_returns(net.attention_weights)
        if tape.refilling is None:
            # The model names a layer's outputs until the next one has returned.
            net.named[1:] = [net.attention_weights]
    return out


def _dropout_add(net: Net, x: Tensor, residual: Tensor, probability: float) -> Tensor:
    dropped = ops.dropout(net.tape, x, probability)
    return ops.add(net.tape, residual, dropped)


def _mlp(net: Net, x: Tensor) -> Tensor:
    if layers.lean_mlp(net, "mlp.dense_4h_to_h"):
        return layers.activated(net, "mlp.dense_4h_to_h", layers.linear(net, "mlp.dense_h_to_4h", x))
    x = ops.activation(net.tape, layers.linear(net, "mlp.dense_h_to_4h", x), net.spec.activation)
    return layers.linear(net, "mlp.dense_4h_to_h", x)


def _attention(net: Net, hidden: Tensor) -> Tensor:
    tape, spec = net.tape, net.spec
    with tape.scope("attention"):
        fused = layers.linear(net, "self_attention.query_key_value", hidden)
        query, key, value = _split_heads(net, fused)
        heads = spec.num_heads if net.config("new_decoder_architecture") else spec.num_kv_heads
        query, key = llama.apply_rotary(net, query, key)
        if net.choices.attention == "eager":
            mixed, weights = _eager(net, query, key, value, heads)
            net.attention_weights = weights
        elif heads == spec.num_heads or net.choices.attention == "flash":
            mixed = layers.attend(
                net, query, key, value, heads=Heads(spec.num_heads, heads, spec.head_dim), style=Style(dropout=0.0)
            )
        else:
            mixed = _composite(net, query, key, value)
        mixed = layers.linear(net, "self_attention.dense", mixed)
        del fused  # tidy
        return mixed


def _split_heads(net: Net, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries as a slice; keys and values as slices, or taken by index (copies) and, in groups, spread over them."""
    tape, spec = net.tape, net.spec
    groups, width = spec.num_kv_heads, spec.num_heads * spec.head_dim
    narrow = groups * spec.head_dim
    query = ops.part(tape, fused, width)
    if not net.config("new_decoder_architecture") and not net.config("multi_query"):
        return query, ops.part(tape, fused, width), ops.part(tape, fused, width)
    key, value = _taken(tape, fused, narrow), _taken(tape, fused, narrow)
    if not net.config("new_decoder_architecture"):
        return query, key, value
    if groups > 1:
        query = ops.contiguous(tape, query)
    small_key, small_value = key, value
    copies = spec.num_heads // groups
    wide_key = attention.repeat_kv(tape, small_key, copies, groups)
    return query, wide_key, attention.repeat_kv(tape, small_value, copies, groups)


def _taken(tape: Tape, x: Tensor, elements: int) -> Tensor:
    """Heads taken by a list of indices: a copy; backward zeros of the whole, filled: n_whole·w."""
    out, size, width = tape.new(x.monomial, elements, x.itemsize), (x.monomial, x.elements), x.itemsize
    return tape.record(out, (x,), (), lambda g, s: (tape.new(size[0], size[1], width),))


def _spread(tape: Tape, x: Tensor, copies: int, kv_heads: int) -> Tensor:
    """Keys or values over all query heads by broadcasting in the product, which autocast casts beforehand."""
    return attention.repeat_kv(tape, ops.to(tape, x, HALF) if tape.rules.autocast else x, copies, kv_heads)


def _product(tape: Tape, weights: Tensor, value: Tensor, heads: int, kv_heads: int) -> Tensor:
    """weights · v, heads first; values are copied, over all heads where there is one."""
    value = _spread(tape, value, heads // kv_heads, kv_heads)
    size = value.elements
    return products.matmul(tape, weights, value, T, size, copy_a=False, copy_b=True)


def _eager(net: Net, query: Tensor, key: Tensor, value: Tensor, kv_heads: int) -> tuple[Tensor, Tensor]:
    """Scores divided in place, mask, softmax in their own dtype, product, copy; no dropout."""
    tape, heads = net.tape, net.spec.num_heads
    assert net.mask is not None
    scores = _spread(tape, key, heads // kv_heads, kv_heads)
    scores = scale_(tape, products.matmul(tape, query, scores, BSS, heads, copy_a=True, copy_b=True))
    scores = norms.softmax(tape, ops.add(tape, scores, net.mask))
    mixed = _product(tape, scores, value, heads, kv_heads)
    return ops.contiguous(tape, mixed), scores


def scale_(tape: Tape, x: Tensor) -> Tensor:
    """x divided by a number in place: no new bytes; backward n·w."""
    return tape.record(x.alias(), (x,), (), lambda g, s: (tape.like(_only(g)),))


def _only(gradients: Gradients) -> Tensor:
    gradient = gradients[0]
    assert gradient is not None
    return gradient


def _composite(net: Net, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's composite kernel, the only one that spreads a single key-value head over all queries.

    In fp32: queries and keys scaled, copied at full width for the product, the mask (made additive) added in place,
    softmax with cleared rows, product, a 16-bit copy of the weights that nobody reads.
    """
    tape, heads = net.tape, net.spec.num_heads
    if tape.rules.autocast:
        query, key, value = (ops.to(tape, x, HALF) for x in (query, key, value))
        with tape.outside_autocast():
            return _composite(net, query, key, value)
    mask = tape.new(BSS, 1, query.itemsize)  # of a mask that is spread over the batch
    wide_query, wide_key, wide_value = (ops.to(tape, x, FP32) for x in (query, key, value))
    scaled = ops.scale(tape, wide_query)
    weights = _spread(tape, ops.scale(tape, wide_key), heads, 1)
    weights = products.matmul(tape, scaled, weights, BSS, heads, copy_a=True, copy_b=True)
    weights = ops.add_(tape, weights, mask)
    weights = attention.safe_softmax(tape, weights)
    mixed = ops.to(tape, _product(tape, weights, wide_value, heads, 1), query.itemsize)
    unread = ops.to(tape, weights, query.itemsize)
    del unread, mask, wide_query, wide_key, wide_value, weights, scaled
    return ops.contiguous(tape, mixed)


PROGRAM = Program(embed=embed, layer=layer, final=final)
