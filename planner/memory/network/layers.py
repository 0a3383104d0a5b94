"""The modules that layer programs call, as the chosen stack runs them: linear layers, norms, dropout, attention.

`net` says which stack, which adapters, which attention; what a piece allocates stands in the file of its kind.
"""

from __future__ import annotations

from dataclasses import replace

from planner.contract.architecture import NormForm
from planner.memory.engine import norms, ops
from planner.memory.engine.graph import Tensor
from planner.memory.engine.monomials import HALF, T
from planner.memory.engine.tape import Tape
from planner.memory.network import attention, flat, lean, liger
from planner.memory.network.attention import Heads, Style
from planner.memory.network.linear import activated, lean_mlp, linear
from planner.memory.network.net import Net

__all__ = ["activated", "attend", "composite_attention", "dropout", "embed", "lean_mlp", "linear", "norm"]


def norm(
    net: Net,
    path: str,
    x: Tensor,
    *,
    width: int | None = None,
    form: NormForm | None = None,
    patched: bool = True,
) -> Tensor:
    """The norm module at `path`: LayerNorm where `form` is None, else an RMSNorm written so; `patched`: by Liger."""
    module = net.by_path.get(path)
    assert module is not None, path
    size = width or module.shape[0]
    weight = net.base_weight(module.shape[0], module.path, net.norm_itemsize)
    if form is None:
        bias = net.base_weight(module.shape[0], module.path, net.norm_itemsize) if module.bias else None
        return norms.layer_norm(net.tape, x, weight, bias, size)
    if patched and liger.runs(net.choices, "rms_norm"):
        return liger.rms_norm(net.tape, x, weight, size, in_place=net.spec.facts.liger_norms_in_place)
    if net.tape.rules.lean:
        kept = not net.choices.makes_again("norms")
        return lean.rms_norm(net.tape, x, weight, size, late=form != "cast_then_gain", kept=kept)
    return norms.rms_norm(net.tape, x, weight, size, form=form)


def embed(net: Net, path: str, monomial: int = T) -> Tensor:
    """Rows of an embedding table for every token (`T`) or position (`S`)."""
    module = net.by_path[path]
    weight = net.shared_weight(path, module.shape[0] * module.shape[1])
    return ops.embedding(net.tape, weight, module.shape[1], monomial)


def dropout(tape: Tape, x: Tensor, probability: float) -> Tensor:
    """A dropout module, which stack `builtin` replaces; code that calls the function keeps `ops.dropout`."""
    if tape.rules.lean and tape.rules.training:
        return lean.seeded_dropout(tape, x, probability, x.elements)
    return ops.dropout(tape, x, probability)


def composite_attention(net: Net, probability: float) -> bool:
    """Whether the composite kernel runs: always on Apple's MPS, on the CPU where attention has dropout."""
    rules = net.tape.rules
    return rules.target == "mps" or (rules.target == "cpu" and probability > 0 and rules.training)


def attend(
    net: Net,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    heads: Heads | None = None,
    style: Style | None = None,
) -> Tensor:
    """Attention over q, k, v by the chosen implementation; `mask` replaces the shared one, `heads` the model's."""
    spec, tape = net.spec, net.tape
    heads = heads or Heads(spec.num_heads, spec.num_kv_heads, spec.head_dim)
    mask = mask if mask is not None else net.mask
    style = style or Style()
    if style.dropout is None:
        style = replace(style, dropout=spec.attention_dropout)
    with tape.scope("attention"):
        if net.flat:
            return flat.attend(net, q, k, v, heads, style)
        if net.implementation == "eager":
            output, net.attention_weights = attention.eager(tape, q, k, v, mask, heads, style)
            return output
        if net.implementation == "flash":
            return _flash_package(net, q, k, v, heads, style)
        return _sdpa(net, q, k, v, mask, heads, style)


def _flash_package(net: Net, q: Tensor, k: Tensor, v: Tensor, heads: Heads, style: Style) -> Tensor:
    """The package has no fp32 kernels: transformers casts, and does not cast back. Padding is taken out meanwhile."""
    tape = net.tape
    q, k, v = (ops.to(tape, x, HALF) for x in (q, k, v))
    if net.padded:
        q, k, v = (attention.gathered(tape, x) for x in (q, k, v))
        return attention.gathered(tape, attention.flash(tape, q, k, v, heads))
    out = attention.flash(tape, q, k, v, heads)
    del q, k, v  # tidy; casts that the call made are gone before its output is copied
    return ops.contiguous(tape, out) if style.heads_first else out


def _sdpa(net: Net, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: Heads, style: Style) -> Tensor:
    """The kernel that PyTorch takes for these inputs on this device."""
    tape, target = net.tape, net.tape.rules.target
    if heads.grouped and (mask is not None or heads.size > 256):
        k = attention.repeat_kv(tape, k, heads.groups, heads.key_value)
        v = attention.repeat_kv(tape, v, heads.groups, heads.key_value)
        heads = heads.repeated
    if tape.rules.autocast:
        q, k, v = (ops.to(tape, x, HALF) for x in (q, k, v))
    if target == "cuda" and tape.rules.flash and mask is None and q.itemsize == HALF and heads.size <= 256:
        out = attention.flash(tape, q, k, v, heads)
        del q, k, v  # tidy
        return ops.contiguous(tape, out) if style.heads_first else out
    assert style.dropout is not None
    if (heads.grouped and target == "cuda") or composite_attention(net, style.dropout):
        with tape.outside_autocast():  # the operator's own products are not cast
            return attention.math(tape, q, k, v, mask, heads, style)
    out = attention.efficient(tape, q, k, v, mask, heads)
    # CUDA's kernel writes its output tokens first whatever the layout of q, the CPU's takes q's layout over.
    return ops.contiguous(tape, out) if style.heads_first and target == "cpu" else out
