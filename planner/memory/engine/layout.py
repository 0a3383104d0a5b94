"""Which layers run one after another, and which stretch of them stands for many.

Layers differ by kind (sliding or full attention, dense or sparse MLP, ...). A stretch of equal layers, or of equal
periods of layers, is run once on the tape and counted as often as it occurs. N is the number of checkpointed layers,
always the first ones: the others' activations are gone before a checkpointed layer is recomputed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stretch:
    """`layers` in order, `copies + copies_per_n · N` times over."""

    layers: tuple[int, ...]
    checkpointed: bool
    copies: int = 1
    copies_per_n: int = 0

    @property
    def repeated(self) -> bool:
        """Whether it stands for more than itself."""
        return self.copies != 1 or self.copies_per_n != 0


def period(kinds: Sequence[Hashable]) -> int:
    """The smallest p with kinds[i] == kinds[i + p] everywhere."""
    length = len(kinds)
    for candidate in range(1, length):
        if all(kinds[i] == kinds[i + candidate] for i in range(length - candidate)):
            return candidate
    return max(length, 1)


def symbolic_range(kinds: Sequence[Hashable]) -> range:
    """The N that one symbolic run covers: those that leave two layers or more on both sides, for equal layers only."""
    return range(3, len(kinds) - 2) if period(kinds) == 1 else range(0)


def layout(kinds: Sequence[Hashable], checkpointed: int | None) -> list[Stretch]:
    """The stretches of all layers with the first `checkpointed` of them checkpointed (None: N, kept symbolic).

    The first layer of either part always runs by itself: what enters it differs from what enters the others.
    """
    count = len(kinds)
    if checkpointed is None:
        return [
            Stretch((0,), True),
            Stretch((1,), True, -1, 1),
            Stretch((2,), False),
            Stretch((3,), False, count - 1, -1),
        ]
    return _part(kinds, 0, checkpointed, True) + _part(kinds, checkpointed, count, False)


def stacked(kinds: Sequence[Hashable], checkpointed: int | None, seam: int) -> list[Stretch]:
    """The stretches of an encoder (layers below `seam`) and a decoder, of whose layers together the first N checkpoint.

    Where there are two stacks, what all layers of one share is made by its first layer, so the second is the last to
    let go of it in backward, and the last layer's backward creates its gradient, to which the others add: these run by
    themselves.
    """
    count = len(kinds)
    if checkpointed is None or not 0 < seam < count:
        return layout(kinds, checkpointed)
    stretches = []
    for start, stop in ((0, seam), (seam, count)):
        edge, first, last = min(max(checkpointed, start), stop), start + 1, stop - 1
        stretches.append(Stretch((start,), start < edge))
        stretches += _part(kinds, first, min(edge, last), True) + _part(kinds, max(edge, first), last, False)
        if last > start:
            stretches.append(Stretch((last,), edge == stop))
    return stretches


def _part(kinds: Sequence[Hashable], start: int, stop: int, checkpointed: bool) -> list[Stretch]:
    """Stretches of the layers start..stop-1."""
    if start >= stop:
        return []
    step = period(kinds[start:stop])
    stretches = [Stretch((index,), checkpointed) for index in range(start, min(start + step, stop))]
    position = start + step
    copies = (stop - position) // step if stop > position else 0
    if copies > 0:
        stretches.append(Stretch(tuple(range(position, position + step)), checkpointed, copies))
        position += copies * step
    stretches.extend(Stretch((index,), checkpointed) for index in range(position, stop))
    return stretches
