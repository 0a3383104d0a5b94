"""From a tape to peaks: the upper envelope of all events, evaluated for any number of configurations at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.memory.lean import PIECE_ROWS
from planner.memory.monomials import WIDTH, Vector, add
from planner.memory.tape import Tape

MASK_ROW = 16
"""The efficient kernel pads a mask's rows to a multiple of this (PyTorch attention.cpp, `pad_bias`; read 2026-11)."""
Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Envelope:
    """Events that can be the largest somewhere, with the instant each belongs to.

    `coefficients` is (events, 2·WIDTH); `where` names (segment, event, offset) on the tape for each row.
    """

    coefficients: npt.NDArray[np.int64]
    instants: tuple[str, ...]
    where: tuple[tuple[int, int, int], ...]


def envelope(tape: Tape) -> Envelope:
    """All events of a tape, those that another of the same instant dominates everywhere left out."""
    rows: dict[str, dict[Vector, tuple[int, int, int]]] = {}
    for index, segment in enumerate(tape.ledger.segments):
        found = rows.setdefault(segment.name, {})
        for number, offset in enumerate(segment.offsets):
            for position, event in enumerate(segment.events):
                vector = add(event, offset) if number else event
                found.setdefault(vector, (index, position, number))
    coefficients, instants, where = [], [], []
    for instant, found in rows.items():
        if not found:
            continue
        vectors = np.array(list(found), dtype=np.int64)
        places = list(found.values())
        for row in _skyline(vectors):
            coefficients.append(vectors[row])
            instants.append(instant)
            where.append(places[row])
    return Envelope(np.array(coefficients), tuple(instants), tuple(where))


def _skyline(vectors: Array) -> list[int]:
    """Rows that no other row dominates in every coefficient (all multipliers are non-negative)."""
    order = np.argsort(-vectors.sum(axis=1, dtype=np.float64), kind="stable")
    kept: list[int] = []
    ranked = vectors[order]
    held = np.empty_like(vectors)
    for position, row in enumerate(ranked):
        count = len(kept)
        if count and np.any(np.all(held[:count] >= row, axis=1)):
            continue
        held[count] = row
        kept.append(int(order[position]))
    return kept


def multipliers(batch_size: Array, length: Array, checkpointed: Array, chunk_rows: int) -> npt.NDArray[np.float64]:
    """The monomials' values, (configurations, 2·WIDTH); `chunk_rows`: tokens of one loss chunk. Bytes up to 2^53
    are exact in float64.
    """
    b, s, n = (np.asarray(x, dtype=np.float64) for x in (batch_size, length, checkpointed))
    tokens = b * s
    one = np.ones_like(tokens)
    basis = np.stack(
        [
            one,
            s,
            tokens,
            s * s,
            b * s * s,
            np.minimum(tokens - b, chunk_rows),
            b,
            b * np.ceil(s / 128) * 128,
            tokens - b,
            np.minimum(tokens, PIECE_ROWS),
            tokens * (tokens > PIECE_ROWS),
            s * _aligned(s),
            tokens * _aligned(s),
            s,
            tokens,
            b * s * s,
            np.clip(tokens - PIECE_ROWS, 0, PIECE_ROWS),
        ],
        axis=-1,
    )
    assert basis.shape[-1] == WIDTH
    return np.concatenate([basis, basis * n[..., None]], axis=-1)


def _aligned(length: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The length rounded up to 16, as the efficient kernel wants the rows of a mask."""
    return np.ceil(length / MASK_ROW) * MASK_ROW


def evaluate(found: Envelope, values: npt.NDArray[np.float64]) -> tuple[Array, Array]:
    """Largest live bytes and the row that sets it, for every configuration."""
    live = values @ found.coefficients.T.astype(np.float64)
    binding = live.argmax(axis=-1)
    peak = np.take_along_axis(live, binding[..., None], axis=-1)[..., 0]
    return np.rint(peak).astype(np.int64), binding.astype(np.int64)
