"""Gemma 1 to 3: a fixed head width, embeddings tied and scaled; from Gemma 2 on norms around attention and MLP."""

from __future__ import annotations

from planner.contract.spec import ModelSpec
from planner.models.sources.families.llama import Variant, decoder
from planner.models.sources.reading import Reading


def gemma(reading: Reading, identity: str) -> ModelSpec:
    """Gemma 1: Llama's layer with its own head width."""
    bias = reading.flag("attention_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias))


def gemma2(reading: Reading, identity: str) -> ModelSpec:
    """Gemma 2: four norms a layer, soft caps on scores and logits, every second layer with a window."""
    bias = reading.flag("attention_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias, norms="around"))


def gemma3_text(reading: Reading, identity: str) -> ModelSpec:
    """Gemma 3's language model: norms on queries and keys instead of soft caps, five windowed layers in six."""
    bias = reading.flag("attention_bias")
    return decoder(reading, identity, Variant(qkv_bias=bias, o_bias=bias, norms="around", qk_norm="head"))
