"""A recorded step on a tape: the same books, segments and logs that a written program leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from planner.contract.spec import ModelSpec
from planner.memory.engine.ledger import Ledger
from planner.memory.engine.monomials import ONE
from planner.memory.recorded.cuts import cut_of
from planner.memory.recorded.expand import expanded
from planner.memory.recorded.log import HANDED_OVER, RELEASE, Log, Part
from planner.memory.recorded.wanted import log_of
from planner.memory.step.case import Case

_TOLD: deque[tuple[Log, tuple[int, ...], tuple[Part, ...]]] = deque(maxlen=12)
"""(a log, how often its stretches occur, its parts with all layers)."""


def play(ledger: Ledger, case: Case, *, accumulating: bool) -> None:
    """Forward, loss and backward of a case (or its evaluation); what outlives them stays live.

    `accumulating`: gradients of earlier micro-batches are there, and a new one goes when it has been added.
    """
    assert case.checkpointed is not None
    log = log_of(case)
    recomputed = 0 if case.evaluating else case.checkpointed
    parts = _all_layers(log, case.spec, recomputed)
    _Player(ledger, log, accumulating=accumulating and not case.evaluating).play(parts)


def _all_layers(log: Log, spec: ModelSpec, recomputed: int) -> tuple[Part, ...]:
    """The parts of all layers; the last few logs' are kept, since a search plays each of them several times."""
    if not log.windows:  # all layers were traced
        return log.parts
    found = cut_of(spec, recomputed, windowless=log.windowless, picked=log.picked)
    for known, copies, parts in _TOLD:
        if known is log and copies == found.copies:
            return parts
    parts = log.parts
    for window, count in zip(found.windows, found.copies, strict=True):
        parts = expanded(parts, window, count)
    _TOLD.append((log, found.copies, parts))
    return parts


class _Player:
    def __init__(self, ledger: Ledger, log: Log, *, accumulating: bool) -> None:
        self.ledger, self.log, self.accumulating = ledger, log, accumulating
        self.live: dict[int, tuple[int, str, int]] = {}
        """Key -> (size's number, component, key in the ledger's log)."""

    def play(self, parts: Sequence[Part]) -> None:
        """All events; what outlives the last part stays live."""
        phase = ""
        for part in parts:
            if part.phase != phase:
                phase = part.phase
                self.ledger.begin(phase)
                self.ledger.mark()
            for key, code, component in part.events:
                if code >= 0:
                    self._grow(key, code, self.log.components[component])
                elif code == RELEASE or (code == HANDED_OVER and self.accumulating):
                    self._shrink(key)

    def _grow(self, key: int, code: int, component: str) -> None:
        ledger, size = self.ledger, self.log.sizes[code]
        if component == "gradients" and self.accumulating:
            component = "temporaries"  # it is added to the one that is there
        number = 0
        if ledger.log_values is not None:
            total = sum(coefficient * ledger.log_values[monomial] for monomial, coefficient in size)
            ledger.allocations += 1
            number = ledger.allocations
            # What the middle turns of a loop leave is less than nothing where the loop is shorter than its ends.
            ledger.segments[-1].log.append((number, max(0, round(total))))
        elif len(size) == 1:
            ledger.grow(*size[0], component)
        elif size:
            with ledger.silence():
                for monomial, coefficient in size:
                    ledger.grow(monomial, coefficient, component)
            ledger.mark()
        self.live[key] = (code, component, number)

    def _shrink(self, key: int) -> None:
        found = self.live.pop(key, None)
        if found is None:  # a gradient that was handed over
            return
        code, component, number = found
        if self.ledger.log_values is not None:
            self.ledger.shrink(ONE, 0, component, number)
            return
        for monomial, coefficient in self.log.sizes[code]:
            self.ledger.shrink(monomial, coefficient, component, 0)
