"""Micro-batches without padding: all sequences in one row, each attending only to itself.

The row goes through every layer once, so no padded position is computed. Attention runs sequence by sequence, or in one
kernel for sequences of different lengths where the device has one; no block-diagonal mask is ever made.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional

from planner.contract.architectures import ARCHITECTURES
from trainer.modeling.functions import applied

NAME = "sequences"
"""This attention's name in transformers' registry."""
IGNORE = -100
_running: ContextVar[_Pass | None] = ContextVar("packed_pass", default=None)


class _NotTold(Exception):
    """A model keeps keywords from its attention layers."""


class _Pass:
    """One forward over a flat row; counts the attention layers that were told of its sequences."""

    def __init__(self, lengths: RowLengths) -> None:
        self.lengths = lengths
        self.layers = 0


class RowLengths:
    """Lengths of the sequences in a flat row, with their boundaries on the device (made once per micro-batch)."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.values = tuple(lengths)
        self.total = sum(self.values)
        self.longest = max(self.values)
        self.bounds = boundaries(self.values, device)

    def spans(self) -> Iterator[tuple[int, int]]:
        """First and last-plus-one position of each sequence."""
        start = 0
        for length in self.values:
            yield start, start + length
            start += length


def boundaries(lengths: Sequence[int], device: torch.device) -> torch.Tensor | None:
    """First positions of the sequences and the end of the last one, int32 (sequences + 1,); None but on CUDA."""
    if device.type != "cuda":
        return None
    edges = torch.tensor((0, *lengths), dtype=torch.int32, pin_memory=True)
    return edges.cumsum(0, dtype=torch.int32).pin_memory().to(device, non_blocking=True)


def flatten(batch: dict[str, Any], lengths: Sequence[Sequence[int]]) -> tuple[dict[str, torch.Tensor], RowLengths]:
    """Right-padded rows into one: input_ids, labels and position_ids of shape (1, tokens).

    `lengths` holds, row by row, the lengths of the sequences that stand one after the other in it. The first label of
    every sequence is ignored: what precedes it is another sequence.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    filled = [sum(row) for row in lengths]
    flat_ids = torch.cat([ids[row, :count] for row, count in enumerate(filled)])
    flat_labels = torch.cat([labels[row, :count] for row, count in enumerate(filled)])
    made = RowLengths([length for row in lengths for length in row], ids.device)
    positions = torch.cat([torch.arange(length) for length in made.values])
    if ids.device.type == "cuda":
        positions = positions.pin_memory()
    for start, _ in made.spans():
        flat_labels[start] = IGNORE
    flat = {"input_ids": flat_ids, "labels": flat_labels, "position_ids": positions.to(ids.device, non_blocking=True)}
    return {name: value.unsqueeze(0) for name, value in flat.items()}, made


def worth_flattening(lengths: Sequence[Sequence[int]]) -> bool:
    """Whether rows differ or hold several sequences; equal rows of one sequence have no padding to save."""
    return any(len(row) != 1 for row in lengths) or len({row[0] for row in lengths}) > 1


def can_flatten(base: Any) -> bool:
    """Whether this transformers model runs causal attention through the registry, by a kernel that it may choose."""
    if getattr(base, "_flattens", None) is None:
        config = base.config
        linear = getattr(config, "layer_types", None) or ()
        base._flattens = (
            type(base).__name__.endswith(("ForCausalLM", "LMHeadModel"))
            and config.model_type in ARCHITECTURES  # the planner has no flat rows of recorded models
            and config._attn_implementation in ("sdpa", NAME)
            and getattr(config, "is_causal", True)
            and all(kind in ("full_attention", "sliding_attention") for kind in linear)
        )
    return bool(base._flattens)


def forward(base: Any, inputs: dict[str, torch.Tensor], lengths: RowLengths) -> torch.Tensor | None:
    """Hidden states (1, tokens, width) of the flat row; None where the model turns out not to tell its layers apart.

    Such a model (its attention stands outside transformers' registry) is remembered and padded from then on.
    """
    _register()
    if base.config._attn_implementation != NAME:
        try:
            base.set_attn_implementation(NAME)
        except ValueError:
            base._flattens = False
            return None
    try:
        with _pass(lengths) as running:
            hidden: torch.Tensor = base.base_model(**inputs, sequence_lengths=lengths)[0]
        if running.layers:
            base._flattened = True
            return hidden
    except (_NotTold, TypeError) as error:
        no_keyword = isinstance(error, _NotTold) or "sequence_lengths" in str(error)  # the forward takes no further one
        if base.__dict__.get("_flattened") or not no_keyword:
            raise
    base._flattens = False
    base.set_attn_implementation("sdpa")
    return None


@contextlib.contextmanager
def _pass(lengths: RowLengths) -> Iterator[_Pass]:
    running = _Pass(lengths)
    token = _running.set(running)
    try:
        yield running
    finally:
        _running.reset(token)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    if NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, _mask)


def _mask(*args: Any, **kwargs: Any) -> Any:
    """No mask over a flat row; the usual one everywhere else (generation, padded batches)."""
    if _running.get() is not None:
        return None
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **kwargs)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **further: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, heads, tokens, dim) -> (1, tokens, heads, dim).

    Without `sequence_lengths` among the further keywords this is transformers' own `sdpa`. The lengths arrive as a
    keyword, which a checkpointed layer keeps, so that a recomputation sees what its forward saw.
    """
    sequence_lengths: RowLengths | None = further.pop("sequence_lengths", None)
    sliding_window: int | None = further.pop("sliding_window", None)
    if sequence_lengths is None:
        if _running.get() is not None:
            raise _NotTold
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out: torch.Tensor
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **further
        )
        return out, None
    running = _running.get()
    if running is not None:
        running.layers += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None and sliding_window < sequence_lengths.longest else None
    if torch.is_autocast_enabled(query.device.type):  # as autocast does for torch's own attention
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    kernel = choose_kernel(query, sequence_lengths, dropout, window)
    if kernel == "cpu":
        return applied(_CpuSequences, query, key, value, sequence_lengths, scale), None
    if kernel == "varlen":
        return _varlen_attention(query, key, value, sequence_lengths, scale, window), None
    return _one_by_one(query, key, value, sequence_lengths, scale, window, dropout), None


def choose_kernel(query: torch.Tensor, lengths: RowLengths, dropout: float, window: int | None) -> str:
    """`cpu` (torch's CPU flash kernel in one function), `varlen` (one CUDA kernel for all) or `one by one`."""
    if dropout == 0.0 and window is None and query.device.type == "cpu":
        return "cpu"
    if dropout == 0.0 and lengths.bounds is not None and _varlen(query):
        return "varlen"
    return "one by one"


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: RowLengths,
    scale: float,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """torch's own attention for each sequence. Kept: what its kernel keeps; with a window a mask of length² each.

    The row is split rather than sliced, so that backward makes one gradient of it and not one a sequence.
    """
    groups = query.shape[1] // key.shape[1]
    repeated = groups > 1 and (window is not None or query.shape[-1] > 256)  # no kernel takes a mask and grouped heads
    parts = []
    for q, k, v in zip(*(x.split(lengths.values, dim=2) for x in (query, key, value)), strict=True):
        if repeated:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        part = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if window is None else _window_mask(q.shape[2], window, query.device),
            dropout_p=dropout,
            is_causal=window is None,
            scale=scale,
            enable_gqa=groups > 1 and not repeated,
        )
        parts.append(part.transpose(1, 2))
        del part, q, k, v
    return torch.cat(parts, dim=1)


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """True where a position may look: at most `window` positions, itself among them."""
    return torch.ones((length, length), dtype=torch.bool, device=device).tril_().triu_(1 - window)


def _varlen(query: torch.Tensor) -> bool:
    """Whether torch's flash kernel for ragged sequences takes these queries."""
    if query.dtype not in (torch.bfloat16, torch.float16) or query.shape[-1] > 256 or query.shape[-1] % 8:
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0) and _varlen_kernel() is not None


def _varlen_kernel() -> Any:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # older torch
        return None
    return varlen_attn


@functools.cache
def _asks_for_grouped_heads(kernel: Any) -> bool:
    """Whether the kernel wants to be told of grouped heads; torch 2.11's takes them as they come."""
    return "enable_gqa" in inspect.signature(kernel).parameters


def _varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: RowLengths, scale: float, window: int | None
) -> torch.Tensor:
    rows = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))  # x[0] would cost a copy of each gradient
    bounds, longest = lengths.bounds, lengths.longest
    kernel = _varlen_kernel()
    grouped = {"enable_gqa": True} if _asks_for_grouped_heads(kernel) else {}
    out: torch.Tensor = kernel(
        *rows,
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **(grouped if key.shape[1] != query.shape[1] else {}),
    )
    return out.unsqueeze(0)


class _CpuSequences(torch.autograd.Function):
    """torch's CPU flash kernel sequence by sequence, into one output: saves q, k, v, the output and its log-sum-exp.

    One sequence's pieces live at a time; planner.memory.network.flat counts those of the longest.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: RowLengths, scale: float
    ) -> torch.Tensor:
        """query (1, heads, tokens, dim), key and value (1, kv heads, tokens, dim) -> (1, tokens, heads, dim)."""
        _, heads, tokens, dim = query.shape
        out = query.new_empty((1, tokens, heads, dim))
        groups = heads // key.shape[1]
        sums = []
        for start, stop in lengths.spans():
            q, k, v = _parts(query, key, value, start, stop, groups)
            made, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
            out[:, start:stop] = made.transpose(1, 2)
            sums.append(lse)
            del made, q, k, v  # else they would live while the next sequence's are made
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.lengths, ctx.scale, ctx.groups = lengths, scale, groups
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """gradient (1, tokens, heads, dim) -> gradients of query, key and value."""
        query, key, value, out, *sums = ctx.saved_tensors
        grads = tuple(x.new_empty((1, x.shape[2], x.shape[1], x.shape[3])) for x in (query, key, value))
        for (start, stop), lse in zip(ctx.lengths.spans(), sums, strict=True):
            q, k, v = _parts(query, key, value, start, stop, ctx.groups)
            made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient[:, start:stop].transpose(1, 2),
                q,
                k,
                v,
                out[:, start:stop].transpose(1, 2),
                lse,
                0.0,
                True,
                scale=ctx.scale,
            )
            for whole, part in zip(grads, made, strict=True):
                if part.shape[1] != whole.shape[2]:
                    part = part.unflatten(1, (whole.shape[2], ctx.groups)).sum(dim=2)
                whole[:, start:stop] = part.transpose(1, 2)
            del made, part, q, k, v
        return *(grad.transpose(1, 2) for grad in grads), None, None


def _parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, start: int, stop: int, groups: int
) -> tuple[torch.Tensor, ...]:
    """One sequence's views; key and value heads repeated to every query head."""
    q, k, v = (x[:, :, start:stop] for x in (query, key, value))
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return q, k, v
