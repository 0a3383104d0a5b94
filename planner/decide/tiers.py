"""The four tiers: which candidate each takes, and that the exact prediction keeps what the candidates promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.contract.records import CheckReport
from planner.decide.candidates import Candidates
from planner.decide.question import TIER_NAMES
from planner.decide.verdict import TIGHT_SHARE

SAME_SPEED = 0.01
"""Candidates within this share of the fastest step count as equally fast; the one with the least memory is taken."""


ROUNDS = 4
"""How often a tier is picked again after the exact prediction said more than the candidate did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """How much of the budget a tier may fill."""

    name: str
    budget_share: float


TIERS = tuple(
    Tier(name=name, budget_share=share) for name, share in zip(TIER_NAMES, (1.0, 0.80, 0.60, 0.45), strict=True)
)
"""Shares: training guide 1 (tiers for A10G and M3) uses 1 : 0.8 : 0.6 of the high tier on the A10G; its safe mode on
the M3 is the next step down. Training guide 3 too says to fill about 80 %."""


def inside(candidates: Candidates, budget_bytes: int) -> NDArray[np.bool_]:
    """Which candidates fit: with their interval and not tightly, or, where none does, with their peak alone."""
    safe = (candidates.upper <= budget_bytes) & (candidates.device <= TIGHT_SHARE * budget_bytes)
    return safe if safe.any() else candidates.device <= budget_bytes


def pick_tiers(candidates: Candidates, budget_bytes: int) -> list[int] | None:
    """Index of each tier's candidate in the order of `TIERS`; None if nothing fits. All have the same length.

    Each lower tier is held under the one before, so memory never grows from tier to tier.
    """
    safe = inside(candidates, budget_bytes)
    if not safe.any():
        return None
    # The length is the first, in the order in which lengths are wanted, at which anything fits.
    length = next(n for n in dict.fromkeys(candidates.length.tolist()) if (safe & (candidates.length == n)).any())
    safe &= candidates.length == length
    picks: list[int] = []
    ceiling = int(candidates.upper[safe].max())
    for tier in TIERS:
        here = safe & (candidates.upper <= ceiling)
        share = here & (candidates.upper <= tier.budget_share * budget_bytes)
        index = _fastest(candidates, share) if share.any() else _smallest(candidates, here)
        picks.append(index)
        ceiling = int(candidates.upper[index])
    return picks


def _fastest(candidates: Candidates, mask: NDArray[np.bool_]) -> int:
    seconds = candidates.seconds[mask]
    return _smallest(candidates, mask & (candidates.seconds <= seconds.min() * (1 + SAME_SPEED)))


def _smallest(candidates: Candidates, mask: NDArray[np.bool_]) -> int:
    where = np.flatnonzero(mask)
    # Among equal memory the fastest, then the fewest recomputed layers.
    order = np.lexsort((candidates.checkpointed_layers[where], candidates.seconds[where], candidates.upper[where]))
    return int(where[order[0]])


def choose(
    candidates: Candidates, budget_bytes: int, judge: Callable[[int], CheckReport]
) -> list[tuple[int, CheckReport]] | None:
    """Each tier's candidate with its judgement; None if nothing fits. `judge` predicts one candidate exactly.

    Candidates carry reserved bytes by a rule, the exact prediction replays the allocator. Where it says more than the
    tier may have, candidates are raised by that ratio and the tier picked again; the tiers below profit from it.
    """
    seen: dict[int, CheckReport] = {}
    ratio, raised = 1.0, candidates
    chosen: list[tuple[int, CheckReport]] = []
    for number, tier in enumerate(TIERS):
        for _ in range(ROUNDS):
            picks = pick_tiers(raised, budget_bytes)
            if picks is None:
                return _one_for_all(candidates, judge, seen)
            index = picks[number]
            promised_upper, promised_device = int(raised.upper[index]), int(raised.device[index])
            report = seen.get(index) or judge(index)
            seen[index] = report
            ratio = max(ratio, report.memory.interval_bytes[1] / int(candidates.upper[index]))
            raised = _raised(candidates, ratio, seen)
            if _kept(tier, report, promised_upper, promised_device, budget_bytes):
                break
        else:
            return _one_for_all(candidates, judge, seen)
        if chosen and report.memory.device_peak_bytes > chosen[-1][1].memory.device_peak_bytes:
            index, report = chosen[-1]  # a tier never takes more than the one above
        chosen.append((index, report))
    return chosen


def _raised(candidates: Candidates, ratio: float, seen: dict[int, CheckReport]) -> Candidates:
    """The candidates with larger peaks, and the exact ones where they are known."""
    upper, device = (candidates.upper * ratio).astype(np.int64), (candidates.device * ratio).astype(np.int64)
    for index, report in seen.items():
        upper[index], device[index] = report.memory.interval_bytes[1], report.memory.device_peak_bytes
    return replace(candidates, upper=upper, device=device)


def _kept(tier: Tier, report: CheckReport, promised_upper: int, promised_device: int, budget_bytes: int) -> bool:
    """Whether the judgement is inside every limit that the candidate was picked for."""
    memory = report.memory
    limits = (tier.budget_share * budget_bytes, float(budget_bytes))
    if any(promised_upper <= limit < memory.interval_bytes[1] for limit in limits):
        return False
    safe = TIGHT_SHARE * budget_bytes
    if promised_device <= safe < memory.device_peak_bytes:
        return False
    return memory.device_peak_bytes <= budget_bytes


def _one_for_all(
    candidates: Candidates, judge: Callable[[int], CheckReport], seen: dict[int, CheckReport]
) -> list[tuple[int, CheckReport]] | None:
    """The smallest candidate for every tier, where no set of four could be found; None if it does not fit either."""
    index = int(np.argmin(candidates.upper))
    report = seen.get(index) or judge(index)
    return None if report.verdict == "does_not_fit" else [(index, report)] * len(TIERS)


SAME_PEAK, SAME_STEP = 0.01, 0.03
"""Tiers whose peaks and steps are within these shares of each other are one: 1 % of the memory is worth no time."""


def distinct(picked: list[tuple[int, CheckReport]], named: str) -> tuple[list[tuple[int, CheckReport]], dict[str, int]]:
    """The tiers without those that equal the one before, and the place of each tier's among them.

    Of equal ones the name `named` stays, else the first's.
    """
    kept: list[tuple[int, CheckReport]] = []
    places: dict[str, int] = {}
    for tier, (index, report) in zip(TIERS, picked, strict=True):
        if not kept or not _same(kept[-1], (index, report)):
            kept.append((index, report.model_copy(update={"tier": tier.name})))
        elif tier.name == named:
            kept[-1] = (kept[-1][0], kept[-1][1].model_copy(update={"tier": named}))
        places[tier.name] = len(kept) - 1
    return kept, places


def _same(one: tuple[int, CheckReport], other: tuple[int, CheckReport]) -> bool:
    if one[0] == other[0]:
        return True
    first, second = one[1], other[1]
    peaks = first.memory.device_peak_bytes, second.memory.device_peak_bytes
    if abs(peaks[0] - peaks[1]) > SAME_PEAK * max(peaks):
        return False
    if first.speed is None or second.speed is None:
        return first.speed is second.speed
    return abs(first.speed.step_seconds - second.speed.step_seconds) <= SAME_STEP * first.speed.step_seconds
