"""Builds the optimizer that the choices name over the model's trainable parameters."""

# mypy: disable-error-code="attr-defined"

from __future__ import annotations

from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters

NO_DECAY = ("bias", "norm", "ln_", "layernorm")


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: biases and norms are not decayed, as in the transformers Trainer."""
    decayed: list[object] = []
    plain: list[object] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (plain if any(part in name.lower() for part in NO_DECAY) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    model: torch.nn.Module, choices: TrainingChoices, hyperparameters: Hyperparameters | None = None
) -> torch.optim.Optimizer:
    """The optimizer with its foreach, fused or for-loop implementation; 8-bit ones come from bitsandbytes."""
    h = hyperparameters or Hyperparameters()
    groups = parameter_groups(model, h.weight_decay)
    betas = (h.beta1, h.beta2)
    switches = {
        "foreach": {"foreach": True, "fused": False},
        "fused": {"foreach": False, "fused": True},
        "forloop": {"foreach": False, "fused": False},
    }[choices.optimizer_implementation]
    if choices.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=h.learning_rate, betas=betas, eps=h.epsilon, **switches)
    if choices.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=h.learning_rate, momentum=0.0, **switches)
    if choices.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=h.learning_rate, scale_parameter=False, relative_step=False)
    try:
        import bitsandbytes
    except ImportError as error:
        raise InvalidInput(f"--optimizer {choices.optimizer} needs bitsandbytes: install tuneplan[quant]") from error
    paged = choices.optimizer == "paged-adamw-8bit"
    cls = bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit
    return cls(groups, lr=h.learning_rate, betas=betas, eps=h.epsilon)
