"""What CUDA's kernels hold while they run, and stand-ins for operators whose fake implementation is too narrow.

ScratchRules by operator overload, for the recorder: `rule(args, outputs) -> list of bytes`.
"""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from trainer.trace.attention import HALF
from trainer.trace.recorder import Arguments, ScratchRules, StandIns

aten = torch.ops.aten


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def flash_backward_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """fp32 accumulator of dq (rows to 128, width to 32), row sums of fp32, and expanded dk and dv under GQA."""
    grad_out, query, key = args[0], args[1], args[2]
    batch, heads, rows, width = query.shape
    columns, groups = key.shape[2], key.shape[1]
    rows_rounded = _round_up(rows, 128)
    width_rounded = _round_up(width, 32) if width <= 192 else 256
    sizes = [
        batch * heads * rows_rounded * width_rounded * 4,
        batch * heads * rows_rounded * 4,
    ]
    if groups != heads:
        sizes += [batch * columns * heads * width * query.element_size()] * 2
    # The kernel wants (batch, rows, heads, width) contiguous; another layout is copied first.
    if not grad_out.transpose(1, 2).is_contiguous():
        sizes.append(grad_out.numel() * grad_out.element_size())
    return sizes


def efficient_backward_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """Row sums of fp32, the fp32 accumulator of dq, those of dk and dv for wide heads, and a copied gradient.

    The kernel of compute capability 8.0 works in tiles of 64 rows; heads wider than 128 do not fit its registers, and
    dk and dv are then accumulated in memory too. For fp32 inputs the row sums are made by a product of full size.
    """
    grad_out, query, key = args[0], args[1], args[2]
    batch, heads, rows, width = query.shape
    columns = key.shape[2]
    tile = _round_up(rows, 64) * _round_up(width, 64)
    sizes = [batch * heads * rows * 4, batch * heads * tile * 4]
    if width > 128 and query.dtype in HALF:
        sizes += [batch * heads * _round_up(columns, 64) * _round_up(width, 64) * 4] * 2
    if query.dtype == torch.float32:
        sizes.append(grad_out.numel() * 4)
    if not grad_out.transpose(1, 2).is_contiguous():
        sizes.append(grad_out.numel() * grad_out.element_size())
    return sizes


def embedding_backward_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """Beyond 3072 tokens: the sorted tokens and where their runs begin, six int64 arrays, and fp32 sums over up to ten
    tokens each (native/cuda/EmbeddingBackwardKernel.cu, 2.13).
    """
    indices, table = args[1].numel(), args[2]
    if indices <= 3072:
        return []
    sums = indices // 10 + min(indices, table)
    return [*([indices * 8] * 5), sums * 8, sums * out.shape[-1] * 4]


def softmax_backward_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """The product of gradient and result, made before the kernel runs."""
    return [args[1].numel() * args[1].element_size()]


def safe_softmax_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """The softmax before rows without any key are set to zero, and which scores are minus infinity."""
    return [out.numel() * out.element_size(), out.numel()]


def gemm_4bit_scratch(args: Arguments, out: torch.Tensor) -> list[int]:
    """The de-quantised weight in the input's dtype; where its scales are quantised too, they in fp32, without and with
    their mean (bitsandbytes 0.50 backends/cuda/ops.py, _dequant_linear_fallback).
    """
    inputs, shape, block = args[0], args[2], args[4]
    numbers = shape[0] * shape[1]
    scales = -(-numbers // block) * 4 if len(args) > 7 and args[7] is not None else 0
    return [scales, scales, numbers * inputs.element_size()]


def grouped_mm(mat_a: torch.Tensor, mat_b: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """The fake implementation accepts bf16 only; the operator itself takes fp32 and fp16 as well."""
    if mat_a.dtype == torch.bfloat16:
        taken: torch.Tensor = aten._grouped_mm.default(mat_a, mat_b, *args, **kwargs)
        return taken
    out = aten._grouped_mm.default(mat_a.to(torch.bfloat16), mat_b.to(torch.bfloat16), *args, **kwargs)
    return torch.empty_strided(out.shape, out.stride(), dtype=mat_a.dtype, device=out.device)


def all_hold(mask: torch.Tensor) -> torch.Tensor:
    """`all`, which remembers that it is one should code ask for its value."""
    out: torch.Tensor = aten.all.default(mask)
    out.all_hold = True  # type: ignore[attr-defined]
    return out


def value_of(tensor: torch.Tensor) -> object:
    """What code reads off a fake tensor in order to choose a way: all of something holds, nothing odd is among it (no
    padding, no overflow, no token with an attention of its own), and no layer is drawn to be left out, of which there
    is none in the costliest step. Numbers stay unknown."""
    try:
        return aten._local_scalar_dense.default(tensor)
    except DataDependentOutputException:
        if tensor.dtype != torch.bool:
            raise
    return getattr(tensor, "all_hold", False)


def fused_update(*_: object, **__: object) -> None:
    """SGD's fused kernel updates in place. Without a fake implementation it would run on real tensors of full size."""


def stand_ins() -> StandIns:
    """Functions by operator that a trace calls in its place."""
    return {
        aten._grouped_mm.default: grouped_mm,
        aten.all.default: all_hold,
        aten._local_scalar_dense.default: value_of,
        aten._fused_sgd_.default: fused_update,
        aten._fused_sgd_.tensor_lr: fused_update,
    }


def cuda_scratch() -> ScratchRules:
    """Scratch rules by operator; bitsandbytes' operators exist only once it is imported."""
    rules: ScratchRules = {
        aten._scaled_dot_product_flash_attention_backward.default: flash_backward_scratch,
        aten._scaled_dot_product_efficient_attention_backward.default: efficient_backward_scratch,
        aten._safe_softmax.default: safe_softmax_scratch,
        aten._softmax_backward_data.default: softmax_backward_scratch,
        aten.embedding_dense_backward.default: embedding_backward_scratch,
    }
    try:
        import bitsandbytes  # noqa: F401

        rules[torch.ops.bitsandbytes.gemm_4bit.default] = gemm_4bit_scratch
    except (ImportError, AttributeError):
        pass
    return rules
