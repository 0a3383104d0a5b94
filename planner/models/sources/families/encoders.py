"""Encoders with a masked-language-model or classification head: BERT, RoBERTa (also XLM) and DistilBERT.

The bias of a tied output layer is a parameter of the head (`cls.predictions.bias`, `lm_head.bias`); the decoder module
shares it.
"""

from __future__ import annotations

from dataclasses import replace

from planner.contract.architecture import Encoder
from planner.contract.errors import NotModelled
from planner.contract.spec import ModelSpec
from planner.models.sources.layout import ModuleLayout
from planner.models.sources.reading import ConfigReading


def bert(reading: ConfigReading, identity: str) -> ModelSpec:
    """BERT: learned positions and segments, norms after each half layer."""
    layout, names = _layers(reading), _names(reading)
    hidden = reading.size("hidden_size")
    if reading.task == "classification":
        layout.linear(names.pooler, hidden, hidden, True)
        layout.linear(names.classifier, hidden, reading.labels, True)
    else:
        _masked_head(layout, reading, hidden)
    return _spec(reading, identity, layout, reading.size("max_position_embeddings"))


def roberta(reading: ConfigReading, identity: str) -> ModelSpec:
    """RoBERTa: BERT with other heads; positions start behind the padding index, so two rows are never used."""
    spec = bert(reading, identity)
    positions = reading.size("max_position_embeddings") - reading.count("pad_token_id") - 1
    if positions < 1:
        raise reading.fail("max_position_embeddings", "larger than pad_token_id + 1")
    return replace(spec, max_positions=positions)


def _names(reading: ConfigReading) -> Encoder:
    names = reading.facts.encoder
    assert names is not None
    return names


def _masked_head(layout: ModuleLayout, reading: ConfigReading, hidden: int) -> None:
    """What turns the encoder's output into tokens: a linear module, a norm, the output layer."""
    names, vocabulary, tied = _names(reading), reading.size("vocab_size"), _tied(reading)
    dense, norm = names.transform
    layout.linear(dense, hidden, hidden, True)
    layout.norm(norm, hidden, bias=True)
    if names.output_bias:
        layout.parameter(names.output_bias, vocabulary)
    embedding = f"{names.prefix}.embeddings.word_embeddings" if tied else None
    own_bias = not tied or not names.output_bias
    layout.linear(names.output, hidden, vocabulary, own_bias, tied_to=embedding)


def distilbert(reading: ConfigReading, identity: str) -> ModelSpec:
    """DistilBERT: BERT without segments and with names of its own."""
    layout, config, names = ModuleLayout(), reading.config, _names(reading)
    hidden, heads, inner, layers = (reading.size(key) for key in ("dim", "n_heads", "hidden_dim", "n_layers"))
    vocabulary, positions = reading.size("vocab_size"), reading.size("max_position_embeddings")
    if reading.flag("sinusoidal_pos_embds"):
        raise NotModelled(f"{reading.origin}: distilbert with sinusoidal_pos_embds is not modelled")
    layout.embedding(f"{names.prefix}.embeddings.word_embeddings", vocabulary, hidden)
    layout.embedding(f"{names.prefix}.embeddings.position_embeddings", positions, hidden)
    layout.norm(f"{names.prefix}.embeddings.LayerNorm", hidden, bias=True)
    layout.repeat(layers)
    base = f"{names.prefix}.transformer.layer.{{}}"
    for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
        layout.linear(f"{base}.attention.{name}", hidden, hidden, True)
    layout.norm(f"{base}.sa_layer_norm", hidden, bias=True)
    layout.linear(f"{base}.ffn.lin1", hidden, inner, True)
    layout.linear(f"{base}.ffn.lin2", inner, hidden, True)
    layout.norm(f"{base}.output_layer_norm", hidden, bias=True)
    layout.repeat(None)
    if reading.task == "classification":
        layout.linear(names.pooler, hidden, hidden, True)
        layout.linear(names.classifier, hidden, reading.labels, True)
    else:
        _masked_head(layout, reading, hidden)
    return ModelSpec(
        id=identity,
        architecture=reading.facts.name,
        task=reading.task,
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=reading.split(hidden, heads),
        intermediate_size=inner,
        max_positions=positions,
        activation=reading.text("activation"),
        attention_dropout=reading.fraction("attention_dropout"),
        hidden_dropout=reading.fraction("dropout"),
        embedding_dropout=reading.fraction("dropout"),
        tie_embeddings=_tied(reading),
        modules=tuple(layout.modules),
        config=config,
    )


def _tied(reading: ConfigReading) -> bool:
    return reading.flag("tie_word_embeddings") and reading.task != "classification"


def _layers(reading: ConfigReading) -> ModuleLayout:
    """Embeddings and layers that BERT and RoBERTa share."""
    if reading.config["add_cross_attention"]:
        raise NotModelled(f"{reading.origin}: add_cross_attention is not modelled")
    kind = reading.config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise NotModelled(f"{reading.origin}: position_embedding_type {kind!r} is not modelled; absolute is")
    layout, prefix = ModuleLayout(), _names(reading).prefix
    hidden, inner = reading.size("hidden_size"), reading.size("intermediate_size")
    layout.embedding(f"{prefix}.embeddings.word_embeddings", reading.size("vocab_size"), hidden)
    layout.embedding(f"{prefix}.embeddings.token_type_embeddings", reading.size("type_vocab_size"), hidden)
    layout.embedding(f"{prefix}.embeddings.position_embeddings", reading.size("max_position_embeddings"), hidden)
    layout.norm(f"{prefix}.embeddings.LayerNorm", hidden, bias=True)
    layout.repeat(reading.size("num_hidden_layers"))
    base = f"{prefix}.encoder.layer.{{}}"
    for name in ("query", "key", "value"):
        layout.linear(f"{base}.attention.self.{name}", hidden, hidden, True)
    layout.linear(f"{base}.attention.output.dense", hidden, hidden, True)
    layout.norm(f"{base}.attention.output.LayerNorm", hidden, bias=True)
    layout.linear(f"{base}.intermediate.dense", hidden, inner, True)
    layout.linear(f"{base}.output.dense", inner, hidden, True)
    layout.norm(f"{base}.output.LayerNorm", hidden, bias=True)
    layout.repeat(None)
    return layout


def _spec(reading: ConfigReading, identity: str, layout: ModuleLayout, positions: int) -> ModelSpec:
    hidden, heads = reading.size("hidden_size"), reading.size("num_attention_heads")
    dropout = reading.fraction("hidden_dropout_prob")
    return ModelSpec(
        id=identity,
        architecture=reading.facts.name,
        task=reading.task,
        vocab_size=reading.size("vocab_size"),
        hidden_size=hidden,
        num_layers=reading.size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=reading.split(hidden, heads),
        intermediate_size=reading.size("intermediate_size"),
        max_positions=positions,
        activation=reading.text("hidden_act"),
        attention_dropout=reading.fraction("attention_probs_dropout_prob"),
        hidden_dropout=dropout,
        embedding_dropout=dropout,
        tie_embeddings=_tied(reading),
        modules=tuple(layout.modules),
        config=reading.config,
    )
