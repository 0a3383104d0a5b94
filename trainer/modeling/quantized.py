"""4-bit base weights (QLoRA): linear layers become bitsandbytes modules; head, embeddings and norms stay."""

# mypy: disable-error-code="no-untyped-call, attr-defined"

from __future__ import annotations

from typing import Any

import torch

from planner.errors import InvalidInput, NotModelled
from planner.spec import TrainingChoices


def quantize(model: Any, choices: TrainingChoices, *, compute_dtype: torch.dtype | None = None) -> Any:
    """Replaces every `nn.Linear` but the head by a 4-bit one, as transformers does when it loads with a 4-bit config.

    Weights on a device are quantised at once; on `meta` only the structure changes. `compute_dtype` is what the weights
    are de-quantised to; None follows the input.
    """
    if choices.method != "qlora":
        return model
    if choices.quantization == "int8":
        raise NotModelled("--quantization int8 is not modelled yet; use nf4 or nf4-double")
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise InvalidInput("--method qlora needs bitsandbytes: install tuneplan[quant]") from error
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = get_keys_to_not_convert(model) + list(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or not should_convert_module(name, kept):
            continue
        weight = module.weight
        made = bnb.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=compute_dtype,
            compress_statistics=choices.quantization == "nf4-double",
            quant_type="nf4",
            device="meta",
        )
        made.weight = bnb.nn.Params4bit(
            weight.data,
            requires_grad=False,
            compress_statistics=choices.quantization == "nf4-double",
            quant_type="nf4",
            module=made,
        )
        made.bias = module.bias
        if weight.device.type != "meta":
            made = made.to(weight.device)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent) if parent else model, leaf, made)
    model.is_loaded_in_4bit = True
    model.is_quantized = True
    model.train()
    return model


def prepare_kbit(model: Any, choices: TrainingChoices) -> None:
    """What a run does to a 4-bit model before it attaches adapters: everything that is not 4-bit is frozen.

    Stack `peft` also turns norms, embeddings and head into fp32 (`peft.prepare_model_for_kbit_training`); stack
    `builtin` leaves their dtype alone, and so do the frameworks that run autocast over bf16 weights (`bf16-amp`).
    """
    if choices.method != "qlora":
        return
    if choices.stack == "peft" and choices.precision != "bf16-amp":
        from peft import prepare_model_for_kbit_training

        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    else:
        model.requires_grad_(False)
