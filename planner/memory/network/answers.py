"""A decoder whose answers have a length of their own: what its tensors are made of in place of the source's monomials.

Tensors carry their monomial with them, so that only what is made anew is renamed; a node's backward renames as its
forward did (`Node.substitution`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from planner.memory.engine.monomials import (
    BSS,
    BSSP,
    BSU,
    BSUP,
    BUU,
    BUUP,
    RU,
    RX,
    RXU,
    SS,
    SSP,
    SU,
    SUP,
    TU,
    TX,
    TXU,
    UU,
    UUP,
    R,
    S,
    T,
    U,
)
from planner.memory.network.net import Net

OF_SOURCE: Mapping[int, int] = {}
OF_ANSWERS = {T: TU, S: U, SS: UU, BSS: BUU, R: RU, RX: RXU, TX: TXU, SSP: UUP, BSSP: BUUP}
OF_BOTH = {SS: SU, BSS: BSU, SSP: SUP, BSSP: BSUP}
"""Answers' rows, the source's columns: what a decoder's look at the encoder makes."""


@contextmanager
def source(net: Net) -> Iterator[None]:
    """What is made inside has the source's length."""
    with _lengths(net, OF_SOURCE, net.tape.rules.unaligned):
        yield


@contextmanager
def answers(net: Net) -> Iterator[None]:
    """What is made inside has the answers' length, where they have one."""
    with _lengths(net, OF_ANSWERS, net.unaligned_answers):
        yield


@contextmanager
def both(net: Net) -> Iterator[None]:
    """What is made inside stands between answers and source."""
    with _lengths(net, OF_BOTH, net.tape.rules.unaligned):
        yield


@contextmanager
def _lengths(net: Net, renamed: Mapping[int, int], unaligned: bool) -> Iterator[None]:
    tape = net.tape
    if not net.answers:
        yield
        return
    before = tape.substitution, tape.unaligned
    tape.substitution, tape.unaligned = dict(renamed), unaligned
    try:
        yield
    finally:
        tape.substitution, tape.unaligned = before
