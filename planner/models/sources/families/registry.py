"""The builders by model type, and the module that holds each, imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from planner.contract.errors import NotModelled
from planner.contract.shown import shown
from planner.contract.spec import ModelSpec
from planner.models.sources.reading import Reading

Builder = Callable[[Reading, str], ModelSpec]

_MODULES: dict[str, str] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "granite", "smollm3", "olmo", "olmo2"), "llama"),
    **dict.fromkeys(("phi3", "stablelm", "starcoder2"), "llama"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), "gemma"),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe"), "experts"),
    **dict.fromkeys(("phi", "gpt2", "gpt_bigcode", "gpt_neox", "falcon"), "gpt"),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "distilbert"), "encoders"),
    "t5": "t5",
}

DEFAULT_TASKS: dict[str, str] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "distilbert"), "masked"),
    "t5": "seq2seq",
}
"""Task of a config that names no head; every other model type is `causal`."""

WITHOUT_CLASSIFIER = frozenset({"granite"})
"""Model types for which transformers has no sequence classification."""


def supported() -> tuple[str, ...]:
    """Model types that can be planned, sorted."""
    return tuple(sorted(_MODULES))


def builder(model_type: str, origin: str) -> Builder:
    """The builder of a model type; an unknown one is refused by name."""
    if model_type not in _MODULES:
        raise NotModelled(
            f"{origin}: architecture {shown(model_type)} is not modelled; supported are {', '.join(supported())}"
        )
    module = import_module(f"planner.models.sources.families.{_MODULES[model_type]}")
    found: Builder = getattr(module, model_type.replace("-", "_"))
    return found
