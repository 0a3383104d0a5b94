"""The monomials' values: what batch, length and the lengths of a ragged micro-batch make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.memory.engine.monomials import (
    BSS,
    BSSP,
    CX,
    ONE,
    QP,
    RX,
    SS,
    SSP,
    TE,
    TL,
    TP,
    TR,
    TX,
    WIDTH,
    B,
    C,
    L,
    R,
    S,
    T,
    U,
)

Array = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MASK_ROW = 16
"""The efficient kernel pads a mask's rows to a multiple of this (PyTorch attention.cpp, `pad_bias`; read 2026-11)."""
PIECE_ROWS = 2048
SORTED_ROWS = 3072
"""Tokens beyond which CUDA sorts them for an embedding's gradient (native/cuda/EmbeddingBackwardKernel.cu, 2.13)."""
"""Tokens that a piece of a lean function handles at a time (trainer.modeling.lean.rows.ROWS)."""
CHUNK_BYTES = 256 * 1024**2
"""fp32 logits that one chunk of the chunked loss may hold (trainer.modeling.chunked, same rule)."""


def chunk_rows(vocab_size: int) -> int:
    """Tokens whose logits the chunked loss holds at a time: a power of two from 64 to 4096."""
    fitting = max(1, CHUNK_BYTES // (4 * vocab_size))
    return min(4096, max(64, 1 << (fitting.bit_length() - 1)))


def turns(length: Any, piece: int) -> Any:
    """Pieces of `piece` tokens (0: none) that a recurrence takes of a sequence."""
    return -(-length // piece) if piece else 0 * length


def multipliers(
    batch_size: Array,
    length: Array,
    checkpointed: Array,
    chunk_rows: Array | int,
    recurrent_piece: int = 0,
    *,
    every_token: bool = False,
    answers: int = 0,
) -> npt.NDArray[np.float64]:
    """The monomials' values, (configurations, 2·WIDTH); `recurrent_piece`: tokens that a recurrence takes at a time.

    `answers`: tokens of a decoder's answers; 0: as many as `length`. `chunk_rows`: tokens of one loss chunk, of each
    row's tokens but the last or, with `every_token`, of all. Bytes up to 2^53 are exact in float64.
    """
    b, s, n = (np.asarray(x, dtype=np.float64) for x in (batch_size, length, checkpointed))
    tokens = b * s
    labelled = tokens if every_token else tokens - b
    one, k = np.ones_like(tokens), turns(s, recurrent_piece)
    basis = np.stack(
        [
            one,
            s,
            tokens,
            s * s,
            b * s * s,
            np.minimum(labelled, chunk_rows),
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
            np.clip(labelled - chunk_rows, 0, chunk_rows),
            b * k,
            b * k * k,
            k,
            k * k,
            *(_of_answers(b, s, answers) if answers else [0 * one] * (TE - U)),
            tokens * (tokens > SORTED_ROWS),
        ],
        axis=-1,
    )
    assert basis.shape[-1] == WIDTH
    return np.concatenate([basis, basis * n[..., None]], axis=-1)


def _of_answers(b: Floats, s: Floats, answers: int) -> list[Floats]:
    """The values of U to BSUP for answers of so many tokens."""
    u = np.full_like(s, answers)
    tokens = b * u
    return [
        u,
        tokens,
        u * u,
        tokens * u,
        s * u,
        tokens * s,
        b * np.ceil(u / 128) * 128,
        np.minimum(tokens, PIECE_ROWS),
        np.clip(tokens - PIECE_ROWS, 0, PIECE_ROWS),
        tokens * (tokens > PIECE_ROWS),
        u * _aligned(u),
        tokens * _aligned(u),
        u * _aligned(s),
        tokens * _aligned(s),
    ]


def _aligned(length: Floats) -> Floats:
    """The length rounded up to 16, as the efficient kernel wants the rows of a mask."""
    return np.ceil(length / MASK_ROW) * MASK_ROW


def row_multipliers(lengths: Sequence[int], checkpointed: int, chunk_rows: int) -> npt.NDArray[np.float64]:
    """The monomials' values while each sequence of a flat row is attended, (different sequences, 2·WIDTH)."""
    own = np.asarray(lengths, dtype=np.float64)
    tokens, count = own.sum(), len(own)
    aligned = np.ceil(own / MASK_ROW) * MASK_ROW
    values = np.zeros((count, WIDTH))
    for monomial, value in (
        (ONE, 1.0),
        (S, tokens),
        (T, tokens),
        (BSS, (own**2).sum()),
        (BSSP, (own * aligned).sum()),
        (B, count),
        (C, min(tokens - count, chunk_rows)),
        (TL, tokens - count),
        (R, min(tokens, PIECE_ROWS)),
        (TX, tokens * (tokens > PIECE_ROWS)),
        (TE, tokens * (tokens > SORTED_ROWS)),
        (RX, min(max(tokens - PIECE_ROWS, 0), PIECE_ROWS)),
        (CX, min(max(tokens - count - chunk_rows, 0), chunk_rows)),
        (L, own),
        (SS, own**2),
        (SSP, own * aligned),
        (TR, np.ceil(own / 128) * 128),
        (TP, own.cumsum()),
        (QP, (own**2).cumsum()),
    ):
        values[:, monomial] = value
    values = np.unique(values, axis=0)
    return np.concatenate([values, values * checkpointed], axis=-1)
