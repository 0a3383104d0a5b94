"""bert and roberta (also XLM): encoders with norms after each half layer and attention in both directions.

Source: transformers 5.23 models/{bert,roberta,distilbert}/modeling_*.py (read 2026-11).
"""

from __future__ import annotations

from planner.contract.architecture import Encoder
from planner.memory.engine import norms, ops, products
from planner.memory.engine.graph import Tensor
from planner.memory.engine.monomials import BSS, BYTE, FP32, INT64, ONE, S, T
from planner.memory.network import layers
from planner.memory.network.attention import Style
from planner.memory.network.blocks.program import Program
from planner.memory.network.loss_heads import classification, first_token, head_linear, vocabulary
from planner.memory.network.net import Net


def embed(net: Net) -> Tensor:
    """BertEmbeddings, RobertaEmbeddings and DistilBERT's; then the mask, where the batch is padded."""
    x = _embeddings(net)
    # What enters the encoder stays named in the model's forward until that returns.
    net.named.append(x.alias())
    two_way_mask(net)
    return x


def _embeddings(net: Net) -> Tensor:
    tape, names = net.tape, _names(net)
    prefix = f"{names.prefix}.embeddings"
    positions = _counted_positions(net) if names.counted_positions else None
    spread = S if positions is None else T
    segments = tape.new(spread, 1, INT64) if names.segments else None
    words = net.require_grad_of_inputs(layers.embed(net, f"{prefix}.word_embeddings"))
    if segments is not None:
        types = _lookup(net, f"{prefix}.token_type_embeddings", segments, T)
        x = ops.add(tape, words, types)
        places = _lookup(net, f"{prefix}.position_embeddings", positions, spread)
        x = ops.add(tape, x, places)
    else:
        places = _lookup(net, f"{prefix}.position_embeddings", None, S)
        x = ops.add(tape, words, places)
    x = layers.norm(net, f"{prefix}.LayerNorm", x)
    return layers.dropout(tape, x, net.spec.embedding_dropout)


def _counted_positions(net: Net) -> Tensor:
    """Positions counted from the tokens that are not padding: a mask, its running sum and the product, in int32."""
    tape = net.tape
    mask = tape.new(T, 1, FP32)
    running = tape.new(T, 1, INT64)
    del running
    counted = tape.like(mask)
    wide = tape.new(T, 1, INT64)
    positions = tape.new(T, 1, INT64)
    del mask, counted, wide  # tidy
    return positions


def _lookup(net: Net, path: str, indices: Tensor | None, monomial: int) -> Tensor:
    """Rows of a table for `indices`, which backward keeps where the table trains."""
    module = net.by_path[path]
    tape, count, width = net.tape, module.shape[0] * module.shape[1], net.itemsize
    weight = net.shared_weight(path, count)
    saved = () if indices is None else (indices.alias(),)
    out = tape.new(monomial, module.shape[1], width)
    return tape.record(out, (weight.tensor,), saved, lambda g, s: (tape.new(ONE, count, width),))


def two_way_mask(net: Net) -> None:
    """The mask of a padded batch: (batch, 1, length, length), boolean under sdpa, additive under eager; else none."""
    if not net.padded:
        return
    with net.tape.scope("attention"):
        net.mask = net.tape.new(BSS, 1, BYTE)
        if net.choices.attention == "eager":
            net.mask = net.tape.new(BSS, 1, net.itemsize)


def layer(net: Net, x: Tensor, index: int) -> Tensor:
    """BertLayer: attention, dense, add and norm; feed forward, add and norm."""
    attended, _weights = _attention_block(net, x)
    hidden = layers.linear(net, "intermediate.dense", attended)
    hidden = ops.activation(net.tape, hidden, net.spec.activation)
    return _add_norm(net, "output", hidden, attended)


def _attention_block(net: Net, x: Tensor) -> tuple[Tensor, Tensor | None]:
    attended, weights = mix(net, x, ("attention.self.query", "attention.self.key", "attention.self.value"))
    attended = _add_norm(net, "attention.output", attended, x)
    return attended, weights


def _add_norm(net: Net, path: str, hidden: Tensor, residual: Tensor) -> Tensor:
    hidden = layers.linear(net, f"{path}.dense", hidden)
    hidden = layers.dropout(net.tape, hidden, net.spec.hidden_dropout)
    return layers.norm(net, f"{path}.LayerNorm", ops.add(net.tape, hidden, residual))


def mix(net: Net, x: Tensor, names: tuple[str, str, str], out: str | None = None) -> tuple[Tensor, Tensor | None]:
    """Projections and attention (and, for distilbert, the output projection); the weights too, where they are named."""
    with net.tape.scope("attention"):
        query = layers.linear(net, names[0], x)
        key = layers.linear(net, names[1], x)
        value = layers.linear(net, names[2], x)
        weights = None
        if net.choices.attention == "eager":
            mixed, weights = two_way_eager(net, query, key, value, net.mask, net.spec.attention_dropout)
        else:
            mixed = layers.attend(net, query, key, value, style=Style(causal=False))
        if out is not None:
            mixed = layers.linear(net, out, mixed)
        return mixed, weights


def two_way_eager(
    net: Net, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention written out as BERT and T5 have it: softmax in the tensors' own dtype; returns the weights as well."""
    tape, heads, rows = net.tape, net.spec.num_heads, query.monomial
    weights = ops.scale(tape, products.matmul(tape, query, key, BSS, heads, copy_a=True, copy_b=True))
    if bias is not None:
        weights = ops.add(tape, weights, bias)
    if mask is not None:
        weights = ops.add(tape, weights, mask)
    weights = norms.softmax(tape, weights)
    weights = ops.dropout(tape, weights, dropout)
    out = products.matmul(tape, weights, value, rows, heads * net.spec.head_dim, copy_a=False, copy_b=True)
    return ops.contiguous(tape, out), weights


def masked_head(net: Net, x: Tensor) -> Tensor:
    """The transform in front of the output layer: dense, activation, norm."""
    names = _names(net)
    dense, norm = names.transform
    net.named[:] = [x]  # the encoder's output stays named while the head and the loss run
    hidden = layers.linear(net, dense, x)
    hidden = ops.activation(net.tape, hidden, names.transform_activation or net.spec.activation)
    return layers.norm(net, norm, hidden)


def classifier_head(net: Net, x: Tensor) -> Tensor:
    """From the first token of every sequence to what the classifier's last layer reads."""
    tape, names = net.tape, _names(net)
    net.named[:] = [x]
    hidden = first_token(net, x)
    if names.drops_first:
        hidden = layers.dropout(tape, hidden, _classifier_dropout(net))
    # One that belongs to the encoder is no part of the head, which is trained in full.
    pool = layers.linear if names.pooler.startswith(f"{names.prefix}.") else head_linear
    hidden = ops.pointwise(tape, pool(net, names.pooler, hidden), save="output")
    return layers.dropout(tape, hidden, _classifier_dropout(net))


def _classifier_dropout(net: Net) -> float:
    own = net.config(_names(net).classifier_dropout_key)
    return net.spec.hidden_dropout if own is None else float(str(own))


def _names(net: Net) -> Encoder:
    names = net.spec.facts.encoder
    assert names is not None
    return names


def final(net: Net, x: Tensor) -> Tensor:
    """What follows the encoder up to the last layer of the head."""
    net.release()
    return classifier_head(net, x) if net.spec.task == "classification" else masked_head(net, x)


def finish(net: Net, inputs: list[Tensor], keep: list[Tensor]) -> Tensor:
    """The head's last layer and the loss."""
    names = _names(net)
    if net.spec.task == "classification":
        return classification(net, inputs, keep, path=names.classifier)
    return vocabulary(net, inputs, keep, path=names.output, bias=names.output_bias or None)


PROGRAM = Program(embed=embed, layer=layer, final=final, finish=finish)
