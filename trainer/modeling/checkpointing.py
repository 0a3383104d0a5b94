"""Gradient checkpointing of every layer or of the first N, through transformers' own per-layer switch."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.graph import save_on_cpu

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled


def base_model(model: object) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def checkpointable_layers(model: torch.nn.Module) -> list[Any]:
    """The repeated layers that carry a checkpointing switch, in forward order (t5: encoder, then decoder)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in base_model(model).modules() if isinstance(module, GradientCheckpointingLayer)]


def apply_checkpointing(model: torch.nn.Module, choices: TrainingChoices) -> int:
    """Switches checkpointing on as chosen; returns how many layers recompute.

    Also makes the embeddings' output require gradients, as the transformers Trainer does: without it frozen weights
    would cut the graph before the first checkpointed layer.
    """
    base = base_model(model)
    layers = checkpointable_layers(model)
    count = choices.checkpointed_layers(len(layers))
    if count == 0:
        return 0
    if not layers:
        raise NotModelled(f"{type(base).__name__} has no layers that can be checkpointed")
    options = {"use_reentrant": choices.checkpoint_reentrant}
    if hasattr(base, "activation_checkpointing_enable"):  # transformers 5.2x; its older name before
        base.activation_checkpointing_enable(options)
    else:
        base.gradient_checkpointing_enable(options)
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < count
        if choices.checkpoint_offload:
            layer._gradient_checkpointing_func = _offloaded(layer._gradient_checkpointing_func)
    return count


def _offloaded(checkpoint: Any) -> object:
    """`checkpoint` with what it keeps for the recomputation in pinned host memory."""
    accelerator = torch.accelerator.current_accelerator()
    kind = accelerator.type if accelerator is not None else "cpu"

    def run(function: object, *args: object, **kwargs: object) -> object:
        with save_on_cpu(pin_memory=True, device_type=kind):
            return checkpoint(function, *args, **kwargs)

    return run
