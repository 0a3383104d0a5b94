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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from planner.memory.engine.graph import Gradients, Node, Parameter, Raw, Region, StopRecompute, Tensor
from planner.memory.engine.monomials import ONE
from planner.memory.engine.recording import Recording


def _nothing() -> None:
    """Stands for a recomputation until it is known."""


@dataclass(frozen=True, slots=True)
class HostCopy:
    """A tensor whose bytes are in host memory: all but its storage."""

    monomial: int
    elements: int
    itemsize: int
    node: Node | None
    slot: int
    leaf: bool

    @classmethod
    def of(cls, tensor: Tensor) -> HostCopy:
        """What is left of `tensor` when its bytes go."""
        return cls(tensor.monomial, tensor.elements, tensor.itemsize, tensor.node, tensor.slot, tensor.storage.leaf)


class Tape(Recording):
    """A run's autograd graph, run backward, its checkpoints recomputed."""

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
            region.recompute = partial(self._fetched, weakref.ref(region), function, HostCopy.of(argument))
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
        self, region: Callable[[], Region | None], function: Callable[[Tensor], Tensor], place: HostCopy
    ) -> Tensor:
        """`function` on the argument that comes back from host memory."""
        with self.scope("checkpoints"):
            argument = self.new(place.monomial, place.elements, place.itemsize)
        argument.node, argument.slot = place.node, place.slot
        argument.storage.leaf = place.leaf
        owner = region()
        assert owner is not None
        if owner.reentrant:  # its backward pass runs inside the function that unpacked the input
            owner.fetched = argument
        return function(argument)

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
        del start  # tidy
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
            del results, node  # tidy
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
        del region  # tidy
        saved = node.saved
        assert saved is not None
        assert node.backward is not None
        enabled, component, substitution = self.grad_enabled, self.component, self.substitution
        self.grad_enabled, self.component = False, node.component
        if node.substitution is not None:
            self.substitution = node.substitution
        made = list(node.backward(incoming, saved))
        if node.region is not None and not node.region.reentrant:
            node.saved = saved = ()  # unpacked by the checkpoint's hook, so held by the call alone
        gradients: Gradients = []
        for index, gradient in enumerate(made):
            made[index] = None
            gradients.append(gradient.fitted(self) if isinstance(gradient, Raw) else gradient)
            del gradient  # tidy
        self.grad_enabled, self.component, self.substitution = enabled, component, substitution
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

    @contextmanager
    def group(self, copies: int, copies_per_n: int = 0, *, entering: Tensor | None = None) -> Iterator[None]:
        """A stretch of layers that stands for several (`Ledger.group`).

        `entering`: the hidden state, in whose place every copy leaves another; whatever else was made before the
        stretch is the same for all copies.
        """
        if entering is not None:
            entering.storage.common = False
        del entering  # tidy
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
