"""Decoders of Llama's kind: rotary positions, separate or fused projections, gated feed-forward, a norm before each.

They differ in biases, in norms on queries and keys, in where the norms stand and in what is fused; each builder says
only its own difference. Paths and shapes are those of the transformers 5 classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.contract.spec import ModelSpec
from planner.models.sources.layout import Layout
from planner.models.sources.reading import Reading


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What distinguishes one family from Llama."""

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    norm: Literal["rms", "layer", "plain"] = "rms"
    """`layer` has a bias; `plain` (olmo) has no parameters at all."""
    norms: Literal["before", "after", "around", "shared"] = "before"
    """Where norms stand: before attention and MLP, after both (olmo2), around both (gemma 2 and 3), one for both."""
    qk_norm: Literal["", "head", "full", "per_head"] = ""
    """Norm on queries and keys: over one head's width, over all heads, or one module per head (stablelm)."""
    fused: bool = False
    """Queries, keys and values in one module, gate and up in another (phi3)."""
    gated: bool = True
    """Gated feed-forward; else c_fc and c_proj (starcoder2)."""


def decoder(reading: Reading, identity: str, variant: Variant) -> ModelSpec:
    """The spec of one Llama-like decoder with its causal or classification head."""
    layout = Layout()
    hidden, layers = reading.size("hidden_size"), reading.size("num_hidden_layers")
    layout.embedding("model.embed_tokens", reading.size("vocab_size"), hidden)
    layout.repeat(layers)
    attention_and_norms(layout, reading, variant, lambda: feed_forward(layout, reading, variant))
    layout.repeat(None)
    if variant.norm != "plain":
        layout.norm("model.norm", hidden, bias=variant.norm == "layer")
    head(layout, reading, "model.embed_tokens")
    return spec(reading, identity, layout)


def attention_and_norms(layout: Layout, reading: Reading, variant: Variant, mlp: object) -> None:
    """One layer: norms, attention and the feed-forward part that `mlp()` adds, in forward order."""
    hidden, layer_norm = reading.size("hidden_size"), variant.norm == "layer"
    has_norms = variant.norm != "plain"

    def norm(name: str) -> None:
        if has_norms:
            layout.norm(f"model.layers.{{}}.{name}", hidden, bias=layer_norm)

    if variant.norms != "after":
        norm("input_layernorm")
    attention(layout, reading, variant)
    if variant.norms != "shared":
        norm("post_attention_layernorm")
    if variant.norms == "around":
        norm("pre_feedforward_layernorm")
    assert callable(mlp)
    mlp()
    if variant.norms in ("around", "after"):
        norm("post_feedforward_layernorm")


def attention(layout: Layout, reading: Reading, variant: Variant) -> None:
    """Projections of one layer, with the norms on queries and keys."""
    hidden, heads = reading.size("hidden_size"), reading.size("num_attention_heads")
    kv_heads = reading.kv_heads("num_key_value_heads", heads)
    width = reading.head_dim(hidden, heads)
    base = "model.layers.{}.self_attn"
    if variant.fused:
        layout.linear(f"{base}.qkv_proj", hidden, (heads + 2 * kv_heads) * width)
    else:
        layout.linear(f"{base}.q_proj", hidden, heads * width, variant.qkv_bias)
        layout.linear(f"{base}.k_proj", hidden, kv_heads * width, variant.qkv_bias)
        layout.linear(f"{base}.v_proj", hidden, kv_heads * width, variant.qkv_bias)
    for name, count in (("q", heads), ("k", kv_heads)):
        if variant.qk_norm == "per_head":
            for index in range(count):
                layout.norm(f"{base}.{name}_layernorm.norms.{index}", width)
        elif variant.qk_norm:
            layout.norm(f"{base}.{name}_norm", width * (count if variant.qk_norm == "full" else 1))
    layout.linear(f"{base}.o_proj", heads * width, hidden, variant.o_bias)


def feed_forward(layout: Layout, reading: Reading, variant: Variant) -> None:
    """The dense feed-forward part of one layer."""
    hidden, inner = reading.size("hidden_size"), reading.size("intermediate_size")
    base = "model.layers.{}.mlp"
    if not variant.gated:
        layout.linear(f"{base}.c_fc", hidden, inner, variant.mlp_bias)
        layout.linear(f"{base}.c_proj", inner, hidden, variant.mlp_bias)
        return
    if variant.fused:
        layout.linear(f"{base}.gate_up_proj", hidden, 2 * inner)
    else:
        layout.linear(f"{base}.gate_proj", hidden, inner, variant.mlp_bias)
        layout.linear(f"{base}.up_proj", hidden, inner, variant.mlp_bias)
    layout.linear(f"{base}.down_proj", inner, hidden, variant.mlp_bias)


def head(layout: Layout, reading: Reading, embedding: str, *, bias: bool = False) -> None:
    """`lm_head`, tied or not, or the `score` head of sequence classification."""
    hidden = layout.modules[0].shape[-1]
    if reading.task == "classification":
        layout.linear("score", hidden, reading.labels)
        return
    tied = embedding if reading.flag("tie_word_embeddings") else None
    layout.linear("lm_head", hidden, reading.size("vocab_size"), bias, tied_to=tied)


def spec(reading: Reading, identity: str, layout: Layout) -> ModelSpec:
    """The fields that Llama-like configs name alike."""
    config = reading.config
    hidden, heads, layers = (reading.size(k) for k in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    window = config.get("sliding_window") or None
    types = config.get("layer_types")
    if types is not None and (not isinstance(types, list) or len(types) != layers):
        raise reading.fail("layer_types", f"a list of {layers} entries, one per layer")
    # Without layer types the window, where there is one, holds in every layer.
    sliding = tuple(i for i in range(layers) if types is None or types[i] == "sliding_attention") if window else ()
    return ModelSpec(
        id=identity,
        architecture=config["model_type"],
        task=reading.task,  # type: ignore[arg-type]
        vocab_size=reading.size("vocab_size"),
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=reading.kv_heads("num_key_value_heads", heads),
        head_dim=reading.head_dim(hidden, heads),
        intermediate_size=reading.size("intermediate_size"),
        max_positions=reading.size("max_position_embeddings"),
        activation=reading.text(
            "hidden_activation" if config["model_type"] in ("gemma2", "gemma3_text") else "hidden_act"
        ),
        sliding_window=window if sliding else None,
        sliding_layers=sliding,
        attention_dropout=reading.fraction("attention_dropout"),
        hidden_dropout=max(reading.fraction(key) for key in ("resid_pdrop", "residual_dropout", "hidden_dropout")),
        embedding_dropout=reading.fraction("embedding_dropout"),
        tie_embeddings=reading.flag("tie_word_embeddings"),
        modules=tuple(layout.modules),
        config=config,
    )


def llama(reading: Reading, identity: str) -> ModelSpec:
    """Llama 1 to 3 and everything that uses its class (TinyLlama, Yi, Vicuna, SmolLM2, DeepSeek distillations)."""
    bias, mlp_bias = reading.flag("attention_bias"), reading.flag("mlp_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias, mlp_bias=mlp_bias))


granite = llama
smollm3 = llama


def mistral(reading: Reading, identity: str) -> ModelSpec:
    """Mistral: Llama with fewer key-value heads and, in its first release, an attention window."""
    return decoder(reading, identity, Variant())


def qwen2(reading: Reading, identity: str) -> ModelSpec:
    """Qwen 2 and 2.5: biases on queries, keys and values only."""
    return decoder(reading, identity, Variant(qkv_bias=True))


def qwen3(reading: Reading, identity: str) -> ModelSpec:
    """Qwen 3: norms on each head's queries and keys."""
    bias = reading.flag("attention_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias, qk_norm="head"))


def olmo(reading: Reading, identity: str) -> ModelSpec:
    """OLMo 1: layer norms without parameters."""
    bias = reading.flag("attention_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias, norm="plain"))


def olmo2(reading: Reading, identity: str) -> ModelSpec:
    """OLMo 2: norms after attention and feed-forward, and over all queries and keys."""
    bias = reading.flag("attention_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias, norms="after", qk_norm="full"))


def phi3(reading: Reading, identity: str) -> ModelSpec:
    """Phi 3, 3.5 and 4: fused projections."""
    return decoder(reading, identity, Variant(fused=True))


def stablelm(reading: Reading, identity: str) -> ModelSpec:
    """StableLM: layer norms with bias, a partial rotary embedding, optionally a parallel residual."""
    reading.split(reading.size("hidden_size"), reading.size("num_attention_heads"))
    variant = Variant(
        qkv_bias=reading.flag("use_qkv_bias"),
        norm="layer",
        norms="shared" if reading.flag("use_parallel_residual") else "before",
        qk_norm="per_head" if reading.flag("qk_layernorm") else "",
    )
    return decoder(reading, identity, variant)


def starcoder2(reading: Reading, identity: str) -> ModelSpec:
    """StarCoder 2: biases everywhere, layer norms, a plain feed-forward."""
    bias = reading.flag("use_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias, mlp_bias=bias, norm="layer", gated=False))
