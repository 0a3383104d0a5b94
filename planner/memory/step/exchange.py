"""FSDP's weights come and go, ZeRO-2's gradients are reduced: what a rank holds beside its parts, event by event.

Sources, read 2026-11: PyTorch 2.13 torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py and _fsdp_collectives.py;
DeepSpeed 0.19.8 runtime/zero/stage_1_and_2.py.
A unit is gathered into one buffer and copied out into its weights; the buffer of one layer lives until the next one's
is copied out, in backward the next layer's is fetched while this one runs. After its backward pass a layer's weights
go, its gradients are copied into one buffer (the reduce-scatter's input, which lives until the next layer's) and 1/n
of their sum remains. What stands outside the layers is whole throughout.
"""

from __future__ import annotations

from planner.contract.choices import ZERO_BUCKET
from planner.memory.engine.graph import Gradients, Parameter, Tensor
from planner.memory.engine.monomials import ONE
from planner.memory.engine.tape import Tape
from planner.memory.step.sharding import MASTER as FP32
from planner.memory.step.sharding import Units


class Exchange:
    """Gathers and reduces on the tape; the trainer's grouping (`trainer.distributed.sharded`)."""

    def __init__(
        self, tape: Tape, units: Units, *, ranks: int, accumulates: bool, widened: int = 1, lingers: bool = False
    ) -> None:
        self.tape = tape
        self.units = units
        self.ranks = ranks
        self.widened = widened
        """By how much wider a rank keeps a gradient than backward makes it (fp32 parts of 16-bit copies)."""
        self.lingering: list[Tensor] | None = [] if lingers else None
        """Inputs of the layers and their gradients, where they stay until backward is over: FSDP 1 over frozen weights
        under re-entrant checkpoints. Its hook on a layer's detached input is a cycle of references (PyTorch 2.4
        torch/distributed/fsdp/_runtime_utils.py, `_register_post_backward_reshard_only_hook`;
        torch/autograd/graph.py, `register_multi_grad_hook`), as two published series show."""
        self.accumulates = accumulates
        """Whether reduced gradients are added to those of earlier micro-batches."""
        self.outside: list[Tensor] = []
        """The root's weights, and the buffer of the layer that runs or comes next."""
        self.whole: dict[int, Tensor] = {}
        self.inside = False
        """Whether a layer's backward pass runs."""
        self.unreduced: list[Tensor] = []
        """Gradients of the layer that runs."""
        self.outer: list[Tensor] = []
        """Gradients of what stands outside the layers."""
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
            self._reduce(self.unreduced)
            self.inside = False
            if self.lingering is not None and incoming[0] is not None:
                self.lingering += [saved[0].alias(), incoming[0].alias()]
            return [incoming[0]]

        kept = () if self.lingering is None else (x.alias(),)
        return self.tape.record(x.alias(), [x], kept, after)

    def leave(self, x: Tensor, index: int) -> Tensor:
        """A layer ends: its weights go. In backward this is its beginning."""
        self.whole.pop(index, None)

        def before(incoming: Gradients, saved: tuple[Tensor, ...]) -> Gradients:
            self._gather(index)
            self.inside = True
            return [incoming[0]]

        return self.tape.record(x.alias(), [x], (), before)

    def finish(self) -> None:
        """The backward pass is over: what is left is reduced, and nothing is whole any more."""
        self.whole.clear()
        if self.units.embedding and self.outer:
            self._reduce([self.outer.pop()])
        del self.outside[1:]
        self._reduce(self.outer)
        self.sent = None
        self.outside.clear()
        if self.lingering is not None:
            self.lingering.clear()

    def receive(self, parameter: Parameter, value: Tensor) -> None:
        """A parameter's gradient stays whole until its unit is done."""
        if value.itemsize != parameter.itemsize:
            with self.tape.scope("gradients"):
                value = self.tape.new(ONE, parameter.elements, parameter.itemsize)
        (self.unreduced if self.inside else self.outer).append(value)

    def _gather(self, index: int) -> None:
        with self.tape.scope("communication"):
            self.whole[index] = self.tape.new(ONE, self.units.layers[index], 1)

    def _reduce(self, gradients: list[Tensor]) -> None:
        total = sum(value.elements * value.itemsize for value in gradients)
        self.sent = None
        if not total:
            return
        with self.tape.scope("communication"):
            self.sent = self.tape.new(ONE, total, 1)
        gradients.clear()
        with self.tape.scope("gradients"):
            part = self.tape.new(ONE, -(-total * self.widened // self.ranks), 1)
        if not self.accumulates:
            self.reduced.append(part)


class Reduction:
    """ZeRO-2's gradients where everything is trained (`trainer.distributed.divided`).

    They wait until a bucket is full, are copied to be reduced, and 1/n remains: of every n-th parameter, so that a
    rank's part grows evenly. Where all fit one bucket, they wait to the end of the pass. Else a bucket that waits and
    its copy count throughout, and a tensor larger than a bucket is copied by itself.
    """

    def __init__(self, tape: Tape, *, elements: int, itemsize: int, ranks: int, held: bool) -> None:
        self.tape = tape
        self.single = elements <= ZERO_BUCKET
        self.itemsize = itemsize
        self.ranks = ranks
        # 16-bit gradients are added up in one fp32 tensor, which `held` says is there from earlier micro-batches; fp32
        # ones are kept beside earlier ones until the end.
        self.in_place = itemsize != FP32
        self.sum = 0 if held or not self.in_place else -(-FP32 * elements // ranks)
        self.waiting: list[Tensor] = []
        self.parts: list[Tensor] = []
        tape.receives = self.receive

    def begin(self) -> None:
        """The backward pass begins."""
        if not self.single:
            with self.tape.scope("communication"):
                self.waiting.append(self.tape.new(ONE, 2 * ZERO_BUCKET * self.itemsize, 1))

    def receive(self, parameter: Parameter, value: Tensor) -> None:
        """A parameter's gradient is whole."""
        with self.tape.scope("gradients"):
            if value.itemsize != parameter.itemsize:
                value = self.tape.new(ONE, parameter.elements, parameter.itemsize)
        size = parameter.elements * parameter.itemsize
        if not self.single:
            self._add_up()
        if self.single:
            self.waiting.append(value)
        else:
            if parameter.elements > ZERO_BUCKET:
                self._copy(size)
            self._keep(size)

    def finish(self) -> None:
        """The backward pass is over."""
        if self.single:
            size = sum(value.elements * value.itemsize for value in self.waiting)
            self._add_up()
            self._copy(size)
            self.waiting.clear()
            self._keep(size)
        self.waiting.clear()

    def update(self, *, kept: bool) -> None:
        """Before the update: parts that were kept beside earlier ones have been added to them."""
        if kept:
            self.parts.clear()

    def _add_up(self) -> None:
        """The fp32 sum is made at the first reduction."""
        if self.sum:
            with self.tape.scope("gradients"):
                self.parts.append(self.tape.new(ONE, self.sum, 1))
            self.sum = 0

    def _copy(self, size: int) -> None:
        with self.tape.scope("communication"):
            copy = self.tape.new(ONE, size, 1)
        del copy

    def _keep(self, size: int) -> None:
        if not self.in_place:
            with self.tape.scope("gradients"):
                self.parts.append(self.tape.new(ONE, -(-size // self.ranks), 1))
