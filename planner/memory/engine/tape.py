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
from dataclasses import replace
from functools import partial

from planner.memory.engine.graph import (
    Backward,
    Gradients,
    Node,
    Parameter,
    Raw,
    Region,
    StopRecompute,
    Storage,
    Tensor,
)
from planner.memory.engine.ledger import Ledger
from planner.memory.engine.monomials import ONE
from planner.memory.engine.rules import Rules


def _nothing() -> None:
    """Stands for a recomputation until it is known."""


class Tape:
    """The autograd graph of one run, and the operators' way to the ledger."""

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        watch: tuple[int, int] | None = None,
        log_values: Sequence[float] | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self.ledger = Ledger(watch, log_values)
        self.component = "temporaries"
        self.sequence = 0
        self.saving: Region | None = None
        self.refilling: Region | None = None
        self.grad_enabled = True
        self.receives: Callable[[Parameter, Tensor], None] | None = None
        """Takes a parameter's gradient, where gradients are reduced unit by unit (planner.memory.step.exchange)."""
        self.substitution: dict[int, int] = {}
        """Monomials that new tensors have in place of others (those of one sequence, planner.memory.network.flat)."""
        self.autocast_cache: dict[int, tuple[Tensor, int]] = {}
        """16-bit copies of trainable fp32 weights, which autocast keeps until it is left, and the group of each."""
        self.on_graph: list[tuple[Tensor, int]] = []
        """Tensors that functions keep on the graph itself, beside what autograd saves, and the group of each."""
        self.returned: list[tuple[Tensor, int]] = []
        """Tensors that the model's layers return beside the hidden state (keys and values), and the group of each."""
        self.null_storage = Storage(self.ledger, ONE, 0, "temporaries")
        """No bytes: what views of existing tensors stand on."""

    # ---- tensors ---------------------------------------------------------------------------------------------------

    def new(self, monomial: int, elements: int, itemsize: int) -> Tensor:
        """A fresh tensor outside autograd."""
        monomial = self.substitution.get(monomial, monomial)
        return Tensor(Storage(self.ledger, monomial, elements * itemsize, self.component), monomial, elements, itemsize)

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
        previous, self.rules = self.rules, replace(self.rules, autocast=False)
        try:
            yield
        finally:
            self.rules = previous

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
        node.layer = self.ledger.layer
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
            self.on_graph.append((tensor.alias(), self.ledger.layer))

    def leave_graph(self) -> None:
        """The loss and with it the graph go: releases what functions kept on it, in every copy of a stretch."""
        self._release(lambda: self.on_graph.pop() if self.on_graph else None)

    def returns(self, tensor: Tensor) -> None:
        """Makes `tensor` part of what the model returns; a recomputation's is returned to nobody."""
        if self.refilling is None:
            self.returned.append((tensor.alias(), self.ledger.layer))

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
                storage = tensor.storage
                self.ledger.release_copies(index, storage.monomial, storage.size, storage.component)
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
        component, layer = self.component, self.ledger.layer
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
            self.component, self.ledger.layer = component, layer
            region.nodes = []
            if not region.reentrant:
                region.held.clear()

    def backward(self, root: Tensor, gradient: Tensor) -> None:
        """Runs the graph backward from `root`, in PyTorch's order; parameters' gradients are born or added to."""
        start = root.node
        assert start is not None
        root.node = None
        self.ledger.outside = False
        _count_dependencies(start)
        start.received[0] = gradient
        del gradient
        queue: list[tuple[int, Node]] = [(-start.sequence, start)]
        previous_layer = start.layer
        del start
        while queue:
            _, node = heapq.heappop(queue)
            if node.layer != previous_layer:
                self.ledger.cross(previous_layer, node.layer)
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
        self.ledger.cross(previous_layer, 0)

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
        elif self.rules.gradient_share > 1:
            with self.scope("gradients"):
                parameter.grad = self.new(ONE, -(-parameter.elements // self.rules.gradient_share), parameter.itemsize)
        elif value.itemsize != parameter.itemsize or sys.getrefcount(value.storage) > 2:
            with self.scope("gradients"):
                parameter.grad = self.new(ONE, parameter.elements, parameter.itemsize)
        else:
            self.retag(value, "gradients")
            parameter.grad = value

    def retag(self, tensor: Tensor, component: str) -> None:
        """Counts the tensor's storage for another component from now on."""
        storage = tensor.storage
        if self.ledger.log_values is None and storage.component != component:
            self.ledger.move(storage.monomial, storage.size, storage.component, component)
            storage.component = component

    @contextmanager
    def group(self, copies: int, copies_per_n: int = 0, *, entering: Tensor | None = None) -> Iterator[None]:
        """A stretch of layers that stands for several (`Ledger.group`).

        `entering`: the hidden state, in whose place every copy leaves another; whatever else was made before the
        stretch is the same for all copies.
        """
        if entering is not None:
            entering.storage.common = False
        del entering
        with self.ledger.group(copies, copies_per_n):
            yield


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
