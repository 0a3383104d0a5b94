"""Forward: tensors are made, and what each operator saves for backward is recorded (`tape.Tape` runs it backward)."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from planner.memory.engine.graph import (
    Backward,
    Node,
    Parameter,
    Region,
    StopRecompute,
    Storage,
    Tensor,
)
from planner.memory.engine.ledger import Ledger
from planner.memory.engine.monomials import ONE
from planner.memory.engine.rules import Rules


class Recording:
    """The autograd graph of a run while it is made, and the operators' way to the ledger."""

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
        """Monomials that new tensors have in place of others: those of one sequence (planner.memory.network.flat) or
        of a decoder's answers (planner.memory.network.answers)."""
        self.unaligned = self.rules.unaligned
        """Whether rows of the masks that run now are padded for the efficient kernel."""
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
                known.substitution = self.substitution or None
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
        node.substitution = self.substitution or None
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
            del taken  # tidy
            if index and sys.getrefcount(tensor.storage) == 2:
                storage = tensor.storage
                self.ledger.release_copies(index, storage.monomial, storage.size, storage.component)
                del storage  # tidy

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

    def retag(self, tensor: Tensor, component: str) -> None:
        """Counts the tensor's storage for another component from now on."""
        storage = tensor.storage
        if self.ledger.log_values is None and storage.component != component:
            self.ledger.move(storage.monomial, storage.size, storage.component, component)
            storage.component = component
