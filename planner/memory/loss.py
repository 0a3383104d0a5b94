"""The head and the loss, by whose code runs: today's transformers, its older releases, or the chunked loss.

Sources: transformers loss/loss_utils.py (5.23), models/*/modeling_*.py of 4.45 and 4.48; PyTorch's cross_entropy is
log_softmax (its result is saved) and nll_loss, whose backward makes zeros of the same size.
"""

from __future__ import annotations

from planner.memory import ops
from planner.memory.net import Net
from planner.memory.ops import FP32
from planner.memory.tape import Gradients, T, Tape, Tensor

CHUNK_TOKENS = 1024
"""Tokens whose logits the chunked loss of the `builtin` stack holds at a time."""


def cross_entropy(tape: Tape, logits: Tensor) -> Tensor:
    """log_softmax (result n·w, saved) and nll_loss; backward nll's n·w of zeros, then log_softmax's n·w."""
    out = tape.like(logits)
    log_probabilities = tape.record(out, (logits,), (out.alias(),), lambda g, s: (tape.like(_one(g)),))
    del out
    value = tape.new(0, 1, logits.itemsize)
    size, width = (log_probabilities.monomial, log_probabilities.elements), logits.itemsize
    return tape.record(
        value,
        (log_probabilities,),
        (log_probabilities.alias(),),
        lambda g, s: (tape.new(size[0], size[1], width),),
    )


def _one(gradients: Gradients) -> Tensor:
    gradient = gradients[0]
    assert gradient is not None
    return gradient


def upcast_loss(net: Net, logits: Tensor, version: str) -> Tensor:
    """The stock causal loss on `logits`; what `logits` still names while it runs is the caller's affair."""
    tape = net.tape
    if version == "no-upcast":
        shifted = ops.contiguous(tape, logits)
        return cross_entropy(tape, shifted)
    wide = ops.to(tape, logits, FP32)
    if version in ("4.45", "4.48"):
        return cross_entropy(tape, ops.contiguous(tape, wide))
    return cross_entropy(tape, wide)


def _rebound_loss(net: Net, hidden: Tensor, head: str) -> Tensor:
    """transformers ≤ 4.46: `logits = logits.float()` drops the 16-bit logits before the loss."""
    tape = net.tape
    logits = ops.to(tape, net.linear(head, hidden), FP32)
    shifted = ops.contiguous(tape, logits)
    return cross_entropy(tape, shifted)


def loss_variant(net: Net) -> str:
    """Whose loss code runs: `5`, `4.48`, `4.45` or `no-upcast`."""
    version = net.choices.transformers_version
    if version is None or net.choices.stack == "builtin":
        return "5"
    if version == "no-upcast":
        return version
    major, minor = (int(x) for x in (version.split(".") + ["0"])[:2])
    if major >= 5 or (major == 4 and minor >= 49):
        return "5"
    return "4.48" if minor >= 46 else "4.45"


def full(net: Net, hidden: Tensor, head: str, keep: list[Tensor]) -> Tensor:
    """Head and stock loss; the head's logits outlive the loss only where `keep_logits` holds them."""
    tape = net.tape
    variant = loss_variant(net)
    if variant == "4.45":
        logits = ops.to(tape, net.linear(head, hidden), FP32)
        value = cross_entropy(tape, ops.contiguous(tape, logits))
    else:
        logits = head_logits(net, hidden, head)
        value = upcast_loss(net, logits, variant)
    if net.choices.keep_logits:
        keep.append(logits.alias())
    return value


def head_logits(net: Net, hidden: Tensor, head: str) -> Tensor:
    """The head's output with what an architecture does to it: gemma2's soft cap, granite's scaling."""
    tape = net.tape
    logits = net.linear(head, hidden)
    if net.config("final_logit_softcapping"):
        logits = ops.scale(tape, logits)
        logits = ops.pointwise(tape, logits, save="output")
        logits = ops.scale(tape, logits)
    if net.spec.architecture == "granite":
        logits = ops.scale(tape, logits)
    return logits


__all__ = ["CHUNK_TOKENS", "T", "cross_entropy", "full", "head_logits", "loss_variant", "upcast_loss"]
