"""T5, its version 1.1 and FLAN: encoder and decoder with relative positions and RMS norms, no bias anywhere.

Transformers 5 ties the head to the shared embedding whatever `tie_word_embeddings` says, and reads the key only as a
scale on the decoder's output (`scale_decoder_outputs`).
"""

from __future__ import annotations

from collections.abc import Mapping

from planner.contract.errors import InvalidInput
from planner.contract.spec import ModelSpec
from planner.models.sources.layout import ModuleLayout
from planner.models.sources.reading import ConfigReading
from planner.models.sources.schema import Config

MOST_BLOCKS = 256
"""Of encoder and decoder together; the deepest published have 64. Each runs in the step's program, none for another."""


def t5(reading: ConfigReading, identity: str) -> ModelSpec:
    """The spec of an encoder-decoder; `num_layers` counts the encoder's layers."""
    config = reading.config
    hidden, heads, width, inner = (reading.size(key) for key in ("d_model", "num_heads", "d_kv", "d_ff"))
    layers, decoder_layers = reading.size("num_layers"), reading.size("num_decoder_layers")
    if layers + decoder_layers > MOST_BLOCKS:
        raise InvalidInput(
            f"{reading.origin}: num_layers {layers} and num_decoder_layers {decoder_layers} "
            f"are more than {MOST_BLOCKS} together"
        )
    vocabulary = reading.size("vocab_size")
    classification = reading.task == "classification"
    layout = ModuleLayout("transformer." if classification else "")
    layout.embedding("shared", vocabulary, hidden)
    for stack, count in (("encoder", layers), ("decoder", decoder_layers)):
        layout.repeat(count)
        block = f"{stack}.block.{{}}.layer"
        _attention(layout, reading, f"{block}.0", "SelfAttention", count)
        if stack == "decoder":
            _attention(layout, reading, f"{block}.1", "EncDecAttention", count)
        feed = f"{block}.{2 if stack == 'decoder' else 1}"
        layout.norm(f"{feed}.layer_norm", hidden)
        for name in ("wi_0", "wi_1") if reading.flag("is_gated_act") else ("wi",):
            layout.linear(f"{feed}.DenseReluDense.{name}", hidden, inner)
        layout.linear(f"{feed}.DenseReluDense.wo", inner, hidden)
        layout.repeat(None)
        layout.norm(f"{stack}.final_layer_norm", hidden)
    if classification:
        layout.prefix = ""
        layout.linear("classification_head.dense", hidden, hidden, True)
        layout.linear("classification_head.out_proj", hidden, reading.labels, True)
    else:
        layout.linear("lm_head", hidden, vocabulary, tied_to="shared")
    dropout = reading.fraction("dropout_rate")
    return ModelSpec(
        id=identity,
        architecture=reading.facts.name,
        task=reading.task,
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_decoder_layers=decoder_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width,
        intermediate_size=inner,
        max_positions=0,
        activation=reading.text("dense_act_fn"),
        attention_dropout=dropout,
        hidden_dropout=dropout,
        embedding_dropout=dropout,
        tie_embeddings=not classification,
        modules=tuple(layout.modules),
        config=config,
    )


def _attention(layout: ModuleLayout, reading: ConfigReading, layer: str, name: str, count: int) -> None:
    """One attention with its norm; only the first layer of a stack holds the relative positions' table."""
    hidden, heads, width = (reading.size(key) for key in ("d_model", "num_heads", "d_kv"))
    layout.norm(f"{layer}.layer_norm", hidden)
    for projection in ("q", "k", "v"):
        layout.linear(f"{layer}.{name}.{projection}", hidden, heads * width)
    if name == "SelfAttention":
        layout.repeat((0,))
        table = f"{layer}.{name}.relative_attention_bias"
        layout.embedding(table, reading.size("relative_attention_num_buckets"), heads)
        layout.repeat(count)
    layout.linear(f"{layer}.{name}.o", heads * width, hidden)


def t5_keys(config: Config, raw: Mapping[str, object]) -> None:
    """Its config class works out the decoder's depth and the kind of the feed-forward part."""
    if config["num_decoder_layers"] is None:
        config["num_decoder_layers"] = config["num_layers"]
    kind = str(config["feed_forward_proj"])
    gate, _, name = kind.rpartition("-")
    if gate not in ("", "gated"):
        raise InvalidInput(f"feed_forward_proj {kind!r} is neither an activation nor gated-<activation>")
    config["is_gated_act"] = gate == "gated"
    config["dense_act_fn"] = "gelu_new" if kind == "gated-gelu" else name
    # T5 1.1 files say that the head isn't tied; transformers 5 ties it all the same and reads the key as a scale.
    config["scale_decoder_outputs"] = raw.get("tie_word_embeddings") is not False
    config["tie_word_embeddings"] = True
