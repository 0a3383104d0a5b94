"""One steady-state optimizer step on a tape: weights and optimizer state, forward, loss, backward, optimizer.

Steady state is the second step: the optimizer's state exists; with accumulation the gradients of the micro-batches
before exist too. The instants of the step are segments of the tape.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from planner.lora import saved_modules, trainable_parameters
from planner.memory import loss
from planner.memory.blocks import registry
from planner.memory.layout import layout
from planner.memory.net import Net
from planner.memory.ops import FP32, HALF, INT64
from planner.memory.tape import ONE, T, Tape, Tensor
from planner.spec import ModelSpec, TrainingChoices


@dataclass(frozen=True, slots=True)
class Case:
    """What decides which program runs; batch, length and (where `checkpointed` is None) N stay symbolic."""

    spec: ModelSpec
    choices: TrainingChoices
    checkpointed: int | None
    """How many of the first layers are checkpointed; None: symbolic N."""
    padded: bool = False
    """Whether the batch holds padding, so that a mask exists and another attention kernel runs."""
    windowed: bool = False
    """Whether the length reaches the sliding window, so that its layers need a mask."""
    target: str = "cuda"
    evaluating: bool = False
    """An evaluation batch instead of a training step."""


def run(case: Case, watch: tuple[int, int] | None = None) -> Tape:
    """The tape of one step; with `watch` (segment, event) also the live bytes by component at that event."""
    tape = Tape(watch, case.target)
    net = Net.build(tape, case.spec, case.choices, padded=case.padded, windowed=case.windowed)
    held = persistent(net)
    tape.mark()
    if case.evaluating:
        with tape.no_grad():
            tape.begin("eval")
            evaluated: list[Tensor] = []
            inputs = tape.new(T, 3, INT64)
            _forward(net, 0, evaluated, "eval")
    else:
        tape.begin("forward")
        inputs = tape.new(T, 3, INT64)
        keep: list[Tensor] = []
        value = _forward(net, case.checkpointed, keep, "loss")
        tape.begin("backward")
        tape.backward(value, tape.new(ONE, 1, FP32))
        del value, keep
        tape.begin("optimizer")
        tape.mark()
        optimizer_step(net)
    tape.closed = True
    del held, inputs
    return tape


def persistent(net: Net) -> list[Tensor]:
    """Weights, adapters, optimizer state and, while accumulating, gradients: what is there before the step begins."""
    tape, spec, choices = net.tape, net.spec, net.choices
    held = []
    trained = trained_bytes(net)
    with tape.scope("weights"):
        held.append(tape.new(ONE, spec.parameters, net.itemsize))
    if choices.method != "full":
        with tape.scope("adapters"):
            held.append(tape.new(ONE, trained, 1))
    if choices.optimizer == "adamw":
        with tape.scope("optimizer_state"):
            held.append(tape.new(ONE, 2 * trained, 1))
    if net.accumulating:
        with tape.scope("gradients"):
            held.append(tape.new(ONE, trained, 1))
    return held


def trained_bytes(net: Net) -> int:
    """Bytes of all trainable tensors: adapters in their dtype, modules trained in full beside them in the weights'."""
    spec, choices = net.spec, net.choices
    everything = trainable_parameters(spec, choices)
    if choices.method == "full":
        return everything * net.itemsize
    saved = sum(module.parameters * module.copies for module in saved_modules(spec, choices))
    adapter_width = FP32 if choices.adapter_dtype == "fp32" else HALF
    return (everything - saved) * adapter_width + saved * net.itemsize


def _forward(net: Net, checkpointed: int | None, keep: list[Tensor], loss_instant: str) -> Tensor:
    tape, spec = net.tape, net.spec
    architecture = registry.program(spec)
    with tape.scope("layer_activations"):
        x = architecture.embed(net)
        kinds: list[Hashable] = [architecture.kind(net, index) for index in range(spec.num_layers)]
        for stretch in layout(kinds, checkpointed):
            if stretch.repeated:
                with tape.group(stretch.copies, stretch.copies_per_n):
                    for index in stretch.layers:
                        x = _layer(net, architecture, x, index, stretch.checkpointed)
            else:
                for index in stretch.layers:
                    x = _layer(net, architecture, x, index, stretch.checkpointed)
        x = architecture.final(net, x)
    tape.begin(loss_instant)
    with tape.scope("logits_and_loss"):
        if architecture.finish is not None:
            inputs = [x]
            del x
            value = architecture.finish(net, inputs, keep)
        elif net.choices.loss == "chunked":
            tape.leave_autocast()  # the chunked loss runs outside the model's forward
            value = loss.chunked(net, x, architecture.head)
        else:
            value = loss.full(net, x, architecture.head, keep)
    tape.leave_autocast()
    return value


def _layer(net: Net, architecture: registry.Program, x: Tensor, index: int, checkpointed: bool) -> Tensor:
    def forward(argument: Tensor) -> Tensor:
        try:
            return architecture.layer(net, argument, index)
        finally:
            net.attention_weights = None

    return net.tape.checkpoint(forward, x) if checkpointed else forward(x)


def optimizer_step(net: Net) -> None:
    """Transient bytes of the update: foreach AdamW takes the square root of all second moments at once."""
    tape, choices = net.tape, net.choices
    if choices.optimizer == "adamw" and choices.optimizer_implementation == "foreach":
        root = tape.new(ONE, trained_bytes(net), 1)
        del root
