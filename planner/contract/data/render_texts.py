"""What two texts have in common, in pieces that are compared as a whole."""

from __future__ import annotations

import re
from collections.abc import Sequence

from planner.contract.data.render_engine import Span

_PIECE = re.compile(r"<[^<>\s]{1,60}>|\[[^\[\]\s]{1,60}\]|\w+|.", re.DOTALL)
"""What is compared as a whole, so that `<|user|>` and `<|end|>` share nothing."""


def _split(text: str) -> list[str]:
    return _PIECE.findall(text)


def shared(first: str, second: str) -> str:
    """What both begin with, in whole pieces."""
    length = 0
    second = second[: len(first) + 64]
    for left, right in zip(_split(first), _split(second), strict=False):
        if left != right:
            break
        length += len(left)
    return first[:length]


def shared_visibly(first: str, second: str) -> int:
    """How far `first` begins as `second` does, in whole pieces, where blanks may differ between those that agree."""
    left, right = _split(first), _split(second)
    at = i = j = matched = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            at += len(left[i])
            i, j, matched = i + 1, j + 1, at
        elif left[i].isspace():
            at += len(left[i])
            i += 1
        elif right[j].isspace():
            j += 1
        else:
            break
    return matched


def without_header(after: str, header: str, *, ended: bool) -> str:
    """What ends a conversation; some templates add the header of a further answer whether or not it was asked for.

    `ended`: the turn's own stretch holds an end, so that what looks like the beginning of a header is one.
    """
    bare = header.strip()
    place = 0
    for piece in _split(after):
        rest = after[place:].strip()
        if bare and rest and (rest.startswith(bare) or (ended and bare.startswith(rest))):
            break
        place += len(piece)
    return after[:place] if after[:place].strip() else ""


def longest_inside(head: str, tail: str) -> str:
    """The longest beginning of `head`, in whole pieces, that occurs in `tail`."""
    pieces = _split(head)
    for count in range(len(pieces), 0, -1):
        text = "".join(pieces[:count])
        if text in tail:
            return text
    return ""


def common(first: str, second: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def pieces(text: str, region: Sequence[Span]) -> str:
    return "".join(text[start:end] for start, end in region)
