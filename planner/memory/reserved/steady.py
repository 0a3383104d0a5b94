"""When a micro-batch needs no playing: it would do to the large pool what the one that was played last did.

Two micro-batches of a step differ in their gradients: born in the first, added to in the later ones. Where gradients
are small (adapters'), both ask the large pool for the same blocks in the same order. A later one that leaves the
pool's free blocks as it found them therefore says how every further one goes: the same blocks, nothing more reserved.
Only the small pool, which is counted, holds another sum meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.memory.reserved.allocator import Step
from planner.memory.reserved.player import NOTHING, PreparedEvents

Run = tuple[list[Step], Sequence[int]]


def small_most(first: PreparedEvents, later: PreparedEvents, stride: int) -> int | None:
    """Most bytes of the small pool in `later` over those at its start, which `first` does not come to either.

    None where the two ask the large pool for something else, or where the small pool holds more at a moment of `first`
    than of `later` with all gradients beside it. `stride`: keys that are equal in whole strides are those of one
    tensor, copy by copy.
    """
    comparison = _Comparison(stride, sum(first.small.values()))
    if len(first.passages) != len(later.passages):
        return None
    for one, other in zip(first.passages, later.passages, strict=True):
        if one.mark != other.mark or len(one.large) != len(other.large):
            return None
        if not all(comparison.run(*pair) for pair in zip(one.large, other.large, strict=True)):
            return None
        if not comparison.small(one.change, one.most, other.change, other.most):
            return None
    return comparison.most if comparison.is_one_to_one() else None


@dataclass(slots=True)
class _Comparison:
    """Two logs side by side: what the small pool holds over its start, and which tensor is which."""

    stride: int
    gradients: int
    """Bytes that are there during all of the other log, and born in the one."""
    one: int = 0
    other: int = 0
    most: int = 0
    """Of the other."""
    names: dict[int, int] = field(default_factory=dict)
    """Numbers of the one's tensors and the other's."""

    def is_one_to_one(self) -> bool:
        """Whether no two tensors of the one log were the same in the other."""
        return len(set(self.names.values())) == len(self.names)

    def small(self, change: int, most: int, other_change: int, other_most: int) -> bool:
        """What the small pool does once; whether the other log holds as much all the while."""
        highest, other_highest = self.one + most, self.other + other_most
        self.one += change
        self.other += other_change
        self.most = max(self.most, other_highest)
        return highest <= other_highest + self.gradients and self.one <= self.other + self.gradients

    def run(self, one: Run, other: Run) -> bool:
        """A run of steps, copy by copy: the first and the last hold the most, since each adds what the others do."""
        (steps, shifts), (others, other_shifts) = one, other
        if len(steps) != len(others) or list(shifts) != list(other_shifts):
            return False
        begun, other_begun = self.one, self.other
        for step, its in zip(steps, others, strict=True):
            if not self._alike(step, its) or not self.small(step[0], step[1], its[0], its[1]):
                return False
        further = len(shifts) - 1
        if further > 0:  # those in between lie between the first and the last
            self.one += (further - 1) * (self.one - begun)
            self.other += (further - 1) * (self.other - other_begun)
            return all(self.small(s[0], s[1], o[0], o[1]) for s, o in zip(steps, others, strict=True))
        return True

    def _alike(self, step: Step, other: Step) -> bool:
        """Whether both do the same with the same tensor."""
        if step[3] != other[3]:
            return False
        if step[2] == NOTHING or other[2] == NOTHING:
            return step[2] == other[2]
        (name, copy), (other_name, other_copy) = divmod(step[2], self.stride), divmod(other[2], self.stride)
        return copy == other_copy and self.names.setdefault(name, other_name) == other_name
