"""A step's log for all layers, unrolled from a run in which one layer of a repeated stretch stands for many.

Inside a stretch of m copies the same allocations and releases happen m times. Two tensors cross from copy to copy: the
hidden state in forward (the one tensor of a copy that outlives the stretch is what the next copy finds as its
input) and
its gradient in backward, where the copies run in reverse (unless one buffer carries it through). Where that pattern
does not hold, nothing is unrolled.
"""

from __future__ import annotations

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


def unroll(parts: list[LogPart], copies: dict[int, int]) -> list[Event] | None:
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
    stride = max(copies.values(), default=1) + 1
    out: list[Event] = []
    last = {
        key: group.copies - 1
        for group in groups.values()
        for key in (group.leaving, group.gradient_leaving)
        if key is not None
    }
    for part in parts:
        if not part.group:
            out.extend((key * stride + last.get(key, 0) if key >= 0 else key, size) for key, size in part.events)
            continue
        group = groups[part.group]
        for turn in range(group.copies):
            copy = group.copies - 1 - turn if part.backward else turn
            _emit(out, part, group, copy, turn, stride, last)
    return out


def _emit(
    out: list[Event], part: LogPart, group: _Group, copy: int, turn: int, stride: int, last: dict[int, int]
) -> None:
    own_forward, own_backward = group.forward_keys, group.backward_keys
    for key, size in part.events:
        if key < 0:
            out.append((key, size))
        elif key in own_forward:
            out.append((key * stride + copy, size))
        elif key in own_backward:
            out.append((key * stride + turn, size))
        elif key == group.entering and copy:
            assert group.leaving is not None
            out.append((group.leaving * stride + copy - 1, size))
        elif key == group.gradient_entering and turn:
            assert group.gradient_leaving is not None
            out.append((group.gradient_leaving * stride + turn - 1, size))
        else:
            out.append((key * stride + last.get(key, 0), size))


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
