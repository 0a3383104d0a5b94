"""Heads and losses that are not the causal one: masked language model, sequence classification, encoder-decoder.

None of them turns the logits into fp32: the cross-entropy runs in the logits' own dtype.
Sources: transformers 5.23 models/{bert,roberta,distilbert,t5}/modeling_*.py, their `*ForMaskedLM`,
`*ForSequenceClassification` and `T5ForConditionalGeneration` (read 2026-11).
"""

from __future__ import annotations

from planner.contract.sentence import named
from planner.memory.engine import ops, products
from planner.memory.engine.graph import Tensor
from planner.memory.engine.monomials import FP32, B
from planner.memory.network import layers
from planner.memory.network.loss import cross_entropy
from planner.memory.network.net import Net, unmodelled
from planner.models.lora import saved_modules


def vocabulary(net: Net, inputs: list[Tensor], keep: list[Tensor], *, path: str, bias: str | None = None) -> Tensor:
    """The output layer at `path` and its cross-entropy; `bias` is the path of a bias that is a parameter of its own."""
    if net.choices.loss == "chunked":
        raise unmodelled(named("loss"), f" chunked for {net.spec.architecture} ({net.spec.task})")
    logits = _output_layer(net, inputs.pop(), path, bias)
    value = cross_entropy(net.tape, logits)
    _returned(net, logits, keep)
    return value


def _returned(net: Net, logits: Tensor, keep: list[Tensor]) -> None:
    """What the model returns besides the loss: accelerate turns it into fp32 under autocast, `keep_logits` holds it."""
    if net.tape.rules.autocast:
        logits = ops.to(net.tape, logits, FP32)
    if net.choices.keep_logits:
        keep.append(logits.alias())
    net.named.clear()


def _output_layer(net: Net, hidden: Tensor, path: str, bias: str | None) -> Tensor:
    module = net.by_path[path]
    if bias is None or module.bias or module.path in net.targeted:
        return layers.linear(net, path, hidden)
    weight, offset = net.head_weight(path), net.base_weight(module.out_features)
    return products.linear(net.tape, hidden, weight, module.out_features, module.in_features, offset)


def first_token(net: Net, hidden: Tensor) -> Tensor:
    """hidden[:, 0]: a view of batch rows; backward zeros of the whole."""
    tape, size, elements, width = net.tape, hidden.monomial, hidden.elements, hidden.itemsize
    view = hidden.alias()
    view.monomial = B
    return tape.record(view, (hidden,), (), lambda g, s: (tape.new(size, elements, width),))


def classification(net: Net, inputs: list[Tensor], keep: list[Tensor], *, path: str) -> Tensor:
    """The classifier's last layer on one row per sequence, and its loss."""
    if net.choices.loss == "chunked":
        raise unmodelled(named("loss"), f" chunked for {net.spec.architecture} ({net.spec.task})")
    logits = head_linear(net, path, inputs.pop())
    value = cross_entropy(net.tape, logits)
    _returned(net, logits, keep)
    return value


def head_linear(net: Net, path: str, x: Tensor) -> Tensor:
    """A linear layer of a classification head; PEFT trains the classifier in full beside the adapters."""
    module = net.by_path[path]
    if net.trains_base or module.path not in {m.path for m in saved_modules(net.spec, net.choices)}:
        return layers.linear(net, path, x)
    weight = net.weight(module.in_features * module.out_features, net.itemsize, trainable=True)
    bias = net.weight(module.out_features, net.itemsize, trainable=True) if module.bias else None
    return products.linear(net.tape, x, weight, module.out_features, module.in_features, bias)
