"""Cross-entropy over a large vocabulary without ever holding all logits.

The head's product, the soft maximum and both gradients are made for one chunk of tokens at a time, all in the forward
pass; backward only scales them. What lives until backward is the gradient of the hidden states (and of the head, where
it is trained). Tokens whose label is ignored are left out altogether.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from planner.contract.architectures import ARCHITECTURES
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from trainer.modeling import packing
from trainer.modeling.checkpointing import base_model
from trainer.modeling.functions import applied
from trainer.modeling.lean import products
from trainer.modeling.plain_head import plain_head
from trainer.modeling.precision import autocast_dtype, precision_context

IGNORE = -100
CHUNK_BYTES = 256 * 1024**2
"""The fp32 logits of one chunk stay within this: large enough to keep a GPU busy, small beside the weights."""


def chunk_rows(vocab_size: int) -> int:
    """Tokens per chunk: the power of two whose fp32 logits fit CHUNK_BYTES, between 64 and 4096."""
    fitting = max(1, CHUNK_BYTES // (4 * vocab_size))
    return min(4096, max(64, 1 << (fitting.bit_length() - 1)))


def valid_rows(labels: torch.Tensor) -> torch.Tensor:
    """Positions in the flat labels that have a target."""
    return torch.nonzero(labels != IGNORE).squeeze(-1)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T + bias` against `labels`, times `factor`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        factor: torch.Tensor | float,
        scaling: float,
        soft_cap: float | None,
    ) -> torch.Tensor:
        """hidden (tokens, width), weight (vocab, width), bias (vocab), labels (tokens) -> scalar fp32."""
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        compute = hidden.dtype
        head = weight.to(compute)
        rows = valid_rows(labels)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=hidden.device) if need_bias else None
        size = chunk_rows(weight.shape[0])
        for start in range(0, rows.shape[0], size):
            index = rows[start : start + size]
            part, target = hidden[index], labels[index].unsqueeze(-1)
            logits = products.linear(part, head, None if bias is None else bias.to(compute)).float()
            if scaling != 1.0:
                logits.mul_(scaling)
            slope = None
            if soft_cap is not None:
                logits.div_(soft_cap).tanh_()
                slope = logits.square().neg_().add_(1.0)
                logits.mul_(soft_cap)
            logits.sub_(logits.amax(dim=-1, keepdim=True))
            picked = logits.gather(-1, target)
            norm = logits.exp_().sum(dim=-1, keepdim=True)
            total.add_((norm.log() - picked).sum())
            logits.div_(norm)
            logits.scatter_add_(-1, target, logits.new_full(target.shape, -1.0))
            if slope is not None:
                logits.mul_(slope)
            logits.mul_(scaling * factor)
            if grad_bias is not None:
                grad_bias.add_(logits.sum(dim=0))
            grad = logits.to(compute)
            del logits, slope
            if grad_hidden is not None:
                grad_hidden[index] = products.matmul(grad, head)
            if grad_weight is not None:
                grad_weight.addmm_(grad.t().to(weight.dtype), part.to(weight.dtype))
            del grad
        saved = (grad_hidden, grad_weight, None if grad_bias is None or bias is None else grad_bias.to(bias.dtype))
        ctx.present = [tensor is not None for tensor in saved]
        ctx.save_for_backward(*(tensor for tensor in saved if tensor is not None))
        return total.mul_(factor)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> object:
        """Scales the gradients made in forward, in place: they are used once."""
        made = iter(ctx.saved_tensors)
        grads = [next(made).mul_(grad_output) if present else None for present in ctx.present]
        return *grads, None, None, None, None


def head_of(model: torch.nn.Module) -> tuple[Any, float, float | None]:
    """The output layer with the factor and the soft cap that the architecture puts on its logits."""
    base = base_model(model)
    config, head = base.config, base.get_output_embeddings()
    if head is None:
        raise NotModelled(f"--loss chunked: {type(base).__name__} has no vocabulary head")
    if hasattr(head, "modules_to_save"):  # PEFT trains a copy of the head beside the frozen one
        head = head.modules_to_save[head.active_adapter if isinstance(head.active_adapter, str) else "default"]
    if hasattr(head, "lora_A"):
        raise NotModelled("--loss chunked with adapters on the vocabulary head; leave it out of --lora-targets")
    if config.model_type not in ARCHITECTURES and (
        not plain_head(type(base)) or getattr(config, "output_router_logits", False)
    ):
        raise NotModelled(
            f"--loss chunked: {type(base).__name__} does more between its layers and its loss than a product; "
            "use --loss full"
        )
    scaling = 1.0
    if getattr(config, "logits_scaling", None):
        scaling = 1.0 / config.logits_scaling
    elif getattr(config, "logit_scale", None):
        scaling = float(config.logit_scale)
    return head, scaling, getattr(config, "final_logit_softcapping", None)


def hidden_states(
    base: torch.nn.Module, batch: dict[str, Any], choices: TrainingChoices
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and their labels: of one row without padding where the batch's lengths are known, else as it is."""
    batch = dict(batch)
    lengths = batch.pop("lengths", None)
    with precision_context(autocast_dtype(choices), batch["input_ids"].device.type):
        flattens = lengths is not None and choices.stack == "builtin" and packing.worth_flattening(lengths)
        if flattens and packing.can_flatten(base):
            flat, sequences = packing.flatten(batch, lengths)
            labels = flat.pop("labels")
            hidden = packing.forward(base, flat, sequences)
            if hidden is not None:
                return hidden, labels
        labels = batch.pop("labels")
        return _layers(base)(**batch)[0], labels


def _layers(base: torch.nn.Module) -> Any:
    """The network below the head; a few classes name it otherwise than their prefix says, and give themselves."""
    inner = base.base_model
    return base.model if inner is base else inner


def chunked_loss(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    choices: TrainingChoices,
    *,
    num_items: torch.Tensor | int | None,
) -> torch.Tensor:
    """Mean next-token loss (or divided by `num_items`) of a decoder from its hidden states, chunk by chunk."""
    base = base_model(model)
    if not type(base).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        raise NotModelled(f"--loss chunked is made for causal models, not for {type(base).__name__}; use --loss full")
    head, scaling, soft_cap = head_of(model)
    hidden, targets = hidden_states(base, batch, choices)
    if hasattr(base, "_loss_starts"):
        base._loss_starts()
    labels = functional.pad(targets, (0, 1), value=IGNORE)[..., 1:].reshape(-1)
    if num_items is None:
        num_items = (labels != IGNORE).sum().clamp(min=1)
    factor = torch.as_tensor(num_items, device=hidden.device, dtype=torch.float32).reciprocal()
    weight, bias = head.weight, getattr(head, "bias", None)
    compute = autocast_dtype(choices) or hidden.dtype
    flat = hidden.reshape(-1, hidden.shape[-1]).to(compute)
    if not torch.is_grad_enabled():  # a Function is told of trainable inputs even then, and would make their gradients
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    return applied(ChunkedCrossEntropy, flat, weight, bias, labels, factor, scaling, soft_cap)
