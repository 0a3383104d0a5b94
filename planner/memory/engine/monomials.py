"""Bytes as polynomials: what a size may depend on, and vectors of coefficients.

Monomials (`BASIS`): 1, S (length), T = B·S (tokens), SS = S², BSS = B·S², C (tokens of one loss chunk, at most
B·(S-1)), B, TR = B·(S rounded up to 128), TL = B·(S-1) (tokens that have a successor), R (tokens of one piece of a
lean function, at most T), TX (T where a batch takes several pieces, else 0), RX (tokens of the second piece), CX
(tokens of the second loss chunk), SSP and BSSP (SS and BSS with the rows rounded up to 16), K and KK (B times the
pieces that a recurrence takes of a sequence, and B times their square; P and PP those without B; 0 where there is
none). Of a flat row of sequences (network/flat.py) S and T are its tokens, BSS the sum of squared lengths, SS, SSP
and TR of one sequence, L its length, TP and QP the sums of lengths and of squares up to it. Of a decoder whose
answers have a length of their own: U, TU, UU, BUU, TRU, RU, RXU, TXU, UUP and BUUP are S, T, SS … BSSP of the
answers, SU and BSU (SUP and BSUP with S rounded up to 16) what its look at the encoder takes; 0 elsewhere. TE is T
where an embedding's gradient is summed over sorted tokens (beyond 3072), else 0. Every
coefficient is split in a part that is constant and a part that is multiplied by N, the number of checkpointed layers,
so that one run covers every N.
"""

from __future__ import annotations

from collections.abc import Sequence

BASIS = (
    "1",
    "S",
    "T",
    "SS",
    "BSS",
    "C",
    "B",
    "TR",
    "TL",
    "R",
    "TX",
    "SSP",
    "BSSP",
    "L",
    "TP",
    "QP",
    "RX",
    "CX",
    "K",
    "KK",
    "P",
    "PP",
    "U",
    "TU",
    "UU",
    "BUU",
    "SU",
    "BSU",
    "TRU",
    "RU",
    "RXU",
    "TXU",
    "UUP",
    "BUUP",
    "SUP",
    "BSUP",
    "TE",
)
ONE, S, T, SS, BSS, C, B, TR, TL, R, TX, SSP, BSSP, L, TP, QP, RX, CX, K, KK, P, PP = range(22)
U, TU, UU, BUU, SU, BSU, TRU, RU, RXU, TXU, UUP, BUUP, SUP, BSUP = range(22, 36)
TE = 36
WIDTH = len(BASIS)

FP32, HALF, BYTE, INT64 = 4, 2, 1, 8
"""Bytes per element."""

Vector = tuple[int, ...]
"""2·WIDTH coefficients in bytes: WIDTH constants, then WIDTH factors of N."""

ZERO: Vector = (0,) * (2 * WIDTH)


def is_vector(value: object) -> bool:
    """Whether a value that was read is a vector's list of whole numbers."""
    if not isinstance(value, list) or len(value) != 2 * WIDTH or set(map(type, value)) != {int}:
        return False
    return bool(max(value) < 1 << 62 and min(value) > -(1 << 62))


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
