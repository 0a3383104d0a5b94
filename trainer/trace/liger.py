"""Liger's kernels in a traced step: its own autograd functions run, and only the launches of Triton kernels don't.

What a function allocates and saves is Python around the launch (liger_kernel/ops/*.py, 0.8.5, read 2026-11), so nothing
is written again here. Where its code asks for the device, it gets CUDA's answer.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch

from planner.contract.choices import LIGER_KERNELS, TrainingChoices
from planner.contract.errors import NotModelled
from trainer.modeling.checkpointing import base_model
from trainer.trace.operators import Replacement

_ANY = 1


def patch(model: torch.nn.Module, choices: TrainingChoices) -> None:
    """Patches a model, adapters and all, as the transformers Trainer does under `use_liger_kernel=True`.

    Raises NotModelled where liger-kernel isn't installed, knows no such model, or would run otherwise than on a GPU.
    """
    if not choices.liger:
        return
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as KNOWN
    except ImportError:
        raise NotModelled("a trace with --liger runs Liger's own code: pip install liger-kernel") from None
    base: Any = base_model(model)
    if base.config.model_type not in KNOWN:
        raise NotModelled(f"Liger patches no {base.config.model_type}")
    fused = "fused_linear_cross_entropy" in choices.liger_kernels
    if fused and base.get_output_embeddings().weight.requires_grad:
        raise NotModelled("a trace with --liger and a trained vocabulary head: off the GPU Liger runs other code there")
    gelu = "geglu" in inspect.signature(KNOWN[base.config.model_type]).parameters
    wanted = {("geglu" if gelu and name == "swiglu" else name): name in choices.liger_kernels for name in LIGER_KERNELS}
    module = sys.modules[type(base).__module__]
    before = dict(vars(module))
    _apply_liger_kernel_to_instance(model=base, **wanted)
    vars(module).update(before)  # the classes of models that are built later


def _find_backends() -> None:
    """Has Liger look for its backends now: those that can't be imported would keep the first call's tensors alive."""
    with contextlib.suppress(ImportError):  # which releases before 0.8.5 don't have
        from liger_kernel.backends import list_registered

        for name in ("rope", "rms_norm", "swiglu", "geglu", "cross_entropy_loss_and_grad"):
            list_registered(name)


def replacements(model: torch.nn.Module, choices: TrainingChoices, starts: Callable[[], None]) -> list[Replacement]:
    """No kernel is launched; a fake tensor has no value to branch on; products go where they go on CUDA.

    `starts` is called where the fused loss begins, which no module's hook sees.
    """
    if not choices.liger:
        return []
    _find_backends()
    from liger_kernel.ops import fused_linear_cross_entropy as loss
    from triton.runtime.jit import KernelInterface

    forward = loss.fused_linear_cross_entropy_forward

    def told(*args: Any, **kwargs: Any) -> Any:
        starts()
        return forward(*args, **kwargs)

    changes: list[Replacement] = []
    if "rope" in choices.liger_kernels:
        from liger_kernel.transformers.rope import liger_rotary_pos_emb

        changes.append((sys.modules[type(base_model(model)).__module__], "apply_rotary_pos_emb", liger_rotary_pos_emb))
    return [
        *changes,
        (KernelInterface, "__getitem__", lambda kernel, grid: lambda *args, **kwargs: None),
        (torch.Tensor, "item", lambda tensor: _ANY),
        (torch, "equal", lambda left, right: True),
        (loss, "_can_use_mm_out", lambda hidden, weight: hidden.dtype == weight.dtype),
        (loss, "fused_linear_cross_entropy_forward", told),
    ]
