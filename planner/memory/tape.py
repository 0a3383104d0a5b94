"""A tensor library without tensors: sizes, lifetimes and autograd, nothing else.

The memory model runs the *program* of a training step on these objects. A `Tensor` knows how many bytes it has as a
polynomial in batch and length, who keeps it alive is decided by Python's own reference counts and by the autograd
`Node`s that saved it, exactly as in PyTorch. What comes out is, for every allocation of the step, the polynomial of the
bytes that are live just after it; the peak of a configuration is the largest of them at its batch and length.

Engine rules follow PyTorch's (torch/csrc/autograd/engine.cpp, input_buffer.cpp, accumulate_grad.cpp; read 2026-11):
nodes run in falling order of creation; a node's saved tensors are released after it ran; incoming gradients live as
long as the node runs; a second gradient for the same input is added in place if the first is held by nobody else.
"""

from __future__ import annotations

import heapq
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from planner.memory.graph import (
    BSS,
    BSSP,
    ONE,
    RX,
    SS,
    SSP,
    TL,
    TR,
    TX,
    WIDTH,
    ZERO,
    B,
    Backward,
    C,
    Gradients,
    LayerGroup,
    Node,
    Parameter,
    R,
    Raw,
    Region,
    S,
    Segment,
    StopRecompute,
    Storage,
    T,
    Tensor,
    Vector,
    add,
    times_copies,
)

__all__ = [
    "BSS",
    "BSSP",
    "ONE",
    "RX",
    "SS",
    "SSP",
    "TL",
    "TR",
    "TX",
    "WIDTH",
    "B",
    "C",
    "Gradients",
    "Node",
    "Parameter",
    "R",
    "Raw",
    "S",
    "T",
    "Tape",
    "Tensor",
    "Vector",
    "add",
]


def _nothing() -> None:
    """Stands for a recomputation until it is known."""


class Tape:
    """Live bytes, their history, and the autograd graph of one run."""

    def __init__(
        self,
        watch: tuple[int, int] | None = None,
        target: str = "cuda",
        log_values: Sequence[float] | None = None,
    ) -> None:
        self.target = target
        self.log_values = log_values
        """Where set: the monomials' values at which every allocation and release is logged instead of counted."""
        self.allocations = 0
        self.live = [0] * (2 * WIDTH)
        self.by_component: dict[str, list[int]] = {}
        self.component = "temporaries"
        self.instant = "load"
        self.segments: list[Segment] = [Segment("load")]
        self.sequence = 0
        self.watch = watch
        self.watched: dict[str, list[int]] | None = None
        self.saving: Region | None = None
        self.refilling: Region | None = None
        self.grad_enabled = True
        self.receives: Callable[[Parameter, Tensor], None] | None = None
        """Takes a parameter's gradient, where gradients are reduced unit by unit (planner.memory.exchange)."""
        self.gradient_share = 1
        """Devices over which a gradient is scattered as soon as it is there (ZeRO, FSDP)."""
        self.single_sequence = False
        """Whether a micro-batch is one sequence, whose heads need no copy to be multiplied as a batch."""
        self.substitution: dict[int, int] = {}
        """Monomials that new tensors have in place of others (those of one sequence, planner.memory.flat)."""
        self.silent = False
        """Whether allocations count without being events."""
        self.unaligned = False
        """Whether rows of a mask are no multiple of what the efficient kernel takes, and are padded for it."""
        self.fused_half_softmax = False
        """Whether a softmax of 16-bit scores into fp32 makes no fp32 copy of them (fp16 on CUDA)."""
        self.training = True
        """False in an evaluation, where dropout does nothing."""
        self.lean = False
        """Whether modules run in the lean forms of stack `builtin`."""
        self.autocast = False
        """Whether matrix products run in 16 bit over fp32 tensors (torch.autocast)."""
        self.autocast_cache: dict[int, tuple[Tensor, int]] = {}
        """16-bit copies of trainable fp32 weights, which autocast keeps until it is left, and the group of each."""
        self.on_graph: list[tuple[Tensor, int]] = []
        """Tensors that functions keep on the graph itself, beside what autograd saves, and the group of each."""
        self.returned: list[tuple[Tensor, int]] = []
        """Tensors that the model's layers return beside the hidden state (keys and values), and the group of each."""
        self.layer = 0
        self.outside = True
        """Whether what is allocated now is made in forward, outside every repeated stretch."""
        self.groups: list[LayerGroup] = []
        self.running: LayerGroup | None = None
        """The repeated stretch whose backward runs."""
        self.closed = False
        self.null_storage = Storage(self, ONE, 0, "temporaries")
        """No bytes: what views of existing tensors stand on."""

    # ---- bytes -----------------------------------------------------------------------------------------------------

    def grow(self, monomial: int, size: int, component: str) -> int:
        """An allocation: counts it and records what is live now; its number in the log, if one is kept."""
        if self.log_values is not None:
            self.allocations += 1
            self.segments[-1].log.append((self.allocations, round(size * self.log_values[monomial])))
            return self.allocations
        self.live[monomial] += size
        counts = self.by_component.get(component)
        if counts is None:
            counts = self.by_component[component] = [0] * (2 * WIDTH)
        counts[monomial] += size
        if self.silent:
            return 0
        segment = self.segments[-1]
        segment.events.append(tuple(self.live))
        if self.watch is not None and self.watch == (len(self.segments) - 1, len(segment.events) - 1):
            self.watched = {name: list(values) for name, values in self.by_component.items()}

        return 0

    def shrink(self, monomial: int, size: int, component: str, key: int) -> None:
        """A release."""
        if self.closed:
            return
        if self.log_values is not None:
            self.segments[-1].log.append((key, -1))
            return
        self.live[monomial] -= size
        self.by_component[component][monomial] -= size

    def shift(self, delta: Sequence[int], by_component: dict[str, Vector]) -> None:
        """Adds the bytes that the copies of a repeated stretch hold, without an event of their own."""
        for index, value in enumerate(delta):
            self.live[index] += value
        for name, values in by_component.items():
            counts = self.by_component.setdefault(name, [0] * (2 * WIDTH))
            for index, value in enumerate(values):
                counts[index] += value

    def begin(self, instant: str) -> None:
        """Starts a segment whose events belong to `instant`."""
        self.instant = instant
        self.segments.append(Segment(instant))

    def mark(self) -> None:
        """An event without an allocation: what is live now counts for the current instant."""
        self.segments[-1].events.append(tuple(self.live))
        if self.watch is not None and self.watch == (len(self.segments) - 1, len(self.segments[-1].events) - 1):
            self.watched = {name: list(values) for name, values in self.by_component.items()}

    def new(self, monomial: int, elements: int, itemsize: int) -> Tensor:
        """A fresh tensor outside autograd."""
        monomial = self.substitution.get(monomial, monomial)
        return Tensor(Storage(self, monomial, elements * itemsize, self.component), monomial, elements, itemsize)

    def like(self, tensor: Tensor, itemsize: int | None = None) -> Tensor:
        """A fresh tensor of the same shape, outside autograd."""
        return self.new(tensor.monomial, tensor.elements, itemsize or tensor.itemsize)

    @contextmanager
    def scope(self, component: str) -> Iterator[None]:
        """What is allocated inside counts for `component`."""
        previous, self.component = self.component, component
        try:
            yield
        finally:
            self.component = previous

    @contextmanager
    def silence(self) -> Iterator[None]:
        """What is allocated inside counts from the next event on."""
        previous, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = previous

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """Nothing inside is recorded for backward."""
        previous, self.grad_enabled = self.grad_enabled, False
        try:
            yield
        finally:
            self.grad_enabled = previous

    @contextmanager
    def outside_autocast(self) -> Iterator[None]:
        """Products and powers inside run in their operands' own dtype."""
        previous, self.autocast = self.autocast, False
        try:
            yield
        finally:
            self.autocast = previous

    # ---- autograd --------------------------------------------------------------------------------------------------

    def record(
        self,
        output: Tensor,
        inputs: Sequence[Tensor | None],
        saved: Sequence[Tensor],
        backward: Backward,
    ) -> Tensor:
        """Makes `output` the result of an op on `inputs` that saved `saved`; returns it."""
        self.record_many((output,), inputs, saved, backward)
        return output

    def saves(self, inputs: Sequence[Tensor | None], saved: Sequence[Tensor], backward: Backward) -> None:
        """Call before allocating the output of an op that saves inputs only: a recomputation may end right here.

        PyTorch packs an op's saved inputs before the op runs, so that the early stop of a checkpointed region leaves
        the last op's output unborn (tools/autograd/gen_variable_type.py, torch/utils/checkpoint.py).
        """
        region = self.refilling
        if region is None or not saved or region.cursor != region.last:
            return
        if any(tensor is not None and tensor.node is not None for tensor in inputs):
            last = region.nodes[region.cursor]()
            if last is not None:
                last.saved, last.backward = tuple(saved), backward
            raise StopRecompute

    def record_many(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor | None],
        saved: Sequence[Tensor],
        backward: Backward,
    ) -> None:
        """The same for an op with several outputs (split, unbind)."""
        if not self.grad_enabled or all(tensor is None or tensor.node is None for tensor in inputs):
            return
        region = self.refilling
        if region is not None:
            known = region.nodes[region.cursor]()
            region.cursor += 1
            if known is None:  # nobody held it after forward; now its output holds it, and it what it came from
                edges = tuple(None if t is None or t.node is None else (t.node, t.slot) for t in inputs)
                known = Node(0, edges, tuple(saved), backward, len(outputs))
            elif saved:
                known.saved, known.backward = tuple(saved), backward
            for slot, output in enumerate(outputs):
                output.node, output.slot = known, slot
            if saved and region.cursor - 1 == region.last:
                raise StopRecompute
            return
        edges = tuple(None if t is None or t.node is None else (t.node, t.slot) for t in inputs)
        self.sequence += 1
        node = Node(self.sequence, edges, tuple(saved), backward, len(outputs))
        node.layer = self.layer
        if self.component == "logits_and_loss":
            node.component = self.component
        if self.saving is not None:
            region = self.saving
            if saved:
                region.last = len(region.nodes)
                node.region = region
                node.saved = None
            elif region.reentrant:
                node.region = region
            region.nodes.append(weakref.ref(node))
        for slot, output in enumerate(outputs):
            output.node, output.slot = node, slot

    def hold(self, tensor: Tensor) -> None:
        """Keeps `tensor` as an attribute of the function that runs: until the whole graph goes, whatever is
        checkpointed. What a recomputation keeps so goes with its own graph; under a re-entrant one the first has none.
        """
        if not self.grad_enabled:
            return
        if self.refilling is not None:
            self.refilling.held.append(tensor.alias())
        elif self.saving is None or not self.saving.reentrant:
            self.on_graph.append((tensor.alias(), self.layer))

    def leave_graph(self) -> None:
        """The loss and with it the graph go: releases what functions kept on it, in every copy of a stretch."""
        self._release(lambda: self.on_graph.pop() if self.on_graph else None)

    def returns(self, tensor: Tensor) -> None:
        """Makes `tensor` part of what the model returns; a recomputation's is returned to nobody."""
        if self.refilling is None:
            self.returned.append((tensor.alias(), self.layer))

    def drop_returned(self) -> None:
        """The model's output goes: releases what layers returned, in every copy of a stretch."""
        self._release(lambda: self.returned.pop() if self.returned else None)

    def leave_autocast(self) -> None:
        """Drops the cached casts; those of a repeated stretch that nobody else holds go as often as it was counted."""
        self._release(lambda: self.autocast_cache.popitem()[1] if self.autocast_cache else None)

    def _release(self, take: Callable[[], tuple[Tensor, int] | None]) -> None:
        """Drops tensors; those of a repeated stretch that nobody else holds go as often as the stretch was counted."""
        while (taken := take()) is not None:
            tensor, index = taken
            del taken
            if index and sys.getrefcount(tensor.storage) == 2:
                group, storage = self.groups[index - 1], tensor.storage
                freed = [0] * (2 * WIDTH)
                freed[storage.monomial] = -storage.size
                gone = times_copies(tuple(freed), group.copies - 1, group.copies_per_n)
                self.shift(gone, {storage.component: gone})
                del storage

    def checkpoint(
        self,
        function: Callable[[Tensor], Tensor],
        argument: Tensor,
        *,
        offload: bool = False,
        reentrant: bool = False,
    ) -> Tensor:
        """`function(argument)`, its saved tensors dropped and recomputed in backward.

        A recomputation stops once the last saved tensor is there; a reentrant one runs to its end and holds its output.
        With `offload` the argument is kept in host memory and copied back before the recomputation.
        """
        if not self.grad_enabled:
            return function(argument)
        if offload:
            region = Region(_nothing, reentrant=reentrant)
            region.recompute = partial(
                self._fetched, weakref.ref(region), function, argument.elements, argument.itemsize, argument.monomial
            )
            region.recompute = partial(region.recompute, argument.node, argument.slot, argument.storage.leaf)
        else:
            self.retag(argument, "checkpoints")
            region = Region(partial(function, argument), reentrant=reentrant)
        self.saving = region
        try:
            output = function(argument)
        finally:
            self.saving = None
        if reentrant:
            region.last = len(region.nodes)
        return output

    def _fetched(
        self,
        region: Callable[[], Region | None],
        function: Callable[[Tensor], Tensor],
        elements: int,
        itemsize: int,
        monomial: int,
        node: Node | None,
        slot: int,
        leaf: bool,
    ) -> Tensor:
        """`function` on the argument that comes back from host memory."""
        with self.scope("checkpoints"):
            argument = self.new(monomial, elements, itemsize)
        argument.node, argument.slot = node, slot
        argument.storage.leaf = leaf
        owner = region()
        assert owner is not None
        if owner.reentrant:  # its backward pass runs inside the function that unpacked the input
            owner.fetched = argument
        return function(argument)

    def also_returns(self, tensor: Tensor) -> None:
        """Call for what a layer returns beside the hidden state and nobody uses.

        A re-entrant checkpoint is one autograd function, so that all its outputs get a gradient, this one zeros; its
        backward names the recomputed outputs until it ends (torch/utils/checkpoint.py, CheckpointFunction).
        """
        region, shape = self.saving, (tensor.monomial, tensor.elements, tensor.itemsize)
        if region is not None and region.reentrant and tensor.node is not None:
            region.further.append((weakref.ref(tensor.node), tensor.slot, shape))
        elif self.refilling is not None and self.refilling.reentrant:
            self.refilling.held.append(tensor.alias())

    def ends_recompute(self) -> bool:
        """Whether the op that comes next is where a recomputation stops: one that saves only inputs makes no output."""
        region = self.refilling
        return region is not None and region.cursor == region.last

    def _refill(self, region: Region) -> None:
        recompute = region.recompute
        assert recompute is not None
        self.refilling = region
        component, layer = self.component, self.layer
        try:
            output = recompute()
            if region.last >= len(region.nodes):
                assert isinstance(output, Tensor)
                region.output = output.alias()
            del output
        except StopRecompute as stop:
            stop.__traceback__ = None  # its frames would keep the recomputed tensors alive
        finally:
            self.refilling = None
            while self.autocast_cache:
                self.autocast_cache.popitem()
            self.component, self.layer = component, layer
            region.nodes = []
            if not region.reentrant:
                region.held.clear()

    def backward(self, root: Tensor, gradient: Tensor) -> None:
        """Runs the graph backward from `root`, in PyTorch's order; parameters' gradients are born or added to."""
        start = root.node
        assert start is not None
        root.node = None
        self.outside = False
        _count_dependencies(start)
        start.received[0] = gradient
        del gradient
        queue: list[tuple[int, Node]] = [(-start.sequence, start)]
        previous_layer = start.layer
        del start
        while queue:
            _, node = heapq.heappop(queue)
            if node.layer != previous_layer:
                self._cross(previous_layer, node.layer)
                previous_layer = node.layer
            results = self._run(node)
            for index, edge in enumerate(node.edges):
                if edge is None:
                    continue
                target, slot = edge
                target.pending -= 1
                value = results[index]
                results[index] = None
                if value is not None:
                    self._receive(target, slot, value)
                    value = None
                if target.pending == 0:
                    if isinstance(target, Parameter):
                        self._accumulate(target)
                    else:
                        heapq.heappush(queue, (-target.sequence, target))
            node.edges = ()
            del results, node
        self._cross(previous_layer, 0)

    def _run(self, node: Node) -> Gradients:
        incoming = node.received
        node.received = []
        if all(gradient is None for gradient in incoming):
            node.saved = ()
            node.region = None
            return [None] * len(node.edges)
        region = node.region
        if region is not None and region.reentrant and not region.incoming:
            # Its backward pass runs inside one node of the outer graph, which holds the output's gradient meanwhile.
            region.incoming = [gradient.alias() for gradient in incoming if gradient is not None]
            for known, slot, shape in region.further:
                unused = known()
                assert unused is not None
                with self.scope("attention"):
                    zeros = self.new(*shape)
                unused.received[slot] = zeros
                region.incoming.append(zeros.alias())
                del unused, zeros
            self._refill(region)
        elif node.saved is None:
            assert region is not None
            self._refill(region)
        del region
        saved = node.saved
        assert saved is not None
        assert node.backward is not None
        enabled, component = self.grad_enabled, self.component
        self.grad_enabled, self.component = False, node.component
        made = list(node.backward(incoming, saved))
        if node.region is not None and not node.region.reentrant:
            node.saved = saved = ()  # unpacked by the checkpoint's hook, so held by the call alone
        gradients: Gradients = []
        for index, gradient in enumerate(made):
            made[index] = None
            gradients.append(gradient.fitted(self) if isinstance(gradient, Raw) else gradient)
            del gradient
        self.grad_enabled, self.component = enabled, component
        node.saved = ()
        node.region = None
        node.backward = None
        return gradients

    def _receive(self, node: Node, slot: int, value: Tensor) -> None:
        held = node.received[slot]
        if held is None:
            node.received[slot] = value
        elif sys.getrefcount(held.storage) > 2:
            # Somebody else holds the first gradient: the sum is a new tensor. Otherwise it is added in place.
            node.received[slot] = self.like(held)

    def _accumulate(self, parameter: Parameter) -> None:
        value = parameter.received[0]
        parameter.received = [None]
        if value is not None and self.receives is not None and not parameter.of_graph:
            self.receives(parameter, value)
            return
        if value is None or parameter.grad is not None:
            return
        if parameter.of_graph:
            self.on_graph.append((value, parameter.layer))
        elif self.gradient_share > 1:
            with self.scope("gradients"):
                parameter.grad = self.new(ONE, -(-parameter.elements // self.gradient_share), parameter.itemsize)
        elif value.itemsize != parameter.itemsize or sys.getrefcount(value.storage) > 2:
            with self.scope("gradients"):
                parameter.grad = self.new(ONE, parameter.elements, parameter.itemsize)
        else:
            self.retag(value, "gradients")
            parameter.grad = value

    def retag(self, tensor: Tensor, component: str) -> None:
        """Counts the tensor's storage for another component from now on."""
        if self.log_values is not None:
            return
        storage = tensor.storage
        if storage.component == component:
            return
        self.by_component[storage.component][storage.monomial] -= storage.size
        storage.component = component
        counts = self.by_component.setdefault(component, [0] * (2 * WIDTH))
        counts[storage.monomial] += storage.size

    # ---- repeated layers -------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[Vector, dict[str, Vector]]:
        """What is live now, in total and by component."""
        return tuple(self.live), {name: tuple(values) for name, values in self.by_component.items()}

    @contextmanager
    def group(self, copies: int, copies_per_n: int = 0, *, entering: Tensor | None = None) -> Iterator[None]:
        """A stretch of layers that stands for `copies + copies_per_n · N` equal ones, run once.

        What one copy leaves behind is added for the others; the events of the last copy in forward and of the first
        and the last in backward are the extremes, since live bytes change by the same amount from copy to copy.
        `entering`: the hidden state, in whose place every copy leaves another; whatever else was made before the
        stretch is the same for all copies.
        """
        if entering is not None:
            entering.storage.common = False
        del entering
        group = LayerGroup(len(self.groups) + 1, copies, copies_per_n)
        self.groups.append(group)
        previous, self.layer = self.layer, group.index
        outside, self.outside = self.outside, False
        instant = self.instant
        before = self.snapshot()
        self.begin(instant)
        segment = self.segments[-1]
        segment.group = group.index
        yield
        after = self.snapshot()
        change, parts = _difference(after, before)
        self._repeat(segment, change, parts, copies - 1, copies_per_n)
        self.layer, self.outside = previous, outside
        self.begin(instant)

    def _repeat(
        self, segment: Segment, change: Vector, parts: dict[str, Vector], copies: int, copies_per_n: int
    ) -> None:
        """Counts a stretch's change for its other copies, and its events once more with it."""
        offset = times_copies(change, copies, copies_per_n)
        moved = {name: times_copies(values, copies, copies_per_n) for name, values in parts.items()}
        segment.offsets.append(offset)
        segment.parts.append(moved)
        self.shift(offset, moved)

    def _cross(self, old: int, new: int) -> None:
        if old == new:
            return
        if old:
            group = self.groups[old - 1]
            assert group.entered is not None
            assert group.segment is not None
            change, parts = _difference(self.snapshot(), group.entered)
            self._repeat(group.segment, change, parts, group.copies - 1, group.copies_per_n)
        self.begin(self.instant)
        self.running = None
        if old:
            for common in self.groups[old - 1].common:
                self.shrink(*common)
        if new:
            group = self.running = self.groups[new - 1]
            group.entered = self.snapshot()
            group.segment = self.segments[-1]
            group.segment.group = new


def _difference(
    after: tuple[Vector, dict[str, Vector]], before: tuple[Vector, dict[str, Vector]]
) -> tuple[Vector, dict[str, Vector]]:
    parts = {name: add(values, before[1].get(name, ZERO), -1) for name, values in after[1].items()}
    return add(after[0], before[0], -1), {name: values for name, values in parts.items() if any(values)}


def _count_dependencies(start: Node) -> None:
    stack, seen = [start], {id(start)}
    while stack:
        for edge in stack.pop().edges:
            if edge is None:
                continue
            node = edge[0]
            node.pending += 1
            if id(node) not in seen:
                seen.add(id(node))
                stack.append(node)
