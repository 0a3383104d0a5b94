"""Attention as a device's kernels do it, for a step that is traced on fake CPU tensors: what they keep for backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
KERNELS = ("auto", "pre-ampere", "flash", "efficient", "math", "cudnn")
"""`auto` chooses as PyTorch does on Ampere and later; `pre-ampere` as on Volta and Turing, without the flash kernel."""
Attention = Callable[..., torch.Tensor]
"""A stand-in for `scaled_dot_product_attention`."""
FLASH = "tuneplan_fused"
"""Name of the flash-attention package's stand-in; one with `flash` in it would be looked up on the hub."""


def choose_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, requested: str = "auto"
) -> str:
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


def _padded(tensor: torch.Tensor, multiple: int) -> torch.Tensor:
    missing = -tensor.shape[-1] % multiple
    return functional.pad(tensor, (0, missing)) if missing else tensor


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    width = query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    query, key, value = _padded(query, 8), _padded(key, 8), _padded(value, 8)
    out: torch.Tensor = aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale
    )[0]
    return out[..., :width]


def _efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    width = query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    needs = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (query, key, value, mask))
    if mask is not None:
        mask = _additive(mask, query.dtype)
        missing = -mask.shape[-1] % 16
        if missing:
            mask = functional.pad(mask, (0, missing))[..., : mask.shape[-1]]
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    out: torch.Tensor = aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs, dropout_p, is_causal, scale=scale
    )[0]
    return out


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean mask as PyTorch adds it to the scores: 0 or minus infinity in the queries' dtype."""
    if mask.dtype != torch.bool:
        return mask
    return torch.where(mask, torch.zeros((), dtype=dtype), torch.full((), float("-inf"), dtype=dtype))


def _cudnn(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    needs = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    out: torch.Tensor = aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, needs, dropout_p, is_causal, False, scale=scale
    )[0]
    return out


def _math_with_dropout(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
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


def _math(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    additive: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """The composite of matrix products and a softmax."""
    out: torch.Tensor = aten._scaled_dot_product_attention_math(
        query, key, value, additive, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]
    return out


def _stand_in(kernel: Attention, *, casts_masks: bool) -> Attention:
    """`kernel` with the signature of `scaled_dot_product_attention`, its operands cast as autocast casts them."""

    def attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return kernel(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        if casts_masks and attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(dtype)
        with torch.autocast("cpu", enabled=False):  # the operator's own products are not cast
            return kernel(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)

    return attention


def cuda_attention(requested: str) -> Attention:
    """A stand-in for `scaled_dot_product_attention` that keeps what the CUDA kernels keep."""

    def kernel(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
    ) -> torch.Tensor:
        chosen = choose_kernel(query, key, value, mask, requested)
        if chosen == "flash":
            return _flash(query, key, value, dropout_p, is_causal, scale)
        if chosen == "cudnn":
            return _cudnn(query, key, value, dropout_p, is_causal, scale)
        if chosen == "efficient":
            return _efficient(query, key, value, mask, dropout_p, is_causal, scale)
        additive = None if mask is None else _additive(mask, query.dtype)
        if dropout_p > 0 and query.dtype == torch.float32:
            return _math_with_dropout(query, key, value, additive, dropout_p, is_causal, scale)
        return _math(query, key, value, additive, dropout_p, is_causal, scale, enable_gqa)

    return _stand_in(kernel, casts_masks=True)


def math_attention() -> Attention:
    """Stand-in on Apple's MPS in training: the composite of matrix products and a softmax."""

    def kernel(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
    ) -> torch.Tensor:
        additive = None if mask is None else _additive(mask, query.dtype)
        return _math(query, key, value, additive, dropout_p, is_causal, scale, enable_gqa)

    return _stand_in(kernel, casts_masks=False)


def register_flash(padded: bool) -> str:
    """Registers an attention function with transformers that keeps what the flash-attention package keeps.

    Without padding it is the flash kernel, with windows and soft caps handled inside. With padding the tokens are first
    gathered into one row without gaps (copies of query, key and value) and the output is spread out again.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(
        module: object,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if query.dtype == torch.float32:  # the package runs in half precision only
            query, key, value = (t.to(torch.bfloat16) for t in (query, key, value))
        if padded:
            query, key, value = (_gathered(t) for t in (query, key, value))
        out = _flash(query, key, value, dropout, causal and query.shape[2] > 1, scaling)
        if padded:
            out = _gathered(out)
        return out.transpose(1, 2), None

    def mask(*_: object, **__: object) -> None:
        return None

    AttentionInterface.register(FLASH, attention)
    AttentionMaskInterface.register(FLASH, mask)
    _register_falcon_flash(attention)
    return FLASH


def _register_falcon_flash(attention: Callable[..., tuple[torch.Tensor, None]]) -> None:
    """falcon has an attention class of its own for the package, which calls it with tokens before heads."""
    from transformers.models.falcon import modeling_falcon

    falcon: Any = modeling_falcon

    def forward(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        length: int,
        dropout: float = 0.0,
        **options: Any,
    ) -> torch.Tensor:
        heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
        out, _ = attention(None, *heads_first, None, dropout, None, options.get("is_causal", True))
        return out

    falcon.FALCON_ATTENTION_CLASSES[FLASH] = falcon.FalconFlashAttention2
    falcon._flash_attention_forward = forward


def _gathered(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of all tokens, taken by index: (batch, heads, rows, width) laid out as (batch * rows, heads, width)."""
    batch, heads, rows, width = tensor.shape
    flat = tensor.transpose(1, 2).reshape(batch * rows, heads, width)
    taken = flat.index_select(0, torch.arange(batch * rows))
    return taken.view(batch, rows, heads, width).transpose(1, 2)
