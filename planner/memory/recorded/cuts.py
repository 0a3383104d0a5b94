"""Which few layers stand for all: the cut-down network that is traced, and what repeats in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from planner.contract.errors import NotModelled
from planner.contract.spec import ModelSpec
from planner.memory.recorded.log import Window

LONGEST_PERIOD, LONGEST_PREFIX = 16, 8


@dataclass(frozen=True, slots=True)
class Cut:
    """The first `layers` layers of a network, of which the first `checkpointed` are recomputed."""

    layers: int
    checkpointed: int
    windows: tuple[Window, ...]
    copies: tuple[int, ...]
    """How often each window's stretch occurs in the whole network."""
    picked: tuple[int, ...] | None = None
    """Which of the whole network's layers these are; None: the first ones."""

    @property
    def places(self) -> tuple[int, ...]:
        """Which of the whole network's layers these are."""
        return tuple(range(self.layers)) if self.picked is None else self.picked


def cut_of(spec: ModelSpec, checkpointed: int, *, windowless: bool, picked: bool = False) -> Cut:
    """What is traced of a network; windowless: where no length of the program reaches a window (`windowless_cut`);
    picked: layers are left out wherever equal ones follow one another (`picked_cut`)."""
    kinds: list[str] = spec.config["recorded"]["kinds"]
    if picked:
        chosen = picked_cut(tuple(kinds))
        if chosen is None:
            raise NotModelled("its layers are none that fewer stand for")
        return replace(chosen, checkpointed=chosen.layers if checkpointed else 0)
    if not windowless:
        return cut(kinds, checkpointed)
    found = windowless_cut(kinds, by_modules(spec))
    if found is None:
        raise NotModelled("its layers with a window are others than those without")
    return replace(found, checkpointed=found.layers if checkpointed else 0)


def by_modules(spec: ModelSpec) -> list[str]:
    """What each layer is by its modules alone, so that one with a window is none of its own."""
    held: list[list[object]] = [[] for _ in range(spec.total_layers)]
    for module in spec.modules:
        for index in module.layers or ():
            if index < len(held):
                held[index].append((module.path, module.shape, module.bias))
    return [str(found) for found in held]


def windowless_cut(kinds: Sequence[str], plain: Sequence[str]) -> Cut | None:
    """One layer after the other is told more often, whatever its window; None where that takes no fewer layers.

    kinds: with windows told apart; plain: without. A first layer of each kind stands before the stretch and a last one
    behind it: tables that are made for a kind live from the one to the other.
    """
    found = regular(kinds)
    if found is None:
        return None
    prefix, period = found
    start, count = prefix + period, len(kinds)
    rest = next((n for n in range(2, 2 * period) if set(kinds[count - n :]) == set(kinds[prefix:])), 2 * period)
    rest += (count - start - 2 - rest) % period
    copies = count - start - rest
    if start + 2 + rest >= cut(kinds, 0).layers or copies < 2 + period or len(set(plain[start : start + period])) > 1:
        return None
    return Cut(start + 2 + rest, 0, (Window(start, 1),), (copies,))


@cache
def picked_cut(kinds: tuple[str, ...], more: int = 0) -> Cut | None:
    """The fewest layers that stand for all where layers may be left out anywhere: of equal ones in a row two, of equal
    stretches two, of each twofold thing `more` further copies; None where that saves less than a fourth of the layers.

    The first layer and the last one stand by themselves. A stretch's own window comes after those inside it.
    """
    ways = [(len(kinds) - 1, 0, 0), *_stretches(kinds)]
    fewest = min(ways, key=lambda way: _picked(kinds, *way, kept=2).layers)
    if _picked(kinds, *fewest, kept=2).layers * 4 > cut(kinds, 0).layers * 3:
        return None
    return _picked(kinds, *fewest, kept=2 + more)


def _stretches(kinds: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(first layer, period, copies) of every stretch that occurs three times and more, one after the other."""
    count = len(kinds)
    for period in range(2, LONGEST_PERIOD + 1):
        for start in range(1, min(count, LONGEST_PREFIX + period)):
            equal = next((n for n in range(start, count - period) if kinds[n] != kinds[n + period]), count - period)
            copies = (min(equal, count - 1 - period) - start) // period + 1
            if copies > 2:
                yield start, period, copies


def _picked(kinds: Sequence[str], start: int, period: int, copies: int, *, kept: int) -> Cut:
    """The cut whose stretch of `period` layers begins at layer `start`; of equal things in a row the first `kept`."""
    places, windows, occur = [0], [], []

    def take(begin: int, end: int) -> None:
        for _, run in groupby(range(begin, end), key=kinds.__getitem__):
            layers = list(run)
            if len(layers) > 2:
                windows.append(Window(len(places), 1))
                occur.append(len(layers))
            places.extend(layers[:kept] if len(layers) > 2 else layers)

    take(1, start)
    first = len(places)
    for copy in range(min(copies, kept)):
        take(start + copy * period, start + (copy + 1) * period)
    if copies:
        windows.append(Window(first, (len(places) - first) // kept))
        occur.append(copies)
    take(start + copies * period, len(kinds) - 1)
    places.append(len(kinds) - 1)
    return Cut(len(places), 0, tuple(windows), tuple(occur), tuple(places))


def regular(kinds: Sequence[str]) -> tuple[int, int] | None:
    """(layers that stand before the regular part, its period) that leave the fewest layers to trace."""
    count = len(kinds)
    best: tuple[int, int, int] | None = None
    for prefix in range(min(LONGEST_PREFIX, count)):
        for period in range(1, LONGEST_PERIOD + 1):
            if best is not None and prefix + 2 * period + 2 >= best[0]:
                break
            last = (count - prefix - 2) % period + 1
            copies = (count - prefix - 1 - last) // period
            if copies < 2 or any(kinds[i] != kinds[i + period] for i in range(prefix, count - period)):
                continue
            layers = prefix + 1 + 2 * period + last
            if best is None or layers < best[0]:
                best = (layers, prefix, period)
    return None if best is None else best[1:]


def cut(kinds: Sequence[str], checkpointed: int) -> Cut:
    """What is traced for a network whose first `checkpointed` layers are recomputed."""
    count, found = len(kinds), regular(kinds)
    partly = 0 < checkpointed < count
    if partly and checkpointed not in some_counts(kinds):
        raise NotModelled(
            f"recomputing {checkpointed} of {count} layers is not recorded for this model; take none, all"
            + (f", or {some_counts(kinds).start} to {some_counts(kinds).stop - 1}" if some_counts(kinds) else "")
        )
    if found is None:
        return Cut(count, checkpointed, (), ())
    prefix, period = found
    if partly:
        # The last recomputed layer stands by itself: what it hands on is no input of a recomputation.
        windows = (Window(prefix + 1, 1), Window(prefix + 5, 1))
        return Cut(prefix + 8, prefix + 4, windows, (checkpointed - prefix - 2, count - checkpointed - 2))
    last = (count - prefix - 2) % period + 1
    copies = (count - prefix - 1 - last) // period
    layers = prefix + 1 + 2 * period + last
    return Cut(layers, layers if checkpointed else 0, (Window(prefix + 1, period),), (copies,))


def some_counts(kinds: Sequence[str]) -> range:
    """Numbers of recomputed layers between none and all that a recording covers: where all layers but a few first
    ones are alike."""
    found = regular(kinds)
    if found is None or found[1] != 1:
        return range(0)
    return range(found[0] + 4, max(found[0] + 4, len(kinds) - 3))


def counts(kinds: Sequence[str]) -> list[int]:
    """All numbers of recomputed layers that are covered."""
    return [0, *some_counts(kinds), len(kinds)]
