"""What a layer program is made of; each module beside this one that is a program ends with its `PROGRAM`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from planner.memory.engine.graph import Tensor
from planner.memory.network.net import Net


class BoundLayer(Protocol):
    """A layer with all that it takes besides the hidden states."""

    def __call__(self, x: Tensor) -> Tensor:
        """Its output."""

    def offloaded(self) -> Callable[[Tensor], Tensor]:
        """The layer on copies of what it takes that come back from host memory."""


@dataclass(frozen=True, slots=True)
class Program:
    """The forward of one architecture in four parts."""

    embed: Callable[[Net], Tensor]
    layer: Callable[[Net, Tensor, int], Tensor]
    final: Callable[[Net, Tensor], Tensor]
    head: str = "lm_head"
    kind: Callable[[Net, int], Hashable] = lambda net, index: 0
    """What distinguishes the layer at an index from others in bytes."""
    finish: Callable[[Net, list[Tensor], list[Tensor]], Tensor] | None = None
    """Head and loss where they are not the causal ones; takes its input out of the first list, so that nobody else
    holds it, and puts logits that are kept into the second."""
    between: Callable[[Net, Tensor], Tensor] | None = None
    """What runs between an encoder's layers and a decoder's, which count on from `spec.num_layers`."""
    bind: Callable[[Net, int], BoundLayer] | None = None
    """Instead of `layer`: the layer at an index with all it takes besides the hidden states, which it holds on to."""
