"""Decoders of GPT's kind: GPT-2, GPT-BigCode (StarCoder), GPT-NeoX (Pythia), Falcon, and Phi 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping

from planner.contract.errors import NotModelled
from planner.contract.spec import ModelSpec
from planner.models.sources.families.llama import head
from planner.models.sources.layout import ModuleLayout
from planner.models.sources.reading import ConfigReading
from planner.models.sources.schema import Config


def phi(reading: ConfigReading, identity: str) -> ModelSpec:
    """Phi 1, 1.5 and 2: attention and feed-forward side by side on one layer norm, biases everywhere, head too."""
    config, layout = reading.config, ModuleLayout()
    hidden, heads, inner = (reading.size(k) for k in ("hidden_size", "num_attention_heads", "intermediate_size"))
    kv_heads, width = reading.kv_heads("num_key_value_heads", heads), reading.head_dim(hidden, heads)
    layers, vocabulary = reading.size("num_hidden_layers"), reading.size("vocab_size")
    layout.embedding("model.embed_tokens", vocabulary, hidden)
    layout.repeat(layers)
    base = "model.layers.{}"
    layout.norm(f"{base}.input_layernorm", hidden, bias=True)
    layout.linear(f"{base}.self_attn.q_proj", hidden, heads * width, True)
    layout.linear(f"{base}.self_attn.k_proj", hidden, kv_heads * width, True)
    layout.linear(f"{base}.self_attn.v_proj", hidden, kv_heads * width, True)
    if reading.flag("qk_layernorm"):
        for name in ("q_layernorm", "k_layernorm"):
            layout.norm(f"{base}.self_attn.{name}", reading.split(hidden, heads), bias=True)
    layout.linear(f"{base}.self_attn.dense", heads * width, hidden, True)
    layout.linear(f"{base}.mlp.fc1", hidden, inner, True)
    layout.linear(f"{base}.mlp.fc2", inner, hidden, True)
    layout.repeat(None)
    layout.norm("model.final_layernorm", hidden, bias=True)
    head(layout, reading, "model.embed_tokens", bias=True)
    return ModelSpec(
        id=identity,
        architecture=reading.facts.name,
        task=reading.task,
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width,
        intermediate_size=inner,
        max_positions=reading.size("max_position_embeddings"),
        activation=reading.text("hidden_act"),
        attention_dropout=reading.fraction("attention_dropout"),
        hidden_dropout=reading.fraction("resid_pdrop"),
        embedding_dropout=reading.fraction("embd_pdrop"),
        tie_embeddings=reading.flag("tie_word_embeddings"),
        modules=tuple(layout.modules),
        config=config,
    )


def gpt2(reading: ConfigReading, identity: str) -> ModelSpec:
    """GPT-2: learned positions, transposed linears, queries, keys and values fused."""
    hidden = reading.size("n_embd")
    return _gpt2_like(reading, identity, fused_width=3 * hidden, kv_heads=reading.size("n_head"), transposed=True)


def gpt_bigcode(reading: ConfigReading, identity: str) -> ModelSpec:
    """SantaCoder and StarCoder: GPT-2's layout with plain linears and one key-value head for all queries."""
    hidden, heads = reading.size("n_embd"), reading.size("n_head")
    kv_heads = 1 if reading.flag("multi_query") else heads
    fused = hidden + 2 * kv_heads * reading.split(hidden, heads)
    return _gpt2_like(reading, identity, fused_width=fused, kv_heads=kv_heads, transposed=False)


def gpt_bigcode_keys(config: Config, raw: Mapping[str, object]) -> None:
    """Its config class notes the number of key-value heads."""
    config["num_key_value_heads"] = 1 if config["multi_query"] else config["n_head"]


def _gpt2_like(
    reading: ConfigReading, identity: str, *, fused_width: int, kv_heads: int, transposed: bool
) -> ModelSpec:
    config, layout = reading.config, ModuleLayout()
    if config["add_cross_attention"]:
        raise NotModelled(f"{reading.origin}: add_cross_attention is not modelled for {reading.facts.name}")
    hidden, heads, layers = (reading.size(key) for key in ("n_embd", "n_head", "n_layer"))
    inner = 4 * hidden if config["n_inner"] is None else reading.size("n_inner")
    vocabulary, positions = reading.size("vocab_size"), reading.size("n_positions")

    def linear(path: str, inputs: int, outputs: int) -> None:
        if transposed:
            layout.conv1d(path, inputs, outputs)
        else:
            layout.linear(path, inputs, outputs, True)

    layout.embedding("transformer.wte", vocabulary, hidden)
    layout.embedding("transformer.wpe", positions, hidden)
    layout.repeat(layers)
    base = "transformer.h.{}"
    layout.norm(f"{base}.ln_1", hidden, bias=True)
    linear(f"{base}.attn.c_attn", hidden, fused_width)
    linear(f"{base}.attn.c_proj", hidden, hidden)
    layout.norm(f"{base}.ln_2", hidden, bias=True)
    linear(f"{base}.mlp.c_fc", hidden, inner)
    linear(f"{base}.mlp.c_proj", inner, hidden)
    layout.repeat(None)
    layout.norm("transformer.ln_f", hidden, bias=True)
    head(layout, reading, "transformer.wte")
    return ModelSpec(
        id=identity,
        architecture=reading.facts.name,
        task=reading.task,
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=reading.split(hidden, heads),
        intermediate_size=inner,
        max_positions=positions,
        activation=reading.text("activation_function"),
        attention_dropout=reading.fraction("attn_pdrop"),
        hidden_dropout=reading.fraction("resid_pdrop"),
        embedding_dropout=reading.fraction("embd_pdrop"),
        tie_embeddings=reading.flag("tie_word_embeddings"),
        modules=tuple(layout.modules),
        config=config,
    )


def gpt_neox(reading: ConfigReading, identity: str) -> ModelSpec:
    """GPT-NeoX and Pythia: fused projections, two layer norms that both read the layer's input when parallel."""
    layout = ModuleLayout()
    hidden, heads, inner = (reading.size(k) for k in ("hidden_size", "num_attention_heads", "intermediate_size"))
    layers, vocabulary = reading.size("num_hidden_layers"), reading.size("vocab_size")
    bias = reading.flag("attention_bias")
    layout.embedding("gpt_neox.embed_in", vocabulary, hidden)
    layout.repeat(layers)
    base = "gpt_neox.layers.{}"
    layout.norm(f"{base}.input_layernorm", hidden, bias=True)
    layout.linear(f"{base}.attention.query_key_value", hidden, 3 * hidden, bias)
    layout.linear(f"{base}.attention.dense", hidden, hidden, bias)
    layout.norm(f"{base}.post_attention_layernorm", hidden, bias=True)
    layout.linear(f"{base}.mlp.dense_h_to_4h", hidden, inner, True)
    layout.linear(f"{base}.mlp.dense_4h_to_h", inner, hidden, True)
    layout.repeat(None)
    layout.norm("gpt_neox.final_layer_norm", hidden, bias=True)
    head(layout, reading, "gpt_neox.embed_in")
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
        max_positions=reading.size("max_position_embeddings"),
        activation=reading.text("hidden_act"),
        attention_dropout=reading.fraction("attention_dropout"),
        hidden_dropout=reading.fraction("hidden_dropout"),
        embedding_dropout=reading.fraction("hidden_dropout"),
        tie_embeddings=reading.flag("tie_word_embeddings"),
        modules=tuple(layout.modules),
        config=reading.config,
    )


def falcon(reading: ConfigReading, identity: str) -> ModelSpec:
    """Falcon, old layout (7B: one key-value head) and new (40B: grouped key-value heads, two layer norms)."""
    config, layout = reading.config, ModuleLayout()
    if reading.flag("alibi"):
        # Its bias tensor and its attention path have not been checked against a trace.
        raise NotModelled(f"{reading.origin}: falcon with alibi positions is not modelled; rotary falcon models are")
    hidden, heads, inner = (reading.size(k) for k in ("hidden_size", "num_attention_heads", "ffn_hidden_size"))
    layers, vocabulary, bias = reading.size("num_hidden_layers"), reading.size("vocab_size"), reading.flag("bias")
    width, new_layout = reading.split(hidden, heads), reading.flag("new_decoder_architecture")
    if new_layout:
        kv_heads = reading.kv_heads("num_kv_heads", heads)
    else:
        kv_heads = 1 if reading.flag("multi_query") else heads
    if new_layout and config["num_ln_in_parallel_attn"] is None:
        config["num_ln_in_parallel_attn"] = 2
    layout.embedding("transformer.word_embeddings", vocabulary, hidden)
    layout.repeat(layers)
    base, parallel = "transformer.h.{}", reading.flag("parallel_attn")
    if config["num_ln_in_parallel_attn"] == 2 and not (parallel and new_layout):
        # transformers makes either norms that its forward doesn't call, or calls norms that it hasn't made.
        raise reading.fail("num_ln_in_parallel_attn", "1 but with parallel_attn and new_decoder_architecture")
    if parallel and config["num_ln_in_parallel_attn"] == 2:
        layout.norm(f"{base}.ln_attn", hidden, bias=True)
        layout.norm(f"{base}.ln_mlp", hidden, bias=True)
    else:
        layout.norm(f"{base}.input_layernorm", hidden, bias=True)
    layout.linear(f"{base}.self_attention.query_key_value", hidden, (heads + 2 * kv_heads) * width, bias)
    layout.linear(f"{base}.self_attention.dense", hidden, hidden, bias)
    if not parallel:
        layout.norm(f"{base}.post_attention_layernorm", hidden, bias=True)
    layout.linear(f"{base}.mlp.dense_h_to_4h", hidden, inner, bias)
    layout.linear(f"{base}.mlp.dense_4h_to_h", inner, hidden, bias)
    layout.repeat(None)
    layout.norm("transformer.ln_f", hidden, bias=True)
    head(layout, reading, "transformer.word_embeddings")
    return ModelSpec(
        id=identity,
        architecture=reading.facts.name,
        task=reading.task,
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width,
        intermediate_size=inner,
        max_positions=reading.size("max_position_embeddings"),
        activation=reading.text("activation"),
        attention_dropout=reading.fraction("attention_dropout"),
        hidden_dropout=reading.fraction("hidden_dropout"),
        tie_embeddings=reading.flag("tie_word_embeddings"),
        modules=tuple(layout.modules),
        config=config,
    )


def falcon_keys(config: Config, raw: Mapping[str, object]) -> None:
    """Its config class knows an older name of the width, and works out key-value heads and the feed-forward width."""
    if config.get("n_embed") is not None:
        config["hidden_size"] = config.pop("n_embed")
    if config["num_kv_heads"] is None:
        config["num_kv_heads"] = config["num_attention_heads"]
    if config["ffn_hidden_size"] is None and isinstance(config["hidden_size"], int):
        config["ffn_hidden_size"] = 4 * config["hidden_size"]
