"""The memory behaviour of a device's own operators, for a step that is traced on fake CPU tensors.

What differs between devices is which tensors an operator keeps for backward and what it holds while it runs. Functions
are replaced rather than intercepted, because a recomputation inside backward does not see function modes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
KERNELS = ("auto", "pre-ampere", "flash", "efficient", "math", "cudnn")
"""`auto` chooses as PyTorch does on Ampere and later; `pre-ampere` as on Volta and Turing, without the flash kernel."""


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


# -- attention


def choose_kernel(query: Any, key: Any, value: Any, mask: Any, requested: str = "auto") -> str:
    """Which CUDA kernel PyTorch's `scaled_dot_product_attention` would take (order flash, efficient, math)."""
    if requested not in ("auto", "pre-ampere"):
        if requested in ("flash", "cudnn") and mask is not None:
            return "efficient"
        return requested
    width = query.shape[-1]
    same = query.shape[-1] == key.shape[-1] == value.shape[-1]
    modern = requested == "auto"
    if modern and mask is None and query.dtype in HALF and same and width <= 256:
        return "flash"
    grouped = query.shape[1] != key.shape[1]
    dtypes = (*HALF, torch.float32) if modern else (torch.float16, torch.float32)
    if query.dtype in dtypes and query.shape[-1] == key.shape[-1] and not grouped:
        return "efficient"
    return "math"


def _padded(tensor: Any, multiple: int) -> Any:
    missing = -tensor.shape[-1] % multiple
    return functional.pad(tensor, (0, missing)) if missing else tensor


def _flash(query: Any, key: Any, value: Any, dropout_p: float, is_causal: bool, scale: float | None) -> Any:
    width = query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    query, key, value = _padded(query, 8), _padded(key, 8), _padded(value, 8)
    out = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    return out[..., :width]


def _efficient(query: Any, key: Any, value: Any, mask: Any, dropout_p: float, is_causal: bool, scale: Any) -> Any:
    width = query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    needs = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (query, key, value, mask))
    if mask is not None:
        mask = _additive(mask, query.dtype)
        missing = -mask.shape[-1] % 16
        if missing:
            mask = functional.pad(mask, (0, missing))[..., : mask.shape[-1]]
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    out = aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs, dropout_p, is_causal, scale=scale
    )[0]
    return out


def _additive(mask: Any, dtype: torch.dtype) -> Any:
    """A boolean mask as PyTorch adds it to the scores: 0 or minus infinity in the queries' dtype."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.full((), float("-inf"), dtype=dtype))


def _cudnn(query: Any, key: Any, value: Any, dropout_p: float, is_causal: bool, scale: float | None) -> Any:
    needs = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, needs, dropout_p, is_causal, False, scale=scale
    )[0]


def _math_with_dropout(query: Any, key: Any, value: Any, mask: Any, p: float, is_causal: bool, scale: Any) -> Any:
    """The composite kernel with CUDA's fused dropout, for fp32; the CPU's would keep a mask of the scores' own
    dtype. Names are those of ATen's own code, where the scaled queries live until it returns
    (native/transformers/attention.cpp, _scaled_dot_product_attention_math).
    """
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scaled = query * root
    if is_causal:
        allowed = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        mask = torch.zeros(allowed.shape, dtype=query.dtype).masked_fill_(allowed.logical_not_(), float("-inf"))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    weights = scaled @ (key * root).transpose(-2, -1)
    if mask is not None:
        weights = weights.add_(mask)
    weights = aten._safe_softmax(weights, -1)
    weights = torch.native_dropout(weights, p, True)[0]
    return weights @ value


def cuda_attention(requested: str) -> Callable[..., Any]:
    """A stand-in for `scaled_dot_product_attention` that keeps what the CUDA kernels keep."""

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(dtype)
            with torch.autocast("cpu", enabled=False):  # the operator's own products are not cast
                return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        kernel = choose_kernel(query, key, value, attn_mask, requested)
        if kernel == "flash":
            return _flash(query, key, value, dropout_p, is_causal, scale)
        if kernel == "cudnn":
            return _cudnn(query, key, value, dropout_p, is_causal, scale)
        if kernel == "efficient":
            return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)
        if dropout_p > 0 and query.dtype == torch.float32:
            additive = _additive(attn_mask, query.dtype)
            return _math_with_dropout(query, key, value, additive, dropout_p, is_causal, scale)
        additive = _additive(attn_mask, query.dtype)
        return aten._scaled_dot_product_attention_math(
            query, key, value, additive, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]

    return attention


def math_attention() -> Callable[..., Any]:
    """Stand-in on Apple's MPS in training: the composite of matrix products and a softmax."""

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
            with torch.autocast("cpu", enabled=False):
                return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        additive = _additive(attn_mask, query.dtype)
        return aten._scaled_dot_product_attention_math(
            query, key, value, additive, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]

    return attention


# -- what kernels hold while they run


def flash_backward_scratch(args: Any, out: Any) -> list[int]:
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


def efficient_backward_scratch(args: Any, out: Any) -> list[int]:
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


def embedding_backward_scratch(args: Any, out: Any) -> list[int]:
    """Beyond 3072 tokens: the sorted tokens and where their runs begin, six int64 arrays, and fp32 sums over up to ten
    tokens each (native/cuda/EmbeddingBackwardKernel.cu, 2.13).
    """
    indices, table = args[1].numel(), args[2]
    if indices <= 3072:
        return []
    sums = indices // 10 + min(indices, table)
    return [*([indices * 8] * 5), sums * 8, sums * out.shape[-1] * 4]


def softmax_backward_scratch(args: Any, out: Any) -> list[int]:
    """The product of gradient and result, made before the kernel runs."""
    return [args[1].numel() * args[1].element_size()]


def safe_softmax_scratch(args: Any, out: Any) -> list[int]:
    """The softmax before rows without any key are set to zero, and which scores are minus infinity."""
    return [out.numel() * out.element_size(), out.numel()]


def gemm_4bit_scratch(args: Any, out: Any) -> list[int]:
    """The de-quantised weight in the input's dtype; where its scales are quantised too, they in fp32, without and with
    their mean (bitsandbytes 0.50 backends/cuda/ops.py, _dequant_linear_fallback).
    """
    inputs, shape, block = args[0], args[2], args[4]
    numbers = shape[0] * shape[1]
    scales = -(-numbers // block) * 4 if len(args) > 7 and args[7] is not None else 0
    return [scales, scales, numbers * inputs.element_size()]


def grouped_mm(mat_a: Any, mat_b: Any, *args: Any, **kwargs: Any) -> Any:
    """The fake implementation accepts bf16 only; the operator itself takes fp32 and fp16 as well."""
    if mat_a.dtype == torch.bfloat16:
        return aten._grouped_mm.default(mat_a, mat_b, *args, **kwargs)
    out = aten._grouped_mm.default(mat_a.to(torch.bfloat16), mat_b.to(torch.bfloat16), *args, **kwargs)
    return torch.empty_strided(out.shape, out.stride(), dtype=mat_a.dtype, device=out.device)


def fused_update(*args: Any, **kwargs: Any) -> None:
    """SGD's fused kernel updates in place. Without a fake implementation it would run on real tensors of full size."""


def stand_ins() -> dict[Any, Any]:
    """Functions by operator that a trace calls in its place."""
    return {
        aten._grouped_mm.default: grouped_mm,
        aten._fused_sgd_.default: fused_update,
        aten._fused_sgd_.tensor_lr: fused_update,
    }


def cuda_scratch() -> dict[Any, Any]:
    """Scratch rules by operator; bitsandbytes' operators exist only once it is imported."""
    rules: dict[Any, Any] = {
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


# -- dropout


def fused_dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """CUDA's dropout: the output and a mask of one byte per element."""
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]


# -- softmax


_softmax = functional.softmax


def half_softmax(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """CUDA's softmax of fp16 into fp32 converts as it goes, without an fp32 copy of its input."""
    if dim is not None and input.dtype == torch.float16 and dtype == torch.float32:
        return aten._softmax(input, dim, True)
    return _softmax(input, dim, _stacklevel, dtype)


# -- the flash-attention package


FLASH = "tuneplan_fused"
"""Name under which transformers knows it; a name with `flash` in it would be looked up on the hub."""


def register_flash(padded: bool) -> str:
    """Registers an attention function with transformers that keeps what the flash-attention package keeps.

    Without padding it is the flash kernel, with windows and soft caps handled inside. With padding the tokens are first
    gathered into one row without gaps (copies of query, key and value) and the output is spread out again.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **_: Any,
    ) -> tuple[Any, None]:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if query.dtype == torch.float32:  # the package runs in half precision only
            query, key, value = (t.to(torch.bfloat16) for t in (query, key, value))
        if padded:
            query, key, value = (_gathered(t) for t in (query, key, value))
        out = _flash(query, key, value, dropout, causal and query.shape[2] > 1, scaling)
        if padded:
            out = _gathered(out)
        return out.transpose(1, 2), None

    def mask(*args: Any, **kwargs: Any) -> None:
        return None

    AttentionInterface.register(FLASH, attention)
    AttentionMaskInterface.register(FLASH, mask)
    _register_falcon_flash(attention)
    return FLASH


def _register_falcon_flash(attention: Callable[..., Any]) -> None:
    """falcon has an attention class of its own for the package, which calls it with tokens before heads."""
    from transformers.models.falcon import modeling_falcon

    falcon: Any = modeling_falcon

    def forward(query: Any, key: Any, value: Any, mask: Any, length: int, dropout: float = 0.0, **options: Any) -> Any:
        heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
        return attention(None, *heads_first, None, dropout, None, options.get("is_causal", True))[0]

    falcon.FALCON_ATTENTION_CLASSES[FLASH] = falcon.FalconFlashAttention2
    falcon._flash_attention_forward = forward


def _gathered(tensor: Any) -> Any:
    """A copy of all tokens, taken by index: (batch, heads, rows, width) laid out as (batch * rows, heads, width)."""
    batch, heads, rows, width = tensor.shape
    flat = tensor.transpose(1, 2).reshape(batch * rows, heads, width)
    taken = flat.index_select(0, torch.arange(batch * rows))
    return taken.view(batch, rows, heads, width).transpose(1, 2)


# -- putting it in place


_is_autocast_enabled = torch.is_autocast_enabled


def _autocast_enabled(device_type: str = "cpu") -> bool:
    """Without a device the question is about CUDA, whose part the CPU's autocast plays here."""
    return _is_autocast_enabled("cpu" if device_type == "cuda" else device_type)


@contextlib.contextmanager
def replaced(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Sets attributes of modules and puts them back afterwards."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def device_operators(target: str, kernel: str) -> list[tuple[Any, str, Any]]:
    """Replacements that give fake CPU tensors the memory behaviour of `target`."""
    if target == "cuda":
        return [
            (functional, "scaled_dot_product_attention", cuda_attention(kernel)),
            (functional, "dropout", fused_dropout),
            (functional, "softmax", half_softmax),
            (torch, "is_autocast_enabled", _autocast_enabled),
        ]
    if target == "mps":
        return [(functional, "scaled_dot_product_attention", math_attention())]
    return []


def host_offload(recorder: Any) -> list[tuple[Any, str, Any]]:
    """Saved layer inputs go to host memory: copies that are not counted, and come back as new tensors in backward."""
    from trainer.modeling import checkpointing

    def pack(tensor: Any) -> Any:
        with recorder.paused():
            return torch.empty_like(tensor)

    def save_on_host(**_: Any) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(pack, torch.empty_like)

    return [(checkpointing, "save_on_cpu", save_on_host)]


def mask_creation(padded: bool) -> list[tuple[Any, str, Any]]:
    """Decides the data-dependent branches of transformers' mask creation as a real batch would.

    With no padded token a real run finds the mask to be all ones and builds none; fake tensors have no values to look
    at, so transformers would take the general path.
    """
    from transformers import masking_utils as masks

    changes: list[tuple[Any, str, Any]] = [(masks, "find_packed_sequence_indices", lambda position_ids: None)]
    if not padded:
        causal, both = masks._ignore_causal_mask_sdpa, masks._ignore_bidirectional_mask_sdpa

        def ignore_causal(padding_mask: Any, *args: Any, **kwargs: Any) -> bool:
            return causal(None, *args, **kwargs)

        def ignore_both(padding_mask: Any, *args: Any, **kwargs: Any) -> bool:
            return both(None, *args, **kwargs)

        changes += [
            (masks, "_ignore_causal_mask_sdpa", ignore_causal),
            (masks, "_ignore_bidirectional_mask_sdpa", ignore_both),
        ]
    return changes


@contextlib.contextmanager
def optimizer_rules(optimizer: Any, recorder: Any, target: str, fake_mode: Any) -> Iterator[None]:
    """While the state of a bitsandbytes optimizer is made: its code books are fakes, and paged state is not counted.

    A paged optimizer keeps the state of parameters with 100,000 elements or more in managed memory, which the CUDA
    allocator does not count.
    """
    if not hasattr(optimizer, "get_state_buffer"):
        yield
        return
    for name in ("dynamic", "udynamic"):
        with fake_mode:
            optimizer.name2qmap[name] = torch.empty(256, dtype=torch.float32)
    make = optimizer.get_state_buffer

    def buffer(parameter: Any, dtype: torch.dtype = torch.float32) -> Any:
        if target == "cuda" and optimizer.is_paged and parameter.numel() >= 1e5:
            with recorder.paused():
                return torch.zeros_like(parameter, dtype=dtype)
        return torch.zeros_like(parameter, dtype=dtype)

    optimizer.get_state_buffer = buffer
    try:
        yield
    finally:
        optimizer.get_state_buffer = make
