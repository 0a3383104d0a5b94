"""Why the recommended micro-batch is what it is, in one line: against larger ones, and against the guides' settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.contract.records import CheckReport
from planner.contract.sentence import named, sentence
from planner.contract.units import format_bytes
from planner.decide.candidates import Candidates
from planner.decide.question import Question

WORTH = 0.03
"""Gain of speed under which more memory is not worth it."""
GUIDES_BATCH = 8
"""Micro-batch of guide 1's fastest tier; its guides recompute every layer."""

WORDS = {"mlp": "MLP activations", "norms": "norms"}
"""What is made again, as a person calls it."""


def batch_lines(question: Question, candidates: Candidates, index: int, chosen: CheckReport) -> list[str]:
    """At most one line: what a larger micro-batch would bring, and what the guides' would take."""
    if chosen.speed is None:
        return []
    here = np.flatnonzero(candidates.length == candidates.length[index])
    parts = [_larger(question, candidates, here, index), _guides(question, candidates, here, index)]
    said = "; ".join(part for part in parts if part)
    if not said:
        return []
    batch, steps = int(candidates.batch_size[index]), int(candidates.accumulation[index])
    return [f"{batch} × {steps}: {said}."]


def _larger(question: Question, candidates: Candidates, here: np.ndarray, index: int) -> str:
    """The next larger micro-batch at its fastest that fits."""
    larger = here[candidates.batch_size[here] > candidates.batch_size[index]]
    if not larger.size:
        return "no larger micro-batch divides the effective batch"
    size = int(candidates.batch_size[larger].min())
    same = larger[candidates.batch_size[larger] == size]
    fitting = same[candidates.upper[same] <= question.budget_bytes]
    if not fitting.size:
        least = int(candidates.upper[same].min())
        return f"a micro-batch of {size} does not fit ({format_bytes(least)} even with everything recomputed)"
    best = int(fitting[np.argmin(candidates.seconds[fitting])])
    gain = candidates.seconds[index] / candidates.seconds[best] - 1
    steps = int(candidates.accumulation[best])
    if gain < 0:
        return f"{size} × {steps} leaves less room to keep what is made again, {-gain:.0%} slower"
    verdict = "not worth it" if gain < WORTH else sentence("take it with ", named("goal"), " fastest")
    return sentence(
        f"{size} × {steps} takes {format_bytes(int(candidates.device[best]))} for {gain:+.1%} tokens/s, ", verdict
    )


def _guides(question: Question, candidates: Candidates, here: np.ndarray, index: int) -> str:
    """The guides' micro-batch with every layer recomputed, against the recommended one."""
    layers = question.model.total_layers
    theirs = here[(candidates.batch_size[here] == GUIDES_BATCH) & (candidates.checkpointed_layers[here] == layers)]
    if not theirs.size or candidates.batch_size[index] == GUIDES_BATCH:
        return ""
    one = int(theirs[0])
    slower = candidates.seconds[one] / candidates.seconds[index] - 1
    pace = f"{abs(slower):.0%} {'slower' if slower > 0 else 'faster'}" if abs(slower) >= 0.005 else "as fast"
    return f"the guides' {GUIDES_BATCH} with recomputation takes {format_bytes(int(candidates.device[one]))}, {pace}"


def kept_lines(candidates: Candidates, index: int, options: Sequence[tuple[int, CheckReport]]) -> list[str]:
    """What is kept in place of made again in backward, and what that takes and brings; nothing where nothing is.

    Against the tier that makes it again, where there is one, so that its row and this line say the same.
    """
    if not candidates.keeps[index]:
        return []
    shape = (candidates.batch_size, candidates.length, candidates.checkpointed_layers)
    alike = np.logical_and.reduce([values == values[index] for values in shape])
    before = int(np.flatnonzero(alike & ~candidates.keeps)[0])
    tiers = dict(options)
    if before in tiers:
        peaks = {place: tiers[place].memory.device_peak_bytes for place in (before, index)}
    else:
        peaks = {place: int(candidates.device[place]) for place in (before, index)}
    gain = candidates.seconds[before] / candidates.seconds[index] - 1
    pieces = " and ".join(WORDS[piece] for piece in candidates.base.made_again)
    more = format_bytes(peaks[index] - peaks[before])
    return [f"Room is used to keep {pieces}: {more} for {gain:+.1%} tokens/s."]
