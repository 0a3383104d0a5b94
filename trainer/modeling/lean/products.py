"""Matrix products in fp32 on a CPU by the library that is faster on its maker's processors.

PyTorch hands fp32 products to MKL, which keeps to 256-bit instructions on processors of other makers than Intel; the
oneDNN that PyTorch carries as well uses the 512-bit ones on all. One thread makes 235 instead of 105 GFLOP/s on an AMD
EPYC of family 26 (measured 2026-11-26 with torch 2.13), and 95 instead of 80 on one of family 25, whose 512-bit
instructions run as two halves (2026-11-27). On Intel's own processors MKL uses 512 bits too: there a step through
oneDNN took 1.15 times as long as the stock Trainer's through MKL. PyTorch's compiler chooses MKL for fp32 layers on
x86 as well (torch/_inductor/fx_passes/mkldnn_fusion.py, 2.13).
Both sum in fp32; nothing is rounded to fewer bits. The choice follows from the processor alone, never from a clock or
from free memory, so a resumed run multiplies as the first one did. oneDNN doesn't survive a shortage of memory:
`trainer.recovery.room` sees to it that there is none.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch.nn import functional

from trainer.measure.processor import INTEL, processor

_allowed = True


@functools.cache
def faster() -> bool:
    """Whether oneDNN multiplies faster here than torch's BLAS: it can be had, and MKL doesn't use 512 bits."""
    mkl_is_as_wide = processor().vendor == INTEL and torch.backends.mkl.is_available()
    return available() and not mkl_is_as_wide


@functools.cache
def available() -> bool:
    """Whether this processor has the instructions, and this torch the operator for ordinary tensors."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        x, weight = torch.ones((2, 8)), torch.arange(24.0).view(3, 8)
        made = (_onednn(x, weight, None), _onednn(x, weight.t().contiguous().t(), torch.zeros(3)))
    except torch.OutOfMemoryError:  # says nothing about the processor
        raise
    except (AttributeError, RuntimeError):  # an older or a differently built torch
        return False
    return all(torch.equal(out, x @ weight.t()) for out in made)


@contextlib.contextmanager
def only_blas() -> Iterator[None]:
    """Products as `torch.mm` makes them, within the block."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (rows, in) · weight (out, in) transposed + bias (out) -> (rows, out); records no gradient."""
    if _takes(x, weight):
        return _onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def matmul(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """x (rows, in) · matrix (in, out) -> (rows, out); records no gradient."""
    if _takes(x, matrix):
        return _onednn(x, matrix.t(), None)
    return x @ matrix


def _takes(x: torch.Tensor, matrix: torch.Tensor) -> bool:
    return (
        _allowed
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and type(x) is torch.Tensor  # a fake tensor stands for every device
        and x.is_contiguous()
        and (matrix.is_contiguous() or matrix.t().is_contiguous())
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and faster()
    )


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
