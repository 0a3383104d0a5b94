"""From the books of a step to peaks: the upper envelope of all events, evaluated for many configurations at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planner.memory.engine.monomials import WIDTH, is_vector
from planner.memory.engine.values import Array

if TYPE_CHECKING:
    from planner.memory.engine.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Envelope:
    """Events that can be the largest somewhere, with the instant each belongs to.

    `coefficients` is (events, 2·WIDTH); `where` names (segment, event, offset) on the tape for each row.
    """

    coefficients: npt.NDArray[np.int64]
    instants: tuple[str, ...]
    where: tuple[tuple[int, int, int], ...]

    def content(self) -> list[object]:
        """The envelope as JSON holds it."""
        return [self.coefficients.tolist(), list(self.instants), [list(place) for place in self.where]]

    @staticmethod
    def is_content(value: object) -> bool:
        """Whether a value that was read is an envelope's content."""
        if not (isinstance(value, list) and len(value) == 3 and all(isinstance(part, list) for part in value)):
            return False
        vectors, instants, where = value
        return (
            len(vectors) == len(instants) == len(where) > 0
            and all(is_vector(vector) for vector in vectors)
            and all(isinstance(name, str) for name in instants)
            and all(isinstance(place, list) and [type(x) for x in place] == [int] * 3 for place in where)
        )

    @classmethod
    def of_content(cls, value: Any) -> Envelope:
        """What `content` made, read back or not."""
        vectors, instants, where = value
        return cls(np.array(vectors, dtype=np.int64), tuple(instants), tuple((a, b, c) for a, b, c in where))


def envelope(ledger: Ledger) -> Envelope:
    """All events of a step, those that another of the same instant dominates everywhere left out."""
    rows: dict[str, dict[bytes, tuple[int, int, int]]] = {}
    for index, segment in enumerate(ledger.segments):
        found = rows.setdefault(segment.name, {})
        events = np.array(segment.events, dtype=np.int64).reshape(-1, 2 * WIDTH)
        for number, offset in enumerate(segment.offsets):
            moved = events + np.array(offset, dtype=np.int64) if number else events
            for position, row in enumerate(moved):
                found.setdefault(row.tobytes(), (index, position, number))
    coefficients, instants, where = [], [], []
    for instant, found in rows.items():
        if not found:
            continue
        vectors = np.frombuffer(b"".join(found), dtype=np.int64).reshape(-1, 2 * WIDTH)
        places = list(found.values())
        for kept in _skyline(vectors):
            coefficients.append(vectors[kept])
            instants.append(instant)
            where.append(places[kept])
    return Envelope(np.array(coefficients), tuple(instants), tuple(where))


def _skyline(vectors: Array) -> list[int]:
    """Rows that no other row dominates in every coefficient (all multipliers are non-negative), the largest first."""
    order = np.argsort(-vectors.sum(axis=1, dtype=np.float64), kind="stable")
    ranked = vectors[order][:, vectors.min(axis=0) < vectors.max(axis=0)]  # where all are equal none is ahead
    kept: list[int] = []
    while len(order):
        kept.append(int(order[0]))  # whatever dominates it would stand before it
        left = ~(ranked[0] >= ranked).all(axis=1)
        order, ranked = order[left], ranked[left]
    return kept


def evaluate(found: Envelope, values: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    """Largest live bytes and the row that sets it, for every configuration."""
    live = values @ found.coefficients.T.astype(np.float64)
    binding = live.argmax(axis=-1)
    peak = np.take_along_axis(live, binding[..., None], axis=-1)[..., 0]
    return np.rint(peak).astype(np.int64), binding.astype(np.int64)
