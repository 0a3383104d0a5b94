"""How a network is cut for a recording: for the traces that are fitted, and with more layers for the one held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.contract.spec import ModelSpec
from planner.memory.recorded.cuts import Cut, by_modules, cut_of, picked_cut, some_counts, windowless_cut
from planner.memory.recorded.expand import expanded
from planner.memory.recorded.log import Log, Part

MOST_WHOLE_LAYERS = 64
"""Of a network that is traced whole, where one with fewer layers is another."""


@dataclass(frozen=True, slots=True)
class CutPair:
    """How a network is cut: for the traces that are fitted, and with more layers for the one that is held out."""

    found: Cut
    longer: Cut
    copies: tuple[int, ...]
    """How often each window's stretch occurs in the longer one."""
    windowless: bool = False
    picked: bool = False

    def told(self, log: Log) -> Log:
        """The log as the longer cut has it."""
        parts: tuple[Part, ...] = log.parts
        for window, copies in zip(log.windows, self.copies, strict=True):
            parts = expanded(parts, window, copies)
        return replace(log, parts=parts)


def plain_cuts(spec: ModelSpec, asked: Mapping[str, Any]) -> CutPair:
    """With one copy more of each stretch held out, where that is not the whole network."""
    found = cut_of(spec, _count(spec.config["recorded"]["kinds"], asked), windowless=False)
    if not found.windows or any(copies < 3 for copies in found.copies):
        return CutPair(found, found, (2,) * len(found.windows))
    return CutPair(found, _with_more(found, 1), (3,) * len(found.windows))


def picked_cuts(spec: ModelSpec, asked: Mapping[str, Any], *, certain: bool | None) -> CutPair | None:
    """The cut that leaves layers out anywhere, held out with one copy more of everything; the first of a network
    (`certain` None) with all layers. None where nothing is gained, or (False) it did not come out."""
    kinds = tuple(spec.config["recorded"]["kinds"])
    short, longer = picked_cut(kinds), picked_cut(kinds, 1)
    if certain is False or asked["checkpointed"] == "some" or short is None or longer is None:
        return None
    count = _count(kinds, asked)
    found = replace(short, checkpointed=short.layers if count else 0)
    if certain is None and len(kinds) <= MOST_WHOLE_LAYERS:
        whole = whole_cut(spec, found)
        return CutPair(found, whole.longer, found.copies, picked=True)
    longer = replace(longer, checkpointed=longer.layers if count else 0)
    return CutPair(found, longer, (3,) * len(found.windows), picked=True)


def whole_cut(spec: ModelSpec, found: Cut) -> CutPair:
    """All layers, all of them recomputed or none as in the cut that was found."""
    count = spec.total_layers
    every = Cut(count, count if found.checkpointed else 0, (), ())
    return CutPair(every, every, ())


def windowless_cuts(spec: ModelSpec, asked: Mapping[str, Any], plain: Cut) -> CutPair | None:
    """The cut where layers with and without a window are one kind, held out with both kinds among the further ones;
    None where nothing is gained."""
    kinds = spec.config["recorded"]["kinds"]
    if asked["windowed"] or asked["checkpointed"] == "some" or not plain.windows:
        return None
    if windowless_cut(kinds, by_modules(spec)) is None:
        return None
    found, more = cut_of(spec, _count(kinds, asked), windowless=True), plain.windows[0].period
    return CutPair(found, _with_more(found, more), (2 + more,) * len(found.windows), windowless=True)


def _with_more(found: Cut, copies: int) -> Cut:
    """The same cut with further copies of each stretch."""
    before = sum(window.period for window in found.windows if window.start + 2 * window.period <= found.checkpointed)
    more = sum(window.period for window in found.windows)
    return replace(found, layers=found.layers + copies * more, checkpointed=found.checkpointed + copies * before)


def _count(kinds: Sequence[str], asked: Mapping[str, object]) -> int:
    if asked["evaluating"] or asked["checkpointed"] == "none":
        return 0
    return len(kinds) if asked["checkpointed"] == "all" else some_counts(kinds).start
