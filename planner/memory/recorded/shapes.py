"""At which shapes a step is traced for a program, and what its sizes may depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.contract.spec import ModelSpec
from planner.memory.engine.monomials import BSS, BSSP, CX, KK, ONE, PP, RX, SS, SSP, TE, TL, TR, B, C, K, P, R, S, T
from planner.memory.recorded.fit import Point
from planner.memory.recorded.wanted import CHUNKS, PIECES, UNPADDED, recurrent_piece

WHOLE = 1 << 20
"""A piece or chunk that takes every token of a traced shape."""
SHAPES = ((5, 224), (2, 240), (3, 368))
HELD_OUT = (4, 368)
SINGLE = ((1, 240), (1, 368), (1, 480))
SINGLE_HELD_OUT = (1, 608)
"""(batch, length): beyond half of a 128, so that kernels which round to 64 and to 128 round alike."""
HELD_OUT_OF_512 = (1, 112)
"""In its place for networks of no more positions."""
SHORT, SHORT_HELD_OUT = ((5, 96), (2, 112), (3, 144)), (4, 176)
"""The same for networks that go through a sequence token by token: a trace takes as long as its sequence is."""
FURTHER = 7
"""Sequences of a fourth shape for recurrences, whose sizes may hold more terms."""
PIECEWISE = ((11, 1), (10, 3), (14, 2), (8, 3))
PIECEWISE_HELD_OUT = (12, 1)
"""(pieces that a recurrence takes, steps that its last one lacks where it is none whole) in place of those lengths. The
first, at which other programs' sizes are recognised, is no length that a network's widths are multiples of."""
STEP = 16
"""Tokens of such a step, or a fourth of the piece where that is less."""


def shapes(spec: ModelSpec, asked: Mapping[str, Any]) -> tuple[list[Point], Point]:
    """The shapes that are traced, and the one that is held out."""
    recurrent = recurrent_piece(spec)
    if recurrent == 1:
        whole = [*SHORT, SHORT_HELD_OUT]
        whole = [(1, length) for _, length in whole] if asked["single"] else whole
    elif not asked["single"]:
        whole = [*SHAPES, HELD_OUT]
    else:
        few = 0 < spec.max_positions < SINGLE_HELD_OUT[1]
        whole = [*SINGLE, HELD_OUT_OF_512 if few else SINGLE_HELD_OUT]
    if recurrent > 1:
        whole.insert(-1, (1 if asked["single"] else FURTHER, 0))
    pieces, chunks, unpadded = (asked["regime"] & bit for bit in (PIECES, CHUNKS, UNPADDED))
    points = []
    for number, (batch, length) in enumerate(whole):
        if recurrent > 1:
            turns, missing = (*PIECEWISE, PIECEWISE_HELD_OUT)[number]
            length = turns * recurrent - (0 if unpadded else missing * min(STEP, recurrent // 4))
        if asked["windowed"]:
            step = -(-128 // recurrent) * recurrent if recurrent > 1 else 128
            length += -(-(spec.sliding_window or 0) // step) * step
        if asked["unaligned"] and not unpadded:
            length += 5
        tokens = batch * length
        # Two pieces, two chunks: of other shares of the tokens at every shape, so that nothing stands in one ratio.
        piece = tokens * (6 + number) // 11 if pieces else WHOLE
        chunk = (tokens - batch) * (19 - 2 * number) // 20 if chunks else WHOLE
        points.append(Point(batch=batch, length=length, piece=piece, chunk=chunk, recurrent_piece=recurrent))
    return points[:-1], points[-1]


def terms(spec: ModelSpec, asked: Mapping[str, Any]) -> list[int]:
    """Monomials that sizes may hold in a program."""
    found = [ONE, T, BSS, TR, TE] if asked["single"] else [ONE, T, S, B, BSS, SS, TR, TL, TE]
    if asked["regime"] & PIECES:
        found += [R, RX]
    if asked["regime"] & CHUNKS:
        found += [C, CX]
    if asked["unaligned"]:
        found += [BSSP] if asked["single"] else [SSP, BSSP]
    if recurrent_piece(spec) > 1:
        found += [K, KK] if asked["single"] else [K, KK, P, PP]
    return found
