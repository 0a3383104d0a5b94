"""Decoders of Llama's kind: a layer of attention and a feed-forward part or experts, as its architecture's record says.

Paths and shapes are those of the transformers 5 classes, which fuse the experts of a layer into two tensors and the
router into one; they are bare parameters, which no adapter on linear modules reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.contract.architecture import Decoder, Experts
from planner.contract.spec import ModelSpec
from planner.models.sources.layout import ModuleLayout
from planner.models.sources.reading import ConfigReading


def decoder(reading: ConfigReading, identity: str) -> ModelSpec:
    """The spec of one Llama-like decoder with its causal or classification head."""
    kind = reading.facts.decoder
    assert kind is not None
    layout = ModuleLayout()
    hidden, layers = reading.size("hidden_size"), reading.size("num_hidden_layers")
    if kind.qk_norm == "per_head":
        reading.split(hidden, reading.size("num_attention_heads"))
    mixture = None if kind.experts is None else _mixture(reading, kind.experts)
    layout.embedding("model.embed_tokens", reading.size("vocab_size"), hidden)
    layout.repeat(layers)
    _layer(layout, reading, kind, mixture)
    layout.repeat(None)
    if kind.norm != "plain":
        layout.norm("model.norm", hidden, bias=kind.norm == "layer")
    head(layout, reading, "model.embed_tokens")
    return _spec(reading, identity, layout, kind, mixture or Mixture())


def _layer(layout: ModuleLayout, reading: ConfigReading, kind: Decoder, mixture: Mixture | None) -> None:
    """One layer: norms, attention and the feed-forward part or experts, in forward order."""
    hidden = reading.size("hidden_size")

    def norm(name: str) -> None:
        if kind.norm != "plain":
            layout.norm(f"model.layers.{{}}.{name}", hidden, bias=kind.norm == "layer")

    if kind.norms != "after":
        norm("input_layernorm")
    _attention(layout, reading, kind)
    if not (kind.shared_norm_key and reading.flag(kind.shared_norm_key)):
        norm("post_attention_layernorm")
    if kind.norms == "around":
        norm("pre_feedforward_layernorm")
    if mixture is None:
        _feed_forward(layout, reading, kind)
    else:
        _experts(layout, reading, kind, mixture)
    if kind.norms in ("around", "after"):
        norm("post_feedforward_layernorm")


def _attention(layout: ModuleLayout, reading: ConfigReading, kind: Decoder) -> None:
    """Projections of one layer, with the norms on queries and keys."""
    hidden, heads = reading.size("hidden_size"), reading.size("num_attention_heads")
    kv_heads = reading.kv_heads("num_key_value_heads", heads)
    width = reading.head_dim(hidden, heads)
    base = "model.layers.{}.self_attn"
    if kind.fused:
        layout.linear(f"{base}.qkv_proj", hidden, (heads + 2 * kv_heads) * width)
    else:
        bias = reading.says(kind.qkv_bias)
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            layout.linear(f"{base}.{name}_proj", hidden, count * width, bias)
    normed = kind.qk_norm if not kind.qk_norm_key or reading.flag(kind.qk_norm_key) else ""
    for name, count in (("q", heads), ("k", kv_heads)):
        if normed == "per_head":
            for index in range(count):
                layout.norm(f"{base}.{name}_layernorm.norms.{index}", width)
        elif normed:
            layout.norm(f"{base}.{name}_norm", width * (count if normed == "full" else 1))
    layout.linear(f"{base}.o_proj", heads * width, hidden, reading.says(kind.o_bias))


def _feed_forward(layout: ModuleLayout, reading: ConfigReading, kind: Decoder) -> None:
    """The dense feed-forward part of one layer."""
    hidden, inner = reading.size("hidden_size"), reading.size("intermediate_size")
    base, bias, last = "model.layers.{}.mlp", reading.says(kind.mlp_bias), kind.mlp_names[-1]
    if kind.fused:
        layout.linear(f"{base}.gate_up_proj", hidden, 2 * inner)
    else:
        for name in kind.mlp_names[:-1]:
            layout.linear(f"{base}.{name}", hidden, inner, bias)
    layout.linear(f"{base}.{last}", inner, hidden, bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Sizes of a mixture of experts; zeros where no layer is sparse."""

    experts: int = 0
    per_token: int = 0
    width: int = 0
    shared: int = 0
    """Width of the expert that all tokens share."""
    sparse: tuple[int, ...] = ()
    """Indices of the layers that have it."""


def _mixture(reading: ConfigReading, kind: Experts) -> Mixture:
    """The mixture that the config describes."""
    layers = tuple(range(reading.size("num_hidden_layers")))
    shared = reading.size("shared_expert_intermediate_size") if kind.shared else 0
    sparse = layers if not kind.stepped else _sparse(reading, kind.count)
    width, per_token = reading.size(kind.width), reading.size("num_experts_per_tok")
    experts = reading.count(kind.count)
    if sparse and per_token > experts:
        raise reading.fail("num_experts_per_tok", f"at most the {experts} experts")
    if not sparse:
        return Mixture()
    return Mixture(experts=experts, per_token=per_token, width=width, shared=shared, sparse=sparse)


def _sparse(reading: ConfigReading, count: str) -> tuple[int, ...]:
    """Layers with experts: every `decoder_sparse_step`-th, those named as dense left out."""
    step, dense = reading.size("decoder_sparse_step"), reading.config["mlp_only_layers"]
    if not isinstance(dense, list):
        raise reading.fail("mlp_only_layers", "a list of layer indices")
    if reading.count(count) == 0:
        return ()
    layers = reading.size("num_hidden_layers")
    return tuple(layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0)


def _experts(layout: ModuleLayout, reading: ConfigReading, kind: Decoder, mixture: Mixture) -> None:
    """The feed-forward part of dense layers, router and experts of the others."""
    hidden, everywhere = reading.size("hidden_size"), tuple(range(reading.size("num_hidden_layers")))
    layout.repeat(layer for layer in everywhere if layer not in mixture.sparse)
    _feed_forward(layout, reading, kind)
    layout.repeat(mixture.sparse)
    base, shared = "model.layers.{}.mlp", mixture.shared
    layout.parameter(f"{base}.gate.weight", mixture.experts, hidden)
    layout.parameter(f"{base}.experts.gate_up_proj", mixture.experts, 2 * mixture.width, hidden)
    layout.parameter(f"{base}.experts.down_proj", mixture.experts, hidden, mixture.width)
    if shared:
        layout.linear(f"{base}.shared_expert.gate_proj", hidden, shared)
        layout.linear(f"{base}.shared_expert.up_proj", hidden, shared)
        layout.linear(f"{base}.shared_expert.down_proj", shared, hidden)
        layout.linear(f"{base}.shared_expert_gate", hidden, 1)
    layout.repeat(everywhere)


def head(layout: ModuleLayout, reading: ConfigReading, embedding: str, *, bias: bool = False) -> None:
    """`lm_head`, tied or not, or the `score` head of sequence classification."""
    hidden = layout.modules[0].shape[-1]
    if reading.task == "classification":
        layout.linear("score", hidden, reading.labels)
        return
    tied = embedding if reading.flag("tie_word_embeddings") else None
    layout.linear("lm_head", hidden, reading.size("vocab_size"), bias, tied_to=tied)


def _spec(reading: ConfigReading, identity: str, layout: ModuleLayout, kind: Decoder, mixture: Mixture) -> ModelSpec:
    """The fields that Llama-like configs name alike."""
    config = reading.config
    hidden, heads, layers = (reading.size(k) for k in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    window = reading.count("sliding_window") if config.get("sliding_window") else None
    types = config.get("layer_types")
    if types is not None and (not isinstance(types, list) or len(types) != layers):
        raise reading.fail("layer_types", f"a list of {layers} entries, one per layer")
    # Without layer types the window, where there is one, holds in every layer.
    sliding = tuple(i for i in range(layers) if types is None or types[i] == "sliding_attention") if window else ()
    return ModelSpec(
        id=identity,
        architecture=reading.facts.name,
        task=reading.task,
        vocab_size=reading.size("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=reading.kv_heads("num_key_value_heads", heads),
        head_dim=reading.head_dim(hidden, heads),
        intermediate_size=reading.size("intermediate_size"),
        max_positions=reading.size("max_position_embeddings"),
        activation=reading.text(kind.activation_key),
        sliding_window=window if sliding else None,
        sliding_layers=sliding,
        attention_dropout=reading.fraction("attention_dropout"),
        hidden_dropout=max(reading.fraction(key) for key in ("resid_pdrop", "residual_dropout", "hidden_dropout")),
        embedding_dropout=reading.fraction("embedding_dropout"),
        tie_embeddings=reading.flag("tie_word_embeddings"),
        num_experts=mixture.experts,
        experts_per_token=mixture.per_token,
        expert_intermediate_size=mixture.width,
        shared_expert_intermediate_size=mixture.shared,
        sparse_layers=mixture.sparse,
        modules=tuple(layout.modules),
        config=config,
    )
