"""Encoders with a masked-language-model or classification head: BERT, RoBERTa (also XLM) and DistilBERT.

The bias of a tied output layer is a parameter of the head (`cls.predictions.bias`, `lm_head.bias`); the decoder module
shares it.
"""

from __future__ import annotations

from planner.contract.errors import NotModelled
from planner.contract.spec import ModelSpec
from planner.models.sources.layout import Layout
from planner.models.sources.reading import Reading


def bert(reading: Reading, identity: str) -> ModelSpec:
    """BERT: learned positions and segments, norms after each half layer."""
    layout = _bert_layers(reading, "bert")
    hidden, vocabulary, tied = reading.size("hidden_size"), reading.size("vocab_size"), _tied(reading)
    if reading.task == "classification":
        layout.linear("bert.pooler.dense", hidden, hidden, True)
        layout.linear("classifier", hidden, reading.labels, True)
    else:
        layout.linear("cls.predictions.transform.dense", hidden, hidden, True)
        layout.norm("cls.predictions.transform.LayerNorm", hidden, bias=True)
        layout.parameter("cls.predictions.bias", vocabulary)
        embedding = "bert.embeddings.word_embeddings" if tied else None
        layout.linear("cls.predictions.decoder", hidden, vocabulary, not tied, tied_to=embedding)
    return _spec(reading, identity, layout, reading.size("max_position_embeddings"))


def roberta(reading: Reading, identity: str) -> ModelSpec:
    """RoBERTa: BERT with other heads; positions start behind the padding index, so two rows are never used."""
    layout = _bert_layers(reading, "roberta")
    hidden, vocabulary, tied = reading.size("hidden_size"), reading.size("vocab_size"), _tied(reading)
    if reading.task == "classification":
        layout.linear("classifier.dense", hidden, hidden, True)
        layout.linear("classifier.out_proj", hidden, reading.labels, True)
    else:
        layout.linear("lm_head.dense", hidden, hidden, True)
        layout.norm("lm_head.layer_norm", hidden, bias=True)
        layout.parameter("lm_head.bias", vocabulary)
        embedding = "roberta.embeddings.word_embeddings" if tied else None
        layout.linear("lm_head.decoder", hidden, vocabulary, not tied, tied_to=embedding)
    positions = reading.size("max_position_embeddings") - reading.count("pad_token_id") - 1
    if positions < 1:
        raise reading.fail("max_position_embeddings", "larger than pad_token_id + 1")
    return _spec(reading, identity, layout, positions)


xlm_roberta = roberta


def distilbert(reading: Reading, identity: str) -> ModelSpec:
    """DistilBERT: BERT without segments and with names of its own."""
    layout, config = Layout(), reading.config
    hidden, heads, inner, layers = (reading.size(key) for key in ("dim", "n_heads", "hidden_dim", "n_layers"))
    vocabulary, positions = reading.size("vocab_size"), reading.size("max_position_embeddings")
    if reading.flag("sinusoidal_pos_embds"):
        raise NotModelled(f"{reading.origin}: distilbert with sinusoidal_pos_embds is not modelled")
    tied = _tied(reading)
    layout.embedding("distilbert.embeddings.word_embeddings", vocabulary, hidden)
    layout.embedding("distilbert.embeddings.position_embeddings", positions, hidden)
    layout.norm("distilbert.embeddings.LayerNorm", hidden, bias=True)
    layout.repeat(layers)
    base = "distilbert.transformer.layer.{}"
    for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
        layout.linear(f"{base}.attention.{name}", hidden, hidden, True)
    layout.norm(f"{base}.sa_layer_norm", hidden, bias=True)
    layout.linear(f"{base}.ffn.lin1", hidden, inner, True)
    layout.linear(f"{base}.ffn.lin2", inner, hidden, True)
    layout.norm(f"{base}.output_layer_norm", hidden, bias=True)
    layout.repeat(None)
    if reading.task == "classification":
        layout.linear("pre_classifier", hidden, hidden, True)
        layout.linear("classifier", hidden, reading.labels, True)
    else:
        layout.linear("vocab_transform", hidden, hidden, True)
        layout.norm("vocab_layer_norm", hidden, bias=True)
        embedding = "distilbert.embeddings.word_embeddings" if tied else None
        layout.linear("vocab_projector", hidden, vocabulary, True, tied_to=embedding)
    return ModelSpec(
        id=identity,
        architecture="distilbert",
        task=reading.task,  # type: ignore[arg-type]
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
        tie_embeddings=tied,
        modules=tuple(layout.modules),
        config=config,
    )


def _tied(reading: Reading) -> bool:
    return reading.flag("tie_word_embeddings") and reading.task != "classification"


def _bert_layers(reading: Reading, prefix: str) -> Layout:
    """Embeddings and layers that BERT and RoBERTa share."""
    if reading.config["add_cross_attention"]:
        raise NotModelled(f"{reading.origin}: add_cross_attention is not modelled")
    kind = reading.config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise NotModelled(f"{reading.origin}: position_embedding_type {kind!r} is not modelled; absolute is")
    layout = Layout()
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


def _spec(reading: Reading, identity: str, layout: Layout, positions: int) -> ModelSpec:
    hidden, heads = reading.size("hidden_size"), reading.size("num_attention_heads")
    dropout = reading.fraction("hidden_dropout_prob")
    return ModelSpec(
        id=identity,
        architecture=reading.config["model_type"],
        task=reading.task,  # type: ignore[arg-type]
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
