"""FSDP's weights come and go: what a rank holds beside its own parts, event by event.

Source: PyTorch 2.13 torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py and _fsdp_collectives.py, read 2026-11.
A unit is gathered into one buffer and copied out into its weights; the buffer of one layer lives until the next one's
is copied out, in backward the next layer's is fetched while this one runs. After its backward pass a layer's weights
go, its gradients are copied into one buffer (the reduce-scatter's input, which lives until the next layer's) and 1/n
of their sum remains. What stands outside the layers is whole throughout.
"""

from __future__ import annotations

from planner.memory.graph import ONE, Gradients, Parameter, Tensor
from planner.memory.sharding import Units
from planner.memory.tape import Tape


class Exchange:
    """Gathers and reduces on the tape; the trainer's grouping (`trainer.distributed.sharded`)."""

    def __init__(self, tape: Tape, units: Units, *, ranks: int, accumulates: bool) -> None:
        self.tape = tape
        self.units = units
        self.ranks = ranks
        self.accumulates = accumulates
        """Whether reduced gradients are added to those of earlier micro-batches."""
        self.outside: list[Tensor] = []
        """The root's weights, and the buffer of the layer that runs or comes next."""
        self.whole: dict[int, Tensor] = {}
        self.unreduced: list[Tensor] = []
        self.sent: Tensor | None = None
        self.reduced: list[Tensor] = []
        tape.receives = self.receive

    def begin(self) -> None:
        """The forward pass begins: embeddings are gathered, used and let go; the root stays."""
        with self.tape.scope("communication"):
            self.outside = [self.tape.new(ONE, self.units.root, 1)]
            first = [self.tape.new(ONE, self.units.embedding, 1) for _ in range(2)]
            del first
            self.outside.append(self.tape.new(ONE, max(self.units.layers), 1))

    def enter(self, x: Tensor, index: int) -> Tensor:
        """A layer begins: its weights are whole. In backward this is its end: they go, and gradients are reduced."""
        self._gather(index)

        def after(incoming: Gradients, saved: tuple[Tensor, ...]) -> Gradients:
            self.whole.pop(index, None)
            self._reduce()
            return [incoming[0]]

        return self.tape.record(x.alias(), [x], (), after)

    def leave(self, x: Tensor, index: int) -> Tensor:
        """A layer ends: its weights go. In backward this is its beginning."""
        self.whole.pop(index, None)

        def before(incoming: Gradients, saved: tuple[Tensor, ...]) -> Gradients:
            self._gather(index)
            return [incoming[0]]

        return self.tape.record(x.alias(), [x], (), before)

    def finish(self) -> None:
        """The backward pass is over: what is left is reduced, and nothing is whole any more."""
        self.whole.clear()
        del self.outside[1:]
        self._reduce()
        self.sent = None
        self.outside.clear()

    def receive(self, parameter: Parameter, value: Tensor) -> None:
        """A parameter's gradient stays whole until its unit is done."""
        if value.itemsize != parameter.itemsize:
            with self.tape.scope("gradients"):
                value = self.tape.new(ONE, parameter.elements, parameter.itemsize)
        self.unreduced.append(value)

    def _gather(self, index: int) -> None:
        with self.tape.scope("communication"):
            self.whole[index] = self.tape.new(ONE, self.units.layers[index], 1)

    def _reduce(self) -> None:
        total = sum(value.elements * value.itemsize for value in self.unreduced)
        self.sent = None
        if not total:
            return
        with self.tape.scope("communication"):
            self.sent = self.tape.new(ONE, total, 1)
        self.unreduced.clear()
        with self.tape.scope("gradients"):
            part = self.tape.new(ONE, -(-total // self.ranks), 1)
        if not self.accumulates:
            self.reduced.append(part)
