"""The loss of one micro-batch: the model's own (today's or an older release's), or chunked over the vocabulary head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from trainer.modeling import cache
from trainer.modeling.checkpointing import base_model

IGNORE = -100
LEGACY_VERSIONS = ("4.45", "4.48", "no-upcast")
"""Loss code that can be asked for by `transformers_version` besides today's."""


def _reduced(logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor) -> torch.Tensor:
    reduction = "mean" if num_items is None else "sum"
    loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction=reduction)
    return loss if num_items is None else loss / num_items


def shifted_copy_loss(
    logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, num_items_in_batch: Any = None, **_: object
) -> torch.Tensor:
    """Causal loss of transformers 4.46 to 4.49: fp32 copy, then a contiguous copy of all but the last position.

    Both live until the cross-entropy is done; the caller holds the half-precision logits besides.
    """
    logits = logits.float()
    shifted = logits[..., :-1, :].contiguous()
    targets = labels[..., 1:].contiguous()
    return _reduced(shifted.view(-1, vocab_size), targets.view(-1).to(shifted.device), num_items_in_batch)


def unconverted_loss(
    logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, num_items_in_batch: Any = None, **_: object
) -> torch.Tensor:
    """Causal loss without conversion to fp32 (older GPT-2-like models): shifted copy in the logits' own dtype."""
    shifted = logits[..., :-1, :].contiguous()
    targets = labels[..., 1:].contiguous()
    return _reduced(shifted.view(-1, vocab_size), targets.view(-1).to(shifted.device), num_items_in_batch)


def _version(choices: TrainingChoices) -> str | None:
    """Which loss code is asked for: one of LEGACY_VERSIONS, or None for the installed transformers'."""
    release = choices.transformers_release
    if release is None:
        return None
    if choices.transformers_version == "no-upcast":
        return "no-upcast"
    if release <= (4, 45):
        return "4.45"
    # From 4.50 on the labels are padded and shifted, and the logits are not copied a second time.
    return "4.48" if release < (4, 50) else None


def use_loss_version(model: torch.nn.Module, choices: TrainingChoices) -> None:
    """Makes the model compute its full loss with the code of the transformers release that the choices name."""
    version = _version(choices)
    if version is None:
        return
    base = base_model(model)
    if not type(base).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        raise NotModelled(f"--transformers-version {choices.transformers_version} is modelled for causal models only")
    if version == "no-upcast":
        base.loss_function = unconverted_loss
    elif version == "4.48":
        base.loss_function = shifted_copy_loss
    else:
        head = base.get_output_embeddings()
        # 4.45 rebinds the name to the fp32 copy before the loss: the half-precision logits are gone by then, and the
        # output holds the fp32 ones. Converting what the head returns has the same tensors alive.
        head.register_forward_hook(lambda module, inputs, output: output.float())
        base.loss_function = shifted_copy_loss


def watch_loss(model: torch.nn.Module, phase: Callable[[str], None]) -> None:
    """Calls `phase("loss")` whenever a loss starts: at the vocabulary head, or at the chunked loss in its place."""
    base = base_model(model)
    head = base.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda module, inputs: phase("loss"))
    base._loss_starts = lambda: phase("loss")


def compute_loss(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    choices: TrainingChoices,
    *,
    num_items: torch.Tensor | int | None = None,
) -> tuple[torch.Tensor, object]:
    """Loss of one micro-batch and what must stay alive through backward (the output under `keep_logits`, else None).

    `batch` holds input_ids, labels (both int64, batch x length) and maybe attention_mask and position_ids. With
    `num_items` (targets in the whole effective batch) the sum is divided by it, so that micro-batches add up to the
    mean over all targets; without it the micro-batch's own mean is taken.
    Where `batch` has `lengths` (row by row, the lengths of its sequences) stack `builtin` leaves the padding out under
    the chunked loss; other steps ignore it.
    """
    if choices.loss != "chunked" and "lengths" in batch:
        batch = {name: value for name, value in batch.items() if name != "lengths"}
    if choices.loss == "chunked":
        from trainer.modeling.chunked import chunked_loss

        return chunked_loss(model, batch, choices, num_items=num_items), None
    with cache.returned(model, choices) as keys_and_values:
        accepted = num_items is not None and accepts_num_items(model)
        output = model(**batch, num_items_in_batch=num_items) if accepted else model(**batch)
    loss = output.loss
    if not accepted:
        if num_items is not None:
            # Such a model returns the micro-batch's mean: weighted by its targets, the parts add up to the whole mean.
            loss = loss * (targets_in(model, batch["labels"]) / num_items)
        elif choices.gradient_accumulation_steps > 1:
            loss = loss / choices.gradient_accumulation_steps
    if not choices.keep_logits:
        return loss, None
    return loss, ((output, keys_and_values) if keys_and_values else output)


def targets_in(model: torch.nn.Module, labels: torch.Tensor) -> torch.Tensor:
    """Targets among the labels, 0-dim: a causal model learns each label but the first from the position before."""
    counted = labels[..., 1:] if _is_causal(model) else labels
    return (counted != IGNORE).sum()


def _is_causal(model: torch.nn.Module) -> bool:
    return type(base_model(model)).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def accepts_num_items(model: torch.nn.Module) -> bool:
    """Whether the model's own loss takes `num_items_in_batch` (the test that the transformers Trainer makes).

    Models with other heads take the argument and ignore it (T5, DistilBERT), so that only causal ones count.
    """
    import inspect

    base = base_model(model)
    if not _is_causal(model):
        return False
    if hasattr(base, "accepts_loss_kwargs"):
        return bool(base.accepts_loss_kwargs)
    return any(
        p.kind == inspect.Parameter.VAR_KEYWORD for p in inspect.signature(type(base).forward).parameters.values()
    )
