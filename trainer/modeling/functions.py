"""Calling autograd functions, whose `apply` torch leaves untyped."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch


def applied(function: type[torch.autograd.Function], *arguments: object) -> torch.Tensor:
    """The one tensor that the function makes of its arguments."""
    return cast(Callable[..., torch.Tensor], function.apply)(*arguments)


def as_rows_of(out: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(rows, out) in the leading shape of `like`. Not as a view: models add to a layer's output in place."""
    return cast(torch.Tensor, torch.ops.aten._unsafe_view.default(out, [*like.shape[:-1], out.shape[-1]]))
