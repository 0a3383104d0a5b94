"""Keys and values that a model returns beside its logits, as older releases' GPTBigCode does in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from planner.contract import architectures
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from trainer.modeling.checkpointing import base_model

_FUSED = ".attn.c_attn"


@contextlib.contextmanager
def returned(model: torch.nn.Module, choices: TrainingChoices) -> Iterator[list[torch.Tensor]]:
    """One forward pass that returns keys and values under `keep_cache`; yields the list that holds them.

    transformers up to 4.5x leaves `use_cache` on where GPTBigCode is checkpointed (models/gpt_bigcode/
    modeling_gpt_bigcode.py, read 2026-11). A layer's `present` is a view of its fused projection, so that all of that
    stays. Today's cache copies keys and values instead, so they are kept here by hooks; a recomputation in backward
    keeps none. Raises NotModelled for other architectures.
    """
    kept: list[torch.Tensor] = []
    if not choices.keep_cache:
        yield kept
        return
    if not architectures.of(base_model(model).config.model_type).keeps_cache or choices.loss != "full":
        raise NotModelled("--keep-cache is modelled for gpt_bigcode with --loss full only; no number is given")
    layers = [module for name, module in base_model(model).named_modules() if name.endswith(_FUSED)]
    hooks = [layer.register_forward_hook(lambda _m, _i, output: kept.append(output.detach())) for layer in layers]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
