"""Whether a lean piece computes what a module of an unknown network computes: tried on a small copy of it.

Classes of transformers that share a name's ending share little else: of two norms called RMSNorm one adds one to its
weight and one doesn't, of two MLPs with a gate one scales it. For model types without a written program each piece is
held against the module's own forward, on a copy with few features; where they differ the module stays as it is.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch

WIDTH, TOKENS = 8, 6
TOLERANCE = 1e-4
_LINEARS = ("Linear", "Conv1D")


def norm_form(module: Any) -> tuple[float, bool] | None:
    """(what is added to the weight, whether the weight multiplies before the cast) of a norm; None: no lean form."""
    from trainer.modeling.lean.norms import RmsNorm

    small = _small_norm(module)
    if small is None:
        return None
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6))
    if not isinstance(eps, float):
        return None
    generator = torch.Generator().manual_seed(7)
    found: tuple[float, bool] | None = None
    with torch.no_grad():
        weight = torch.randn(WIDTH, generator=generator)
        x = torch.randn((1, TOKENS, WIDTH), generator=generator)
        for offset in (0.0, 1.0):
            # The order of product and cast shows in half precision alone; both are tried there.
            for late in (False, True):
                if all(
                    _equal(small, weight, x, dtype, RmsNorm, eps, offset, late)
                    for dtype in (torch.float32, torch.bfloat16)
                ):
                    found = found or (offset, late)
    return found


def _equal(
    small: Any,
    weight: torch.Tensor,
    x: torch.Tensor,
    dtype: torch.dtype,
    function: Any,
    eps: float,
    offset: float,
    late: bool,
) -> bool:
    small.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    ours = function.apply(x.to(dtype), small.weight, eps, offset, late)
    try:
        theirs = type(small).forward(small, x.to(dtype))
    except Exception:  # a norm that wants more than its input
        return False
    return isinstance(theirs, torch.Tensor) and theirs.dtype == ours.dtype and torch.equal(ours, theirs)


def _small_norm(module: Any) -> Any:
    """A copy of few features; None where the module holds more than a weight."""
    if len(module._parameters) != 1 or module._buffers or module._modules or module.weight.dim() != 1:
        return None
    return _shallow(module)


def _shallow(module: Any) -> Any:
    made = copy.copy(module)
    made.__dict__ = dict(module.__dict__)
    for table in ("_parameters", "_buffers", "_modules"):
        made.__dict__[table] = dict(module.__dict__[table])
    made.__dict__.pop("forward", None)
    return made


def mlp_holds(module: Any, formula: Callable[[Any, torch.Tensor], torch.Tensor]) -> bool:
    """Whether an MLP's own forward is `formula` on it, tried with small linear layers in place of its own."""
    if module._parameters or module._buffers:
        return False
    small = _shallow(module)
    generator = torch.Generator().manual_seed(11)
    for name, child in module._modules.items():
        inner = getattr(child, "base_layer", child)
        if type(inner).__name__ in (*_LINEARS, "Linear4bit", "Linear8bitLt"):
            linear = torch.nn.Linear(WIDTH, WIDTH, bias=getattr(inner, "bias", None) is not None, device="cpu")
            with torch.no_grad():
                for parameter in linear.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
            small._modules[name] = linear
        elif any(True for _ in child.parameters()):
            return False
    x = torch.randn((1, TOKENS, WIDTH), generator=generator)
    with torch.no_grad(), contextlib.suppress(Exception):
        theirs = type(small).forward(small, x)
        return isinstance(theirs, torch.Tensor) and torch.allclose(theirs, formula(small, x), atol=TOLERANCE)
    return False
