"""Liger's Triton kernels on the tape, as `use_liger_kernel=True` of the transformers Trainer patches them in.

Sources: linkedin/Liger-Kernel 0.8.5 src/liger_kernel/ops/{fused_linear_cross_entropy,rms_norm,swiglu,geglu,rope,
fused_moe}.py, transformers/model/llama.py, transformers/monkey_patch.py (`MODEL_TYPE_TO_APPLY_LIGER_FN`); transformers
5.23 integrations/liger.py; read 2026-11. Held against its own autograd functions (trainer.trace.liger, docs/trace.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.contract.architectures import ARCHITECTURES, LIGER_PATCHES_TOO
from planner.contract.errors import NotModelled
from planner.contract.sentence import named
from planner.memory.engine.graph import Gradients, Tensor
from planner.memory.engine.monomials import FP32, ONE, T
from planner.memory.engine.tape import Tape
from planner.memory.engine.values import Array
from planner.memory.engine.weight import Weight

if TYPE_CHECKING:
    from planner.contract.choices import TrainingChoices
    from planner.contract.spec import ModelSpec

BLOCKS = 132
"""Multiprocessors, each of which sums a trained norm's gradient for itself: 132 on an H100, 108 on an A100."""


def runs(choices: TrainingChoices, kernel: str) -> bool:
    """Whether one of Liger's kernels takes the place of the model's own code."""
    return choices.liger and kernel in choices.liger_kernels


def check(spec: ModelSpec, choices: TrainingChoices) -> None:
    """Refuses what Liger does not patch, or patches in a way that has no model here."""
    if not choices.liger:
        return
    switch, fused = named("liger"), runs(choices, "fused_linear_cross_entropy")
    if choices.stack != "peft":
        raise NotModelled(switch, " is the stock Trainer's switch: use it with ", named("stack"), " peft")
    if choices.loss != "full" and fused:
        raise NotModelled(switch, " brings a loss of its own, in chunks: use it with ", named("loss"), " full")
    if not spec.facts.liger:
        known = ", ".join(name for name, record in ARCHITECTURES.items() if record.liger)
        if spec.architecture in LIGER_PATCHES_TOO:
            raise NotModelled(switch, f" for {spec.architecture} is not modelled; it is for {known}")
        raise NotModelled(f"Liger has no kernels for {spec.architecture}: leave ", switch, f" out; it is for {known}")
    if choices.precision.endswith("-mixed"):
        raise NotModelled(switch, " with ", named("precision"), f" {choices.precision} is not modelled: use bf16-amp")
    if choices.num_gpus > 1 and choices.strategy == "fsdp" and choices.method == "full":
        raise NotModelled(switch, " with ", named("strategy"), " fsdp is not modelled")
    if runs(choices, "swiglu") and spec.num_experts and len(spec.sparse_layers) < spec.num_layers:
        raise NotModelled(switch, f" for {spec.architecture} with dense layers: Liger patches experts in every layer")
    if "lm_head" in choices.lora_targets and fused:
        raise NotModelled(switch, " with adapters on the vocabulary head: its loss reads the head's weight alone")


def chunk_rows(tokens: Array, vocab_size: int, hidden_size: int) -> Array:
    """Tokens whose logits the fused loss holds at a time: a power of two, about tokens·hidden/vocabulary."""
    parts = -(-vocab_size // hidden_size)
    rows = np.maximum(1, -(-tokens // parts))
    found: Array = 1 << np.ceil(np.log2(rows)).astype(np.int64)
    return found


def _one(gradients: Gradients) -> Tensor:
    gradient = gradients[0]
    assert gradient is not None
    return gradient


def rms_norm(tape: Tape, x: Tensor, weight: Weight, width: int, *, in_place: bool = True) -> Tensor:
    """Output n·w and one fp32 number per row; saves x and that; backward writes into the gradient it gets or, where
    not `in_place`, makes another n·w. Where the weight trains, its gradient is summed by multiprocessor,
    blocks·width·4, and then.
    """
    out = tape.like(x)
    inverse = tape.new(x.monomial, x.elements // width, FP32)
    trains, count, itemsize = weight.parameter is not None, weight.tensor.elements, weight.tensor.itemsize

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        made = None
        parts = tape.new(ONE, BLOCKS * count, FP32) if trains else None
        gradient = _one(g).alias() if in_place else tape.like(_one(g))
        if trains:
            summed = tape.new(ONE, count, FP32)
            made = summed.alias() if itemsize == FP32 else tape.new(ONE, count, itemsize)
            del summed  # tidy
        del parts  # tidy
        return [gradient, made]

    return tape.record(out, (x, weight.tensor), (x, weight.tensor, inverse), backward)


def gated(tape: Tape, gate: Tensor, up: Tensor) -> Tensor:
    """act(gate)·up: output n·w; saves both; backward writes their gradients into them."""
    out = tape.like(gate)
    return tape.record(out, (gate, up), (gate, up), lambda g, s: [s[0].alias(), s[1].alias()])


def experts(tape: Tape, x: Tensor, weights: tuple[Weight, Weight], factors: Tensor, inner: int) -> Tensor:
    """A layer's experts as one function (`LigerFusedMoEFunction`), rows found by index: output n·w.

    weights: of gate and up, and of down, all experts' in one tensor. Saves x, what gate and up made and three int32
    indices a row; backward makes that and the activation anew, the rows of x, and gradients of both weights of their
    own size, frozen or not.
    """
    up, down = weights
    top_k, hidden, width = factors.elements, x.elements, x.itemsize
    ids = tape.new(T, top_k, FP32)
    places = [tape.new(T, top_k, FP32) for _ in range(3)]
    made = tape.new(T, 2 * top_k * inner, width)
    activated, rows = tape.new(T, top_k * inner, width), tape.new(T, top_k * hidden, width)
    out = tape.new(T, hidden, width)
    sizes = [(weight.tensor.elements, weight.tensor.itemsize) for weight in weights]
    trains = [weight.tensor.requires_grad for weight in weights]

    def backward(g: Gradients, s: tuple[Tensor, ...]) -> list[Tensor | None]:
        unmade, again = tape.new(T, 2 * top_k * inner, width), tape.new(T, top_k * inner, width)
        scores = tape.new(T, top_k, width)
        narrow = tape.new(ONE, *sizes[1])
        spread = tape.new(T, top_k * hidden, width)
        gradient = tape.new(T, hidden, width)
        wide = tape.new(ONE, *sizes[0])
        del unmade, again, spread  # tidy
        return [gradient, wide if trains[0] else None, narrow if trains[1] else None, scores]

    inputs = (x, up.tensor, down.tensor, factors)
    result = tape.record(out, inputs, (x, up.tensor, down.tensor, made, factors.alias(), *places), backward)
    del ids, activated, rows  # tidy
    return result


def rotary(
    tape: Tape, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *, strided: bool = False
) -> tuple[Tensor, Tensor]:
    """Both are turned where they lie, their gradients too; saves the tables.

    strided: whether they don't lie as tokens · heads · width, so that they are laid out anew first, n·w each.
    """
    turned = [tape.like(query), tape.like(key)] if strided else [query.alias(), key.alias()]
    tape.record_many(turned, (query, key), (cos, sin), lambda g, s: [None if x is None else x.alias() for x in g])
    return turned[0], turned[1]
