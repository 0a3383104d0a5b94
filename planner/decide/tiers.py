"""The four tiers: which candidate each takes, and that the exact prediction keeps what the candidates promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.contract.records import CheckReport
from planner.decide.candidates import Candidates
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
    open_length: int
    """Longest length it takes where neither the user nor the data says one: those of training guide 1 (A10G)."""


TIERS = (
    Tier(name="high", budget_share=1.0, open_length=2048),
    Tier(name="balanced", budget_share=0.80, open_length=1024),
    Tier(name="low", budget_share=0.60, open_length=768),
    Tier(name="safe", budget_share=0.45, open_length=768),
)
"""Shares: training guide 1 (tiers for A10G and M3) uses 1 : 0.8 : 0.6 of the high tier on the A10G; its safe mode on
the M3 is the next step down. Training guide 3 too says to fill about 80 %."""


def pick_tiers(candidates: Candidates, budget_bytes: int, *, open_length: bool) -> list[int] | None:
    """Index of each tier's candidate in the order of `TIERS`; None if nothing fits.

    Each lower tier is held under the one before, so memory never grows from tier to tier.
    """
    safe = (candidates.upper <= budget_bytes) & (candidates.device <= TIGHT_SHARE * budget_bytes)
    if not safe.any():
        # Only tight configurations are left: better said so than refused.
        safe = candidates.device <= budget_bytes
        if not safe.any():
            return None
    picks: list[int] = []
    ceiling = int(candidates.upper[safe].max())
    # dict.fromkeys keeps the order in which lengths are wanted.
    wanted = [int(length) for length in dict.fromkeys(candidates.length.tolist())]
    for tier in TIERS:
        under = safe & (candidates.upper <= ceiling)
        lengths = [n for n in wanted if not open_length or n <= tier.open_length] or [min(wanted)]
        length = next((n for n in lengths if (under & (candidates.length == n)).any()), None)
        if length is None:
            length = int(candidates.length[under].max())
        here = under & (candidates.length == length)
        inside = here & (candidates.upper <= tier.budget_share * budget_bytes)
        index = _fastest(candidates, inside) if inside.any() else _smallest(candidates, here)
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
    candidates: Candidates, budget_bytes: int, judge: Callable[[int], CheckReport], *, open_length: bool
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
            picks = pick_tiers(raised, budget_bytes, open_length=open_length)
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
