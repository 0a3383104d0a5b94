"""CUDA's autocast rules on fake CPU tensors: which operators run in fp32 there and not under the CPU's autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

FP32 = (
    "layer_norm.default",
    "native_layer_norm.default",
    "rms_norm.default",
    "group_norm.default",
    "nll_loss.default",
    "nll_loss_nd.default",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "rsqrt.default",
    "reciprocal.default",
    "exp.default",
    "log.default",
    "softplus.default",
    "cosine_similarity.default",
    "binary_cross_entropy_with_logits.default",
    "l1_loss.default",
    "logsumexp.default",
)
"""Inputs are turned into fp32 (ATen/autocast_mode.h, AT_FORALL_FP32)."""
FP32_BY_DTYPE = ("softmax.int", "log_softmax.int", "sum.default", "sum.dim_IntList", "cumsum.default", "prod.default")
"""The output is asked for in fp32 unless the call names a dtype (AT_FORALL_FP32_SET_OPT_DTYPE)."""
HALF = (torch.float16, torch.bfloat16)


def _to_fp32(value: object) -> object:
    if isinstance(value, torch.Tensor) and value.dtype in HALF:
        return value.float()
    return value


def _as_fp32(op: Any, key: Any) -> Callable[..., object]:
    def kernel(*args: object, **kwargs: object) -> object:
        with torch._C._ExcludeDispatchKeyGuard(key):
            return op(*(_to_fp32(a) for a in args), **{k: _to_fp32(v) for k, v in kwargs.items()})

    return kernel


def _with_dtype(op: Any, key: Any) -> Callable[..., object]:
    def kernel(*args: object, **kwargs: object) -> object:
        position = {"softmax.int": 2, "log_softmax.int": 2}.get(op.__name__)
        named = kwargs.get("dtype") is not None or (position is not None and len(args) > position and args[position])
        with torch._C._ExcludeDispatchKeyGuard(key):
            if not named and isinstance(args[0], torch.Tensor) and args[0].dtype in HALF:
                args = args[:position] if position is not None else args
                kwargs = {**kwargs, "dtype": torch.float32}
            return op(*args, **kwargs)

    return kernel


@contextlib.contextmanager
def cuda_autocast_rules() -> Iterator[None]:
    """While active, `torch.autocast("cpu")` treats operators as CUDA's autocast does."""
    library = torch.library.Library("aten", "IMPL")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    try:
        for names, make in ((FP32, _as_fp32), (FP32_BY_DTYPE, _with_dtype)):
            for name in names:
                packet, overload = name.split(".")
                op = getattr(getattr(torch.ops.aten, packet), overload)
                library.impl(name.removesuffix(".default"), make(op, keys), "AutocastCPU", allow_override=True)
        yield
    finally:
        library._destroy()
