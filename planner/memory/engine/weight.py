"""A parameter of the network as programs read it."""

from __future__ import annotations

from planner.memory.engine.graph import Parameter
from planner.memory.engine.monomials import ONE
from planner.memory.engine.tape import Tape


class Weight:
    """A parameter: the tensor the forward reads and, where it is trained, the leaf that collects its gradient."""

    __slots__ = ("parameter", "tensor")

    def __init__(
        self, tape: Tape, elements: int, itemsize: int, *, trainable: bool, component: str = "weights"
    ) -> None:
        with tape.scope(component):
            self.tensor = tape.new(ONE, elements, itemsize)
        self.parameter: Parameter | None = None
        if trainable:
            self.parameter = Parameter(elements, itemsize)
            self.tensor.node = self.parameter
