"""What LLM.int8's CUDA kernels keep and hold, for a step that is traced on fake CPU tensors.

In training bitsandbytes runs `MatMul8bitLt` on a GPU and a plain product with the de-quantised weight on a CPU. Columns
of an input with values of 6 and more are data and unknown here; they are taken to be none. Source: bitsandbytes 0.50
autograd/_functions.py, backends/cuda/ops.py, backends/default/ops.py (read 2026-11).
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.modeling.quantized import int8_state, is_int8
from trainer.trace.operators import Replacement
from trainer.trace.recorder import Arguments, ScratchRules, StandIns


def quantized_input(a: torch.Tensor, threshold: float = 0.0) -> object:
    """An input's int8 values, its fp32 scale per row, and the columns that are left out: none of them."""
    values = torch.empty(a.shape, dtype=torch.int8, device=a.device)
    scales = torch.empty(a.numel() // a.shape[-1], dtype=torch.float32, device=a.device)
    return values, scales, torch.empty(0, dtype=torch.int64, device=a.device) if threshold > 0 else None


def mixed_product(a: torch.Tensor, ca: Any, cb: Any, *_: object, **__: object) -> Any:
    """The product in the input's dtype, and the input's columns that were left out: none."""
    return a.new_empty((*ca.shape[:-1], cb.shape[0])), a.new_empty(0)


def quantized_input_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """Where columns are sought: the input's magnitudes (fp16) and a flag of each."""
    threshold = args[1] if len(args) > 1 else 0.0
    return [args[0].numel() * 2, args[0].numel()] if threshold > 0 else []


def mixed_product_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """The int32 product and its fp16 form, which is the result itself where that is fp16."""
    result = out[0]
    return [result.numel() * 4, result.numel() * 2 if result.dtype != torch.float16 else 0]


def stand_ins() -> StandIns:
    """Functions in place of fake implementations whose sizes depend on data."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return {}
    ops = torch.ops.bitsandbytes
    return {ops.int8_vectorwise_quant.default: quantized_input, ops.int8_mixed_scaled_mm.default: mixed_product}


def scratch() -> ScratchRules:
    """What the kernels hold while they run, by operator."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return {}
    ops = torch.ops.bitsandbytes
    return {
        ops.int8_vectorwise_quant.default: quantized_input_scratch,
        ops.int8_mixed_scaled_mm.default: mixed_product_scratch,
        ops.int8_vectorwise_dequant.default: lambda args, out: [out.numel() * 4],
    }


def cuda_matmul() -> list[Replacement]:
    """Lets fake CPU tensors take the product that CUDA tensors take."""
    try:
        import bitsandbytes
        from bitsandbytes.autograd._functions import MatMul8bitLt
    except ImportError:
        return []

    def matmul(
        a: object, b: object, out: object = None, state: object = None, threshold: float = 0.0, bias: object = None
    ) -> object:
        return MatMul8bitLt.apply(a, b, out, bias, state)

    return [(bitsandbytes, "matmul", matmul)]


def readable_weights() -> list[Replacement]:
    """Lets PEFT's DoRA read quantised weights that are fakes, or on `meta` while adapters are attached.

    It tells them by the class of their parameter, which a fake does not have, and copies 4-bit layers first.
    """
    from peft.tuners.lora import dora as module_of_peft

    dora: Any = module_of_peft
    plain = dora.dequantize_module_weight

    def dequantized(module: Any) -> Any:
        weight = module.weight
        if weight.device.type == "meta":
            dtype = weight.dtype if weight.is_floating_point() else torch.float32
            return torch.empty(module.out_features, module.in_features, dtype=dtype, device="meta")
        if hasattr(weight, "quant_state"):
            from bitsandbytes.functional import dequantize_4bit

            return dequantize_4bit(weight, weight.quant_state)
        if is_int8(module):
            return torch.ops.bitsandbytes.int8_vectorwise_dequant(*int8_state(module))
        return plain(module)

    return [(dora, "dequantize_module_weight", dequantized), (dora, "deepcopy", lambda layer: layer)]
