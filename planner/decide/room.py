"""What a plan with room to spare keeps in place of making it again: bytes for time, within its tier's share.

Stack `builtin` makes the MLP's activation and the norms again in backward by default: of all ways to save bytes the
cheapest, so it is the last to go. Only where no layer is recomputed is there room worth having.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.contract.choices import MADE_AGAIN, TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.records import CheckReport
from planner.contract.units import format_bytes
from planner.decide.check import check
from planner.decide.question import Question
from planner.decide.tiers import SAME_SPEED, TIERS
from planner.decide.verdict import TIGHT_SHARE

WORDS = {"mlp": "MLP activations", "norms": "norms"}


def kept(
    question: Question, options: list[tuple[int, CheckReport]], meanwhile: Callable[[], None]
) -> list[tuple[int, CheckReport]]:
    """The tiers' candidates, each keeping what its share has room for, if that makes it faster.

    No tier takes more than the one before it.
    """
    found: list[tuple[int, CheckReport]] = []
    ceiling = question.budget_bytes
    for index, report in options:
        if _may_keep(question, report.settings):
            meanwhile()
            report = _with_room(question, report, ceiling)
        found.append((index, report))
        ceiling = min(ceiling, report.memory.interval_bytes[1])
    return found


def _may_keep(question: Question, choices: TrainingChoices) -> bool:
    """Whether nothing is recomputed, nobody named what is made again, and other programs are at hand.

    On a CPU nothing is gained (measured: docs/lean.md, "Made again").
    """
    model = question.model
    free = "made_again" not in question.fixed and choices.stack == "builtin" and "recorded" not in model.config
    return free and question.hardware.kind != "cpu" and choices.checkpointed_layers(model.total_layers) == 0


def _with_room(question: Question, report: CheckReport, ceiling: int) -> CheckReport:
    """The same configuration that makes nothing again, where it fits its tier and is faster; else as it was."""
    if report.speed is None:
        return report
    choices = replace(report.settings, made_again=())
    share = next(tier.budget_share for tier in TIERS if tier.name == report.tier)
    limit = min(share * question.budget_bytes, ceiling)
    if _peak(question, choices) > limit:
        return report
    try:
        roomy = check(replace(question, choices=choices, notes=()), with_remedies=False)
    except NotModelled:
        return report
    fits = roomy.memory.interval_bytes[1] <= limit
    fits &= roomy.memory.device_peak_bytes <= TIGHT_SHARE * question.budget_bytes
    if not fits or roomy.speed is None or gain(report, roomy) < SAME_SPEED:
        return report
    return roomy.model_copy(update={"tier": report.tier})


def _peak(question: Question, choices: TrainingChoices) -> int:
    """Upper end of the device's peak by the grid, which is quicker than the exact check."""
    from planner import memory

    try:
        found = memory.predict_grid(
            question.model, question.hardware, choices, choices.batch_size, choices.max_length, 0, data=question.lengths
        )
    except NotModelled:
        return question.budget_bytes + 1
    return int(found.upper[0])


def gain(before: CheckReport, after: CheckReport) -> float:
    """Share of the step's time that is saved."""
    if before.speed is None or after.speed is None:
        return 0.0
    return before.speed.step_seconds / after.speed.step_seconds - 1


def lines(before: CheckReport, after: CheckReport) -> list[str]:
    """What is kept in place of made again, and what that takes and brings; nothing where nothing is."""
    gone = set(before.settings.made_again) - set(after.settings.made_again)
    if not gone:
        return []
    more = after.memory.device_peak_bytes - before.memory.device_peak_bytes
    pieces = " and ".join(WORDS[piece] for piece in MADE_AGAIN if piece in gone)
    return [f"Room is used to keep {pieces}: {format_bytes(more)} for {gain(before, after):+.1%} tokens/s."]
