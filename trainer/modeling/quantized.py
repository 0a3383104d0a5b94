"""Quantised base weights (QLoRA, LLM.int8): linear layers become bitsandbytes modules; head, embeddings, norms stay.

Sources: transformers 5.23 integrations/bitsandbytes.py, quantizers/base.py; bitsandbytes 0.50 nn/modules.py (2026-11).
"""

# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import logging
from types import MethodType
from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput

INT8_THRESHOLD = 6.0
"""Columns of an input that reach this magnitude skip the int8 product (transformers' `llm_int8_threshold`)."""


def quantize(
    model: object, choices: TrainingChoices, *, compute_dtype: torch.dtype | None = None, device: object = None
) -> Any:
    """Replaces every linear layer but the head by a quantised one, as transformers does when it loads quantised.

    That is every plain `nn.Linear` and GPT-2's `Conv1D`, whose weight is transposed. Weights on a device are quantised
    at once; on `meta` only the structure changes. `compute_dtype` is what 4-bit weights are de-quantised to; None
    follows the input. int8 weights are de-quantised to the dtype of their input. `device`: where the model is to be;
    weights in host memory go there one by one, so that it never holds more than one of them unquantised.
    """
    if choices.method != "qlora":
        return model
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise InvalidInput("--method qlora needs bitsandbytes: install tuneplan[quant]") from error
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    int8 = choices.quantization == "int8"
    if int8:  # bitsandbytes says at every product that its input is cast to fp16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    kept = get_keys_to_not_convert(model) + list(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, module in list(model.named_modules()):
        transposed = isinstance(module, Conv1D)
        if not (transposed or type(module) is torch.nn.Linear) or not should_convert_module(name, kept):
            continue
        weight = module.weight.data if device is None else module.weight.data.to(device)
        weight = weight.t().contiguous() if transposed else weight
        made = _int8(weight) if int8 else _four_bit(weight, choices, compute_dtype)
        made.bias = module.bias
        made.train(module.training)
        model.set_submodule(name, made)
        del weight
    if device is not None:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type == "cpu":
                tensor.data = tensor.data.to(device)
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = int8, not int8
    model.is_quantized = True
    for module in model.modules():
        if isinstance(module, PreTrainedModel):  # by which flash attention knows what to cast fp32 queries to
            module.config._is_quantized = True
    model.train()
    return model


def _four_bit(weight: torch.Tensor, choices: TrainingChoices, compute_dtype: torch.dtype | None) -> object:
    """A 4-bit linear layer, without a bias, of a weight (out, in)."""
    import bitsandbytes as bnb

    made = bnb.nn.Linear4bit(  # type: ignore[no-untyped-call]
        weight.shape[1],
        weight.shape[0],
        bias=False,
        compute_dtype=compute_dtype,
        compress_statistics=choices.quantization == "nf4-double",
        quant_type="nf4",
        device="meta",
    )
    made.weight = bnb.nn.Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=choices.quantization == "nf4-double",
        quant_type="nf4",
        module=made,
    )
    made = made if weight.device.type == "meta" else made.to(weight.device)
    # On a CPU, bitsandbytes would repack the weight in place for an evaluation; it stays as it is trained over.
    made.support_avx512bf16_for_cpu = False
    return made


def _int8(weight: torch.Tensor) -> object:
    """An int8 linear layer, without a bias, of a weight (out, in): a byte a value and an fp32 scale per output."""
    import bitsandbytes as bnb

    made: object = bnb.nn.Linear8bitLt(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        has_fp16_weights=False,
        threshold=INT8_THRESHOLD,
        device="meta",
    )
    if weight.device.type == "meta":
        values = weight.new_empty(weight.shape, dtype=torch.int8)
        scales = weight.new_empty(weight.shape[0], dtype=torch.float32)
    else:
        values, scales, _ = bnb.functional.int8_vectorwise_quant(weight.to(torch.float16))
    made.weight = bnb.nn.Int8Params(values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales)
    made.init_8bit_state = MethodType(_take_over, made)
    return made


def _take_over(layer: object) -> None:
    """Moves values and scales from the weight to the layer's state, as bitsandbytes does at the first forward.

    On a CPU, PEFT's DoRA moves the weight to its own device in every forward, and the copy comes without the scales
    (peft 0.21 utils/integrations.py, dequantize_module_weight); those that the state has stay.
    """
    if layer.weight.SCB is None:
        layer.weight.SCB = layer.state.SCB
    type(layer).init_8bit_state(layer)


def is_int8(layer: object) -> bool:
    """Whether a module is a linear layer with int8 weights (PEFT's adapter over one bears the same class name)."""
    return type(layer).__name__ == "Linear8bitLt" and hasattr(layer, "state")


def int8_state(layer: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The int8 values (out, in) and fp32 scales (out) of a `Linear8bitLt`, before and after its first forward."""
    scales = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
    return layer.weight.data, scales


def quantization_tensors(module: object) -> list[torch.Tensor]:
    """Tensors that belong to the quantised weight of one module and are neither its parameters nor its buffers."""
    found = []
    weight = module._parameters.get("weight")
    state = getattr(weight, "quant_state", None)
    for part in (state, getattr(state, "state2", None)):
        if part is not None:
            found += [value for value in (part.absmax, part.code, part.offset) if isinstance(value, torch.Tensor)]
    if is_int8(module):
        found.append(int8_state(module)[1])
    return found


def prepare_kbit(model: object, choices: TrainingChoices) -> None:
    """What a run does to a quantised model before it attaches adapters: everything that is not quantised is frozen.

    Stack `peft` also turns norms, embeddings and head into fp32 (`peft.prepare_model_for_kbit_training`), or, as TRL's
    SFTTrainer did under bf16 until late 2025, the norms alone (`--kbit-preparation norms`); stack `builtin` leaves
    their dtype alone, and so do the frameworks that run autocast over bf16 weights (`bf16-amp`).
    """
    if choices.method != "qlora":
        return
    if choices.kbit_prepared == "stock":
        from peft import prepare_model_for_kbit_training

        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return
    model.requires_grad_(False)
    if choices.kbit_prepared == "norms":
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.LayerNorm) or "norm" in name:
                module.to(torch.float32)
