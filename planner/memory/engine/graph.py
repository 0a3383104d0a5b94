"""What stands on a tape: storages, tensors, autograd nodes, checkpointed regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol
from weakref import ReferenceType

from planner.memory.engine.ledger import Ledger


class Maker(Protocol):
    """Who makes tensors: the tape."""

    def new(self, monomial: int, elements: int, itemsize: int) -> Tensor:
        """A fresh tensor outside autograd."""

    def like(self, tensor: Tensor, itemsize: int | None = None) -> Tensor:
        """A fresh tensor of the same shape, outside autograd."""


class StopRecompute(Exception):
    """Raised when a checkpointed region has recomputed its last saved tensor (PyTorch's early stop)."""


class Storage:
    """Bytes that are live from construction until the last reference is gone."""

    __slots__ = ("common", "component", "key", "leaf", "ledger", "monomial", "size")

    def __init__(self, ledger: Ledger, monomial: int, size: int, component: str) -> None:
        self.ledger = ledger
        self.common = ledger.outside
        """Whether it was made in forward outside every repeated stretch, so that the copies of one share it."""
        self.leaf = False
        """Whether it is an activation that asks for a gradient of its own: autocast keeps its 16-bit copy."""
        self.monomial = monomial
        self.size = size
        self.component = component
        self.key = ledger.grow(monomial, size, component)

    def __del__(self) -> None:
        ledger = self.ledger
        if self.common and ledger.running is not None:
            ledger.running.common.append((self.monomial, self.size, self.component, self.key))
        else:
            ledger.shrink(self.monomial, self.size, self.component, self.key)


class Tensor:
    """A view of a storage: `elements` per unit of `monomial`, `itemsize` bytes each.

    `node` and `slot` name the autograd output it is, where a gradient flows. Every holder has its own `Tensor`, so that
    the storage's reference count says who else holds the bytes.
    """

    __slots__ = ("elements", "itemsize", "monomial", "node", "slot", "storage")

    def __init__(self, storage: Storage, monomial: int, elements: int, itemsize: int) -> None:
        self.storage = storage
        self.monomial = monomial
        self.elements = elements
        self.itemsize = itemsize
        self.node: Node | None = None
        self.slot = 0

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows back through this tensor."""
        return self.node is not None

    def alias(self, elements: int | None = None) -> Tensor:
        """Another tensor on the same storage, outside autograd (as `detach`); `elements` where it is a part."""
        return Tensor(self.storage, self.monomial, self.elements if elements is None else elements, self.itemsize)

    def same(self) -> Tensor:
        """Another handle on the same tensor, the autograd edge included (as `view`, whose node keeps nothing)."""
        other = self.alias()
        other.node, other.slot = self.node, self.slot
        return other


class Raw:
    """A gradient that the engine still sums over broadcast dimensions and casts to the input's dtype.

    It does so when the node's own code has returned (torch/csrc/autograd/engine.cpp, `validate_outputs`): saved tensors
    that a checkpoint recomputed are gone by then, others are not.
    """

    __slots__ = ("itemsize", "size", "tensor")

    def __init__(self, tensor: Tensor, size: tuple[int, int], itemsize: int) -> None:
        self.tensor: Tensor | None = tensor
        self.size = size
        self.itemsize = itemsize

    def fitted(self, tape: Maker) -> Tensor:
        """The gradient as the input needs it."""
        made, self.tensor = self.tensor, None
        assert made is not None
        if self.size != (made.monomial, made.elements):
            made = tape.new(*self.size, made.itemsize)
        return made if made.itemsize == self.itemsize else tape.like(made, self.itemsize)


Gradients = list["Tensor | None"]
Backward = Callable[[Gradients, "tuple[Tensor, ...]"], "Sequence[Tensor | Raw | None]"]
"""Gets the gradients of the outputs and the saved tensors; returns a gradient (or None) for every input edge."""


class Node:
    """One autograd node: edges to the nodes of its inputs, the tensors it saved, the rule of its backward."""

    __slots__ = (
        "__weakref__",
        "backward",
        "component",
        "edges",
        "layer",
        "pending",
        "received",
        "region",
        "saved",
        "sequence",
        "substitution",
    )

    def __init__(
        self,
        sequence: int,
        edges: tuple[tuple[Node, int] | None, ...],
        saved: tuple[Tensor, ...],
        backward: Backward | None,
        outputs: int = 1,
    ) -> None:
        self.sequence = sequence
        self.edges = edges
        self.saved: tuple[Tensor, ...] | None = saved
        self.backward = backward
        self.received: Gradients = [None] * outputs
        self.component = "temporaries"
        self.pending = 0
        self.layer = 0
        self.region: Region | None = None
        self.substitution: dict[int, int] | None = None
        """What its backward makes is of these monomials in place of others; None: of those that the tape is at."""


class Parameter(Node):
    """The accumulating leaf of a trainable tensor; its gradient, once born, stays until `Tape.zero_grad`.

    `of_graph`: only the graph holds the leaf, and its gradient goes with the graph.
    """

    __slots__ = ("component", "elements", "grad", "itemsize", "of_graph")

    def __init__(self, elements: int, itemsize: int, *, of_graph: bool = False) -> None:
        super().__init__(1 << 62, (), (), None)
        self.elements = elements
        self.itemsize = itemsize
        self.grad: Tensor | None = None
        self.of_graph = of_graph


class Region:
    """A checkpointed stretch: its nodes keep no tensors until the first of them runs backward and all are
    recomputed.
    """

    __slots__ = (
        "__weakref__",
        "cursor",
        "fetched",
        "further",
        "held",
        "incoming",
        "last",
        "nodes",
        "output",
        "recompute",
        "reentrant",
    )

    def __init__(self, recompute: Callable[[], object], *, reentrant: bool = False) -> None:
        self.recompute: Callable[[], object] | None = recompute
        self.nodes: list[ReferenceType[Node]] = []
        """Its nodes in order; one whose graph nobody holds is gone, and what a recomputation saves for it goes too."""
        self.cursor = 0
        self.last = -1
        self.fetched: Tensor | None = None
        """The input, back from host memory, which a reentrant checkpoint holds through its backward."""
        self.output: Tensor | None = None
        """The recomputed output, which a reentrant checkpoint holds through its backward."""
        self.incoming: list[Tensor] = []
        """The gradient of its output, which a reentrant checkpoint holds likewise."""
        self.further: list[tuple[ReferenceType[Node], int, tuple[int, int, int]]] = []
        """Node, slot and shape (monomial, elements, bytes per element) of outputs that nobody uses further on: backward
        hands a re-entrant checkpoint zeros in place of their gradients."""
        self.reentrant = reentrant
        self.held: list[Tensor] = []
        """What functions keep on the graph of the recomputation itself."""
