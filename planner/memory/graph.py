"""What stands on a tape: storages, tensors, autograd nodes, checkpointed regions; and the polynomials of their bytes.

Monomials (`BASIS`): 1, S (length), T = B·S (tokens), SS = S², BSS = B·S², C (tokens of one loss chunk, at most
B·(S-1)), B, TR = B·(S rounded up to 128), TL = B·(S-1) (tokens that have a successor), R (tokens of one piece of a lean
function, at most T), TX (T where a batch takes several pieces, else 0), RX (tokens of the second piece), SSP and BSSP
(SS and BSS with the rows rounded up to 16). Of a flat row of sequences (planner.memory.flat) S and T are its tokens,
BSS the sum of squared lengths, SS, SSP and TR of one sequence, L its length, TP and QP the sums of lengths and of
squares up to it. Every coefficient is split in a part that is constant and a part that is multiplied by N, the number
of checkpointed layers, so that one run covers every N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import ReferenceType

if TYPE_CHECKING:
    from planner.memory.tape import Tape

BASIS = ("1", "S", "T", "SS", "BSS", "C", "B", "TR", "TL", "R", "TX", "SSP", "BSSP", "L", "TP", "QP", "RX")
ONE, S, T, SS, BSS, C, B, TR, TL, R, TX, SSP, BSSP, L, TP, QP, RX = range(len(BASIS))
WIDTH = len(BASIS)

Vector = tuple[int, ...]
"""2·WIDTH coefficients in bytes: WIDTH constants, then WIDTH factors of N."""


class StopRecompute(Exception):
    """Raised when a checkpointed region has recomputed its last saved tensor (PyTorch's early stop)."""


class Storage:
    """Bytes that are live from construction until the last reference is gone."""

    __slots__ = ("common", "component", "key", "leaf", "monomial", "size", "tape")

    def __init__(self, tape: Tape, monomial: int, size: int, component: str) -> None:
        self.tape = tape
        self.common = tape.outside
        """Whether it was made in forward outside every repeated stretch, so that the copies of one share it."""
        self.leaf = False
        """Whether it is an activation that asks for a gradient of its own: autocast keeps its 16-bit copy."""
        self.monomial = monomial
        self.size = size
        self.component = component
        self.key = tape.grow(monomial, size, component)

    def __del__(self) -> None:
        tape = self.tape
        if self.common and tape.running is not None:
            tape.running.common.append((self.monomial, self.size, self.component, self.key))
        else:
            tape.shrink(self.monomial, self.size, self.component, self.key)


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

    def fitted(self, tape: Tape) -> Tensor:
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


class Segment:
    """Events of one stretch that repeats: recorded once, valid again at each of `offsets`."""

    __slots__ = ("events", "group", "log", "name", "offsets", "parts")

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Vector] = []
        self.offsets: list[Vector] = [ZERO]
        self.parts: list[dict[str, Vector]] = [{}]
        """The offsets by component."""
        self.group = 0
        """The repeated stretch that runs here, forward or backward; 0 for none."""
        self.log: list[tuple[int, int]] = []
        """(number, bytes) of an allocation, (number of the allocation, -1) of its release."""


ZERO: Vector = (0,) * (2 * WIDTH)


def add(left: Vector, right: Sequence[int], factor: int = 1) -> Vector:
    """left + factor · right, coefficient by coefficient."""
    return tuple(x + factor * y for x, y in zip(left, right, strict=True))


def times_copies(delta: Vector, constant: int, per_n: int) -> Vector:
    """delta · (constant + per_n · N), for a delta without N part or a count without one."""
    fixed, slope = delta[:WIDTH], delta[WIDTH:]
    if per_n and any(slope):
        raise AssertionError("a repeated stretch inside a repeated stretch cannot both depend on N")
    return tuple(x * constant for x in fixed) + tuple(
        x * per_n + y * constant for x, y in zip(fixed, slope, strict=True)
    )


class LayerGroup:
    """Bookkeeping of one repeated stretch."""

    __slots__ = ("common", "copies", "copies_per_n", "entered", "index", "segment")

    def __init__(self, index: int, copies: int, copies_per_n: int) -> None:
        self.index = index
        self.copies = copies
        self.copies_per_n = copies_per_n
        self.entered: tuple[Vector, dict[str, Vector]] | None = None
        self.segment: Segment | None = None
        self.common: list[tuple[int, int, str, int]] = []
        """What all copies share and backward lets go of here: once, with the last copy (arguments of `Tape.shrink`)."""
