"""The head and the loss, by whose code runs: today's transformers, its older releases, or the chunked loss.

Sources: transformers loss/loss_utils.py (5.23), models/*/modeling_*.py of 4.45 and 4.48; PyTorch's cross_entropy is
log_softmax (its result is saved) and nll_loss, whose backward makes zeros of the same size.
"""

from __future__ import annotations

from planner.contract.errors import NotModelled
from planner.contract.sentence import named
from planner.memory.engine import ops
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import BYTE, FP32, HALF, INT64, ONE, TL, C, T
from planner.memory.engine.tape import Tape
from planner.memory.network import layers
from planner.memory.network.net import Net


def cross_entropy(tape: Tape, logits: Tensor) -> Tensor:
    """log_softmax (result n·w, saved) and nll_loss; backward nll's n·w of zeros, then log_softmax's n·w.

    Autocast asks for the log-softmax in fp32: 16-bit logits are converted first, and the conversion is gone after it.
    """
    wide = ops.to(tape, logits, FP32) if tape.rules.autocast and logits.itemsize == HALF else logits
    out = tape.like(wide)
    log_probabilities = tape.record(out, (wide,), (out.alias(),), lambda g, s: (tape.like(_one(g)),))
    del out, wide  # tidy
    value = tape.new(0, 1, log_probabilities.itemsize)
    size, width = (log_probabilities.monomial, log_probabilities.elements), log_probabilities.itemsize
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


def shifted_copy(net: Net, logits: Tensor) -> Tensor:
    """`logits[..., :-1, :].contiguous()`: a copy of all but the last position; backward zeros of the whole, filled.

    Of a single sequence the slice is contiguous as it is, and nothing is copied.
    """
    tape = net.tape
    if net.choices.batch_size == 1:
        out = logits.alias()
        out.monomial = TL
    else:
        out = tape.new(TL, logits.elements, logits.itemsize)
    size, width = (logits.monomial, logits.elements), logits.itemsize
    return tape.record(out, (logits,), (), lambda g, s: (tape.new(size[0], size[1], width),))


def upcast_loss(net: Net, logits: Tensor, version: str) -> Tensor:
    """The stock causal loss on `logits`; what `logits` still names while it runs is the caller's affair."""
    tape = net.tape
    if version == "no-upcast":
        return cross_entropy(tape, shifted_copy(net, logits))
    wide = ops.to(tape, logits, FP32)
    if version in ("4.45", "4.48"):
        return cross_entropy(tape, shifted_copy(net, wide))
    return cross_entropy(tape, wide)


def loss_variant(net: Net) -> str:
    """Whose loss code runs: `5`, `4.48`, `4.45` or `no-upcast`."""
    release = net.choices.transformers_release
    if release is None:
        return "5"
    if net.choices.transformers_version == "no-upcast":
        return "no-upcast"
    if release <= (4, 45):
        return "4.45"
    return "4.48" if release < (4, 50) else "5"


def full(net: Net, hidden: Tensor, head: str, keep: list[Tensor]) -> Tensor:
    """Head and stock loss; the head's logits outlive the loss only where `keep_logits` holds them."""
    tape = net.tape
    variant = loss_variant(net)
    if variant == "4.45":
        logits = head_logits(net, hidden, head, upcast=True)
        value = cross_entropy(tape, shifted_copy(net, logits))
    else:
        logits = head_logits(net, hidden, head)
        value = upcast_loss(net, logits, variant)
    if tape.rules.autocast:
        logits = ops.to(tape, logits, FP32)  # accelerate hands the output on in fp32
    if net.choices.keep_logits:
        keep.append(logits.alias())
    return value


def head_logits(net: Net, hidden: Tensor, head: str, *, upcast: bool = False) -> Tensor:
    """The head's output, in fp32 with `upcast`, and what an architecture does to it: soft cap, scaling."""
    tape = net.tape
    logits = layers.linear(net, head, hidden)
    if upcast:
        logits = ops.to(tape, logits, FP32)
    if net.config("final_logit_softcapping"):
        logits = ops.scale(tape, logits)
        logits = ops.pointwise(tape, logits, save="output")
        logits = ops.scale(tape, logits)
    if net.spec.facts.scaled_logits:
        logits = ops.scale(tape, logits)
    return logits


def chunked(net: Net, hidden: Tensor, head: str) -> Tensor:
    """Head and loss for one chunk of tokens at a time (trainer.modeling.chunked.ChunkedCrossEntropy).

    Both gradients are made in the forward pass and saved: of the hidden states, tokens·hidden·w, and of the head where
    it trains. Per chunk of C tokens: the hidden states, C·V·w of logits and C·V·4 of their fp32 copy, then C·V·4 and
    C·V·w of the gradient. Soft caps keep their slope, C·V·4 more. With adapters on the head it isn't made.
    """
    if head in net.targeted:
        raise NotModelled(named("loss"), " chunked with adapters on the vocabulary head; use ", named("loss"), " full")
    tape, spec = net.tape, net.spec
    width = hidden.elements
    if tape.rules.autocast:
        hidden = ops.to(tape, hidden, HALF)
    itemsize = hidden.itemsize
    trains_head = net.trains_base or "lm_head" in net.choices.modules_to_save
    labels, rows = tape.new(T, 1, INT64), tape.new(T, 1, INT64)
    training = tape.grad_enabled and (hidden.requires_grad or trains_head)
    gradient = tape.like(hidden) if training and hidden.requires_grad else None
    head_weight = net.head_weight(head)
    head_copy = None
    if tape.rules.autocast:
        with tape.scope("weights"):
            head_copy = tape.new(ONE, head_weight.tensor.elements, HALF)
    head_gradient = (
        tape.new(ONE, head_weight.tensor.elements, head_weight.tensor.itemsize)
        if (training and head_weight.parameter is not None)
        else None
    )
    vocabulary = spec.vocab_size
    part = tape.new(C, width, itemsize)
    narrow = tape.new(C, vocabulary, itemsize)
    logits = tape.new(C, vocabulary, FP32) if itemsize != FP32 else narrow.alias()
    del narrow
    slope = tape.like(logits) if net.config("final_logit_softcapping") else None
    grad = tape.new(C, vocabulary, itemsize) if itemsize != FP32 else logits.alias()
    del logits, slope
    if training:
        product = tape.new(C, width, itemsize)
        del product
        if head_gradient is not None and itemsize != head_weight.tensor.itemsize:
            wide = tape.new(C, vocabulary, head_weight.tensor.itemsize)
            wide_part = tape.new(C, width, head_weight.tensor.itemsize)
            del wide, wide_part
    del grad, part, labels, rows, head_copy
    value = tape.new(ONE, 1, FP32)
    saved = [tensor for tensor in (gradient, head_gradient) if tensor is not None]
    has_hidden, has_head = gradient is not None, head_gradient is not None
    del gradient, head_gradient  # tidy

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        made = iter(s)
        return [next(made).alias() if has_hidden else None, next(made).alias() if has_head else None]

    return tape.record(value, (hidden, head_weight.tensor), saved, backward)


def fused(net: Net, hidden: Tensor, head: str) -> Tensor:
    """Liger's head and loss for a chunk of C tokens at a time (ops/fused_linear_cross_entropy.py, 0.8.5).

    The gradient of all T hidden states T·H·w from the start, a trained head's V·H·w, T·4 of losses, T·17 of labels and
    flags, and one buffer C·V·w for the logits of every chunk, which become their gradient where they lie; products go
    where they belong at once. Releases before 0.8.5 hold two chunks' logits, and V·H·6 of a trained head's share.

    An evaluation makes the same but a head's gradient: the Trainer skips the logits there where nothing but the loss
    is asked for (transformers 5.23 trainer.py, `skip_logits`).
    """
    tape, spec = net.tape, net.spec
    weight = net.head_weight(head)
    padded, labels, flags = tape.new(T, 1, INT64), tape.new(T, 1, INT64), tape.new(T, 1, BYTE)
    gradient = tape.like(hidden)
    gradient.storage.common = False  # norms write into what they get, so each layer hands another one on in its place
    trains = tape.grad_enabled and weight.parameter is not None
    head_gradient = tape.like(weight.tensor) if trains else None
    losses = tape.new(T, 1, FP32)
    logits = tape.new(C, spec.vocab_size, hidden.itemsize)
    tape.ledger.product()
    del logits, losses, labels, padded, flags
    value = tape.new(ONE, 1, FP32)
    saved = [tensor for tensor in (gradient, head_gradient) if tensor is not None]
    del gradient, head_gradient  # tidy

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        return [s[0].alias(), s[1].alias() if trains else None]

    return tape.record(value, (hidden, weight.tensor), saved, backward)
