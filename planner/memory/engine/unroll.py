"""A step's log for all layers, unrolled from a run in which one layer of a repeated stretch stands for many.

Inside a stretch of m copies the same allocations and releases happen m times. Two tensors cross from copy to copy: the
hidden state in forward (the one tensor of a copy that outlives the stretch is what the next copy finds as its
input) and
its gradient in backward, where the copies run in reverse (unless one buffer carries it through). Where that pattern
does not hold, nothing is unrolled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Event = tuple[int, int]
"""(key, bytes) of an allocation, (key, -1) of its release; with a key below 0 a mark, which is passed on as it is."""


@dataclass(slots=True)
class LogPart:
    """A stretch of the log: plain, or the forward or backward of a repeated stretch."""

    events: list[Event]
    group: int = 0
    """Number of the repeated stretch it belongs to; 0 for none."""
    backward: bool = False


@dataclass(slots=True)
class _Group:
    forward: LogPart | None = None
    backward: LogPart | None = None
    copies: int = 1
    entering: int | None = None
    """Key of the tensor that enters the first copy in forward and is released inside the stretch."""
    leaving: int | None = None
    """Key of the tensor of a copy that is released outside the stretch."""
    gradient_entering: int | None = None
    gradient_leaving: int | None = None
    forward_keys: set[int] = field(default_factory=set)
    backward_keys: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Copies:
    """Events that happen once for each of `shifts`, which is added to their keys; marks keep theirs."""

    events: list[Event]
    shifts: Sequence[int]
    left: tuple[int, ...] = ()
    """Keys of what no part of the log releases, in the order of its birth."""
    stride: int = 1
    """A power of two: keys that are equal in whole strides are those of one tensor, copy by copy, of one size."""


Log = Sequence[Event | Copies]


def flat(log: Log) -> list[Event]:
    """The log event by event."""
    found: list[Event] = []
    for item in log:
        if isinstance(item, Copies):
            for shift in item.shifts:
                found.extend((key + shift if key >= 0 else key, size) for key, size in item.events)
        else:
            found.append(item)
    return found


def unroll(parts: list[LogPart], copies: dict[int, int]) -> Log | None:
    """The whole log; None where a stretch does not fit the pattern and every layer has to be run."""
    groups = {number: _Group(copies=count) for number, count in copies.items()}
    for part in parts:
        if part.group:
            group = groups[part.group]
            if part.backward:
                if group.backward is not None:
                    return None
                group.backward = part
            else:
                if group.forward is not None:
                    return None
                group.forward = part
    if not all(_analyse(group, parts) for group in groups.values()):
        return None
    return _Unrolling(parts, groups).written()


class _Unrolling:
    """Writes the log: a tensor's key is its number times the stride, and the copy that it is of."""

    def __init__(self, parts: list[LogPart], groups: dict[int, _Group]) -> None:
        self.parts, self.groups = parts, groups
        self.stride = 1 << max((group.copies for group in groups.values()), default=1).bit_length()
        # Outside its stretch the last copy's is meant: in backward that is the first layer's.
        self.last = {group.leaving: group.copies - 1 for group in groups.values() if group.leaving is not None}
        self.gone = {key for part in parts for key, size in part.events if size < 0}

    def written(self) -> Log:
        log: list[Event | Copies] = []
        for part in self.parts:
            if not part.group:
                log.extend((self._outside(key), size) for key, size in part.events)
                continue
            group = self.groups[part.group]
            copies = range(group.copies)[::-1] if part.backward else range(group.copies)
            # The first layer finds what no copy made, in backward the last one does too.
            before, after = (1, max(group.copies - 1, 1)) if part.backward else (1, group.copies)
            for copy in copies[:before]:
                log.extend(self._copy(part, group, copy))
            if before < after:
                log.append(self._middle(part, group, copies[before:after]))
            for copy in copies[after:]:
                log.extend(self._copy(part, group, copy))
        return log

    def _outside(self, key: int) -> int:
        return key if key < 0 else key * self.stride + self.last.get(key, 0)

    def _copy(self, part: LogPart, group: _Group, copy: int) -> Iterator[Event]:
        for key, size in part.events:
            yield self._key(key, group, copy), size

    def _key(self, key: int, group: _Group, copy: int) -> int:
        if key < 0:
            return key
        if key in group.forward_keys or key in group.backward_keys:
            return key * self.stride + copy
        if key == group.entering and copy:
            assert group.leaving is not None
            return group.leaving * self.stride + copy - 1
        if key == group.gradient_entering and copy < group.copies - 1:
            assert group.gradient_leaving is not None
            return group.gradient_leaving * self.stride + copy + 1
        return self._outside(key)

    def _middle(self, part: LogPart, group: _Group, copies: Sequence[int]) -> Copies:
        """Copies between the first and the last: their keys differ by the copy's number."""
        one = copies[0]
        events = [
            (key if key < 0 else written - one, size)
            for (key, size), (written, _) in zip(part.events, self._copy(part, group, one), strict=True)
        ]
        left = tuple(key * self.stride for key, size in part.events if size >= 0 <= key and key not in self.gone)
        return Copies(events, copies, left, self.stride)


def _analyse(group: _Group, parts: list[LogPart]) -> bool:
    """Finds what crosses the copies; False where more or less than one tensor does either way."""
    forward, backward = group.forward, group.backward
    if forward is None:
        return False
    group.forward_keys = {key for key, size in forward.events if size >= 0 <= key}
    own = [forward] if backward is None else [forward, backward]
    if backward is not None:
        group.backward_keys = {key for key, size in backward.events if size >= 0 <= key}
    inside = {key for part in own for key, size in part.events if size < 0}
    outside = {key for part in parts if part not in own for key, size in part.events if size < 0}
    leaving = group.forward_keys & outside
    foreign = inside - group.forward_keys - group.backward_keys
    born = _birthplaces(parts, foreign)
    entering = {key for key in foreign if not born[key]}
    gradient_entering = foreign - entering
    gradient_leaving = group.backward_keys & outside
    if len(leaving) != 1 or len(entering) != 1:
        return False
    if len(gradient_leaving) != len(gradient_entering) or len(gradient_leaving) > 1:
        return False
    group.leaving, group.entering = leaving.pop(), entering.pop()
    if gradient_leaving:  # else one buffer is added to in place through all layers
        group.gradient_leaving, group.gradient_entering = gradient_leaving.pop(), gradient_entering.pop()
    return True


def _birthplaces(parts: list[LogPart], keys: set[int]) -> dict[int, bool]:
    """For every key, whether it was allocated after backward began (a gradient) or before."""
    found: dict[int, bool] = {}
    begun = False
    for part in parts:
        begun = begun or part.backward
        for key, size in part.events:
            if size >= 0 and key in keys:
                found[key] = begun or part.group < 0
    return found
