"""One configuration judged: does it fit the budget, how tightly, how fast, why, and what would help.

UI-free: the command line and the wizard both print what stands in the `CheckReport`.
"""

from __future__ import annotations

from collections.abc import Callable

from planner.contract.records import CheckReport, ModelSummary
from planner.contract.settings import check_length
from planner.decide import own_runs
from planner.decide.question import Question
from planner.decide.reasons import basis, calibration_sentences, explain
from planner.decide.verdict import hardware_summary, predict_speed, verdict_of


def check(
    question: Question, *, with_remedies: bool = True, meanwhile: Callable[[], None] | None = None
) -> CheckReport:
    """Judges the question's choices.

    `meanwhile`: called between the parts that take time; what it raises ends the judgement.
    Raises `InvalidInput` or `NotModelled` for a request without an answer; a configuration that does not fit is an
    answer, not an error.
    """
    from planner import memory
    from planner.models import lora

    model, hardware = question.model, question.hardware
    check_length(model, question.choices)
    choices, format_notes = question.fitted()
    predicted = memory.predict(model, hardware, choices, budget_bytes=question.budget_bytes, lengths=question.lengths)
    if meanwhile is not None:
        meanwhile()
    speed = predict_speed(model, hardware, choices, question.tokens_per_epoch)
    verdict = verdict_of(predicted)
    own = own_runs.summary(model, hardware, choices, speed)
    applied = None if hardware.calibration is None else hardware.calibration.summary()
    if own is not None:
        applied = {**(applied or {"applied": False}), "own_runs": own}
    remedies = []
    if with_remedies and verdict != "fits":
        from planner.decide.remedies import Judged, find_remedies  # most starts need none

        judged = Judged(question=question, choices=choices, memory=predicted, speed=speed)
        remedies = find_remedies(judged, meanwhile=meanwhile)
    return CheckReport(
        hardware=hardware_summary(hardware),
        model=ModelSummary(
            id=model.id, parameters=model.parameters, trainable_parameters=lora.trainable_parameters(model, choices)
        ),
        settings=choices,
        memory=predicted,
        speed=speed,
        verdict=verdict,
        reasons=[
            *(*question.notes, *format_notes),
            *(
                *explain(predicted, verdict, applied, basis(hardware)),
                *calibration_sentences(hardware),
                *own_runs.sentences(own),
            ),
        ],
        remedies=remedies,
        calibration=applied,
    )
