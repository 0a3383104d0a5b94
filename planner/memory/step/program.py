"""One steady-state optimizer step on a tape: weights and optimizer state, forward, loss, backward, optimizer.

Steady state is the second step: the optimizer's state exists; with accumulation the gradients of the micro-batches
before exist too. The instants of the step are segments of the tape.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec, Module
from planner.memory.engine.graph import Tensor
from planner.memory.engine.layout import Stretch, stacked, symbolic_range
from planner.memory.engine.ledger import UPDATE
from planner.memory.engine.monomials import FP32, INT64, ONE, TU, T
from planner.memory.engine.rules import Rules
from planner.memory.engine.tape import Tape
from planner.memory.network import liger, loss
from planner.memory.network.blocks import registry
from planner.memory.network.blocks.program import Program
from planner.memory.network.net import Net
from planner.memory.network.quantized import bias_itemsize, is_quantized, matrices, stored
from planner.memory.recorded.play import play
from planner.memory.recorded.wanted import is_recorded
from planner.memory.step.case import Case
from planner.memory.step.exchange import Exchange, Reduction
from planner.memory.step.optimizers import adapter_tensors, state_bytes, trained_tensors
from planner.memory.step.sharding import (
    Shares,
    divides_gradients,
    exchanges,
    kept_share,
    per_rank,
    units,
    zero2,
    zero_saved,
    zero_update,
)
from planner.memory.step.updates import update_bytes
from planner.models.lora import adapter_modules


def run(
    case: Case,
    watch: tuple[int, int] | None = None,
    log_values: Sequence[float] | None = None,
    *,
    every_layer: bool = False,
) -> Tape:
    """The tape of one step; with `watch` (segment, event) also the live bytes by component at that event.

    With `log_values` (the monomials' values) allocations and releases are logged one by one; what is there before the
    step (`reserved.loading`) is left out of the log. `every_layer`: no layer stands for others.
    Long because the references that live from its first line to its last are a step's lifetimes.
    """
    tape = Tape(_rules(case), watch=watch, log_values=log_values)
    net = Net.build(case.spec, case.choices, tape=tape, padded=case.padded, windowed=case.windowed)
    net.flat, net.answers, net.unaligned_answers = case.flat, case.answers, case.unaligned_answers
    held = persistent(net) if log_values is None else []
    tape.ledger.mark()
    if is_recorded(case.spec):
        play(tape.ledger, case, accumulating=net.accumulating)
        if not case.evaluating:
            _update(net)
        tape.ledger.closed = True
        return tape
    if case.evaluating:
        with tape.no_grad():
            tape.ledger.begin("eval")
            buckets = _several(net)
            evaluated: list[Tensor] = []
            inputs = _inputs(tape, case)
            _forward(net, 0, evaluated, "eval", every_layer)
    else:
        tape.ledger.begin("forward")
        buckets = _several(net)
        inputs = _inputs(tape, case)
        keep: list[Tensor] = []
        # Gradients that wait for the end of the pass are released there one by one.
        every_layer |= net.reduction is not None and net.reduction.single
        value = _forward(net, case.checkpointed, keep, "loss", every_layer)
        tape.ledger.begin("backward")
        if net.reduction is not None:
            net.reduction.begin()
        tape.backward(value, tape.new(ONE, 1, FP32))
        del value, keep
        tape.drop_returned()
        tape.leave_graph()
        net.input_gradients.clear()  # leaves of the graph, which the loss held
        if net.exchange is not None:
            net.exchange.finish()
        if net.reduction is not None:
            net.reduction.finish()
        buckets.clear()  # where there were some, the gradients lie in them now
        _update(net)
    tape.ledger.closed = True
    del held, inputs, buckets
    return tape


def _rules(case: Case) -> Rules:
    return Rules.of(
        case.choices,
        target=case.target,
        training=not case.evaluating,
        flat=case.flat,
        unaligned=case.unaligned,
        flash=not case.pre_ampere,
        gradient_share=kept_share(case.choices),
    )


def _update(net: Net) -> None:
    net.tape.ledger.begin("optimizer")
    net.tape.ledger.note(UPDATE)
    net.tape.ledger.mark()
    optimizer_step(net)


def _inputs(tape: Tape, case: Case) -> list[Tensor]:
    """input_ids, labels and attention_mask; of a flat row ids, labels and positions beside the batch they came from."""
    if case.answers:
        return [tape.new(T, 2, INT64), tape.new(TU, 1, INT64)]
    return [tape.new(T, 5 if case.flat else 3, INT64)]


def persistent(net: Net) -> list[Tensor]:
    """Weights, adapters, optimizer state and, while accumulating, gradients: what is there before the step begins."""
    tape, shares = net.tape, rank_shares(net)
    parts = {
        "weights": shares.weights,
        "adapters": shares.adapters,
        "optimizer_state": shares.optimizer_state,
        "gradients": shares.gradients,
    }
    held = []
    for component, size in parts.items():
        with tape.scope(component):
            held.append(tape.new(ONE, size, 1))
    return held


def rank_shares(net: Net) -> Shares:
    """What one device holds of weights, adapters, state and gradients before the step begins."""
    spec, choices = net.spec, net.choices
    tensors = trained_tensors(spec, choices, net.kept_itemsize, net.kept_adapter_itemsize)
    trained = sum(tensor.size for tensor in tensors)
    made = trained_tensors(spec, choices, net.itemsize, net.adapter_itemsize)
    return per_rank(
        choices,
        weights=weight_bytes(net),
        whole=scale_bytes(net),
        adapters=0 if choices.method == "full" else trained,
        optimizer_state=state_bytes(tensors, choices),
        gradients=sum(tensor.size for tensor in made),
        elements=sum(tensor.elements * tensor.copies for tensor in tensors),
        itemsize=net.itemsize,
        accumulating=choices.gradient_accumulation_steps > 1,
    )


def covered(spec: ModelSpec, choices: TrainingChoices) -> range:
    """The numbers of checkpointed layers that one symbolic run covers."""
    if is_recorded(spec):
        return range(0)
    net, architecture = Net.build(spec, choices), registry.program(spec)
    return symbolic_range([layer_kind(net, architecture, index) for index in range(spec.num_layers)])


def waiting_gradients(case: Case) -> int:
    """Bytes of earlier micro-batches' gradients: a step's last micro-batch finds them, between steps they are gone."""

    def held(micro_batches: int) -> int:
        choices = replace(case.choices, gradient_accumulation_steps=micro_batches)
        return rank_shares(Net.build(case.spec, choices)).gradients

    return held(2) - held(1)


def gathered_bytes(case: Case) -> int:
    """What rank 0 holds whole in host memory while a divided run is saved: what is trained, and its optimizer state."""
    net = Net.build(case.spec, case.choices)
    if zero2(case.choices):
        return zero_saved(trained_tensors(case.spec, case.choices, net.itemsize, net.adapter_itemsize), case.choices)
    shares = rank_shares(net)
    trained = shares.weights if case.choices.method == "full" else shares.adapters
    return (trained + shares.optimizer_state) * case.choices.num_gpus


def _several(net: Net) -> list[Tensor]:
    """Several devices, from the forward pass on: DDP's or ZeRO's buckets, or FSDP's exchange on the tape."""
    choices, tape = net.choices, net.tape
    if choices.num_gpus == 1:
        return []
    if exchanges(choices):
        adapters = {}
        for module in adapter_modules(net.spec, choices):
            tensors = adapter_tensors(net.spec, choices, module, net.adapter_itemsize)
            adapters[module.path] = (sum(tensor.size for tensor in tensors) // module.copies, module.layers)
        net.exchange = Exchange(
            tape,
            units(net.spec, size=partial(gathered_size, net), adapters=adapters),
            ranks=choices.num_gpus,
            widened=net.kept_adapter_itemsize // net.adapter_itemsize,
            lingers=choices.stack == "peft" and choices.checkpoint_reentrant and choices.method != "full",
            accumulates=net.accumulating and choices.method == "full",
        )
        net.exchange.begin()
    if divides_gradients(choices):
        tensors = trained_tensors(net.spec, choices, net.itemsize, net.adapter_itemsize)
        net.reduction = Reduction(
            tape,
            elements=sum(tensor.elements * tensor.copies for tensor in tensors),
            itemsize=net.itemsize,
            ranks=choices.num_gpus,
            held=net.accumulating,
        )
    with tape.scope("communication"):
        return [tape.new(ONE, rank_shares(net).buckets, 1)]


def module_sizes(net: Net, module: Module) -> list[int]:
    """Bytes of the tensors of one copy of a module."""
    if is_quantized(net, module):
        sizes = list(stored(net.choices, module)) * matrices(module)
        bias = module.out_features if module.bias else 0
        return sizes + ([bias * bias_itemsize(net)] if bias else [])
    bias = 0 if not module.bias else module.out_features if module.kind in ("linear", "conv1d") else module.shape[0]
    itemsize = net.stored_itemsize(module)
    return [(module.parameters - bias) * itemsize] + ([bias * itemsize] if bias else [])


def buffer_bytes(spec: ModelSpec) -> int:
    """Bytes of large tensors that are no parameters: a causal table of 1-byte flags, positions²."""
    if is_recorded(spec):
        return int(spec.config["recorded"]["buffer_bytes"])
    return spec.max_positions**2 if spec.facts.causal_table else 0


def weight_bytes(net: Net) -> int:
    """Bytes of the base model's weights: every module in the weights' dtype, or quantized where it is quantised."""
    total = buffer_bytes(net.spec)
    for module in net.spec.modules:
        size = module.parameters * max(net.stored_itemsize(module), net.kept_itemsize)
        if is_quantized(net, module):
            bias = module.out_features if module.bias else 0
            size = sum(stored(net.choices, module)) * matrices(module) + bias * bias_itemsize(net)
        total += size * module.copies
    return total


def scale_bytes(net: Net) -> int:
    """Bytes of the quantised weights' scales and tables, which are no parameters: every rank has all of them."""
    found = [module for module in net.spec.modules if is_quantized(net, module)]
    return sum(stored(net.choices, module)[1] * matrices(module) * module.copies for module in found)


def gathered_size(net: Net, module: Module) -> int:
    """Bytes of one copy of a module's parameters while they are whole; of a quantised one its packed values."""
    if is_quantized(net, module):
        bias = module.out_features * bias_itemsize(net) if module.bias else 0
        return stored(net.choices, module)[0] * matrices(module) + bias
    return module.parameters * net.itemsize


def _forward(
    net: Net, checkpointed: int | None, keep: list[Tensor], loss_instant: str, every_layer: bool = False
) -> Tensor:
    tape, spec = net.tape, net.spec
    architecture = registry.program(spec)
    with tape.scope("layer_activations"):
        x = architecture.embed(net)
        kinds: list[Hashable] = [layer_kind(net, architecture, index) for index in range(spec.total_layers)]
        if every_layer:
            kinds = list(range(spec.total_layers))
        for stretch in _stretches(net, kinds, checkpointed):
            if stretch.layers[0] == spec.num_layers and architecture.between is not None:
                x = architecture.between(net, x)
            if stretch.repeated:
                with tape.group(stretch.copies, stretch.copies_per_n, entering=x):
                    for index in stretch.layers:
                        x = _layer(net, architecture, x, index, stretch.checkpointed)
            else:
                for index in stretch.layers:
                    x = _layer(net, architecture, x, index, stretch.checkpointed)
        x = architecture.final(net, x)
    tape.ledger.begin(loss_instant)
    with tape.scope("logits_and_loss"):
        if architecture.finish is not None:
            inputs = [x]
            del x
            value = architecture.finish(net, inputs, keep)
        elif liger.runs(net.choices, "fused_linear_cross_entropy"):
            value = loss.fused(net, x, architecture.head)
        elif net.choices.loss == "chunked":
            tape.leave_autocast()  # the chunked loss runs outside the model's forward
            value = loss.chunked(net, x, architecture.head)
        else:
            value = loss.full(net, x, architecture.head, keep)
    tape.leave_autocast()
    if not net.choices.keep_logits:
        tape.drop_returned()
    return value


def _stretches(net: Net, kinds: list[Hashable], checkpointed: int | None) -> list[Stretch]:
    """Which layers stand for which. Under FSDP the last one runs by itself: nothing has been reduced before it."""
    count, seam = len(kinds), net.spec.num_layers
    if net.exchange is None or checkpointed is None or count < 2 or 0 < seam < count:
        return stacked(kinds, checkpointed, seam)
    before = stacked(kinds[:-1], min(checkpointed, count - 1), seam)
    return [*before, Stretch((count - 1,), checkpointed == count)]


def layer_kind(net: Net, architecture: Program, index: int) -> Hashable:
    """What distinguishes a layer from others in bytes: its structure, and which of its modules carry adapters."""
    return architecture.kind(net, index), net.adapters_at(_in_stack(net, index))


def _in_stack(net: Net, index: int) -> int:
    """Index inside its stack of a layer that is counted over an encoder and a decoder."""
    return index if index < net.spec.num_layers else index - net.spec.num_layers


def _layer(net: Net, architecture: Program, x: Tensor, index: int, checkpointed: bool) -> Tensor:
    choices = net.choices
    bound = architecture.bind(net, index) if architecture.bind is not None else None
    shared = net.shared_tensors(index)  # a recomputation holds on to them after the model's forward has returned
    offloads = checkpointed and choices.checkpoint_offload and net.tape.grad_enabled
    own_mask = shared[0] if offloads and net.spec.facts.mask_by_position else None
    mask_shape = None if own_mask is None else (own_mask.monomial, own_mask.elements, own_mask.itemsize)
    if mask_shape is not None:
        shared = (None, *shared[1:])
    del own_mask
    arguments = {False: bound, True: bound.offloaded() if bound is not None and offloads else bound}
    del bound

    def forward(argument: Tensor) -> Tensor:
        net.index = _in_stack(net, index)
        again = net.tape.refilling is not None
        if again:
            net.set_shared_tensors(shared)
            if mask_shape is not None:  # back from host memory with the input
                with net.tape.scope("attention"):
                    net.mask = net.tape.new(*mask_shape)
                if choices.checkpoint_reentrant:
                    net.tape.hold(net.mask)
        run = arguments[again]
        if offloads:
            arguments[False] = None
        try:
            return architecture.layer(net, argument, index) if run is None else run(argument)
        finally:
            net.attention_weights = None
            if again:
                net.set_shared_tensors((None, None, None, None, ()))

    exchange = net.exchange
    if exchange is not None:
        x = exchange.enter(x, index)
    if checkpointed:
        reentrant = choices.checkpoint_reentrant
        x = net.tape.checkpoint(forward, x, offload=choices.checkpoint_offload, reentrant=reentrant)
    else:
        x = forward(x)
    return x if exchange is None else exchange.leave(x, index)


def optimizer_step(net: Net) -> None:
    """Transient bytes of the update (planner.memory.step.optimizers)."""
    tape = net.tape
    tensors = trained_tensors(net.spec, net.choices, net.kept_itemsize, net.kept_adapter_itemsize)
    if zero2(net.choices):
        if net.reduction is not None:
            net.reduction.update(kept=net.choices.gradient_accumulation_steps > 1)
        transient = tape.new(ONE, zero_update(tensors, net.choices), 1)
        del transient
        return
    share = kept_share(net.choices)
    if tape.ledger.log_values is not None and share == 1 and _all_at_once(net.choices):
        for decayed in (True, False):  # each tensor is an allocation, which a whole group as one would not fit in
            group = [tensor for tensor in tensors if tensor.decayed is decayed]
            each = [tape.new(ONE, t.elements, t.itemsize) for t in group for _ in range(t.copies)]
            del each
        return
    transient = tape.new(ONE, update_bytes(tensors, net.choices) // share, 1)
    del transient


def _all_at_once(choices: TrainingChoices) -> bool:
    """Whether one call makes a tensor for every parameter of a group: multi-tensor AdamW of stack `peft`."""
    return choices.stack == "peft" and (choices.optimizer, choices.optimizer_implementation) == ("adamw", "foreach")
