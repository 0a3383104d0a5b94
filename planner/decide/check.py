"""One configuration judged: does it fit the budget, how tightly, how fast, why, and what would help.

UI-free: the command line and the wizard both print what stands in the `CheckReport`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from planner.contract.records import CheckReport, ModelSummary
from planner.contract.settings import check_length, fit_to_hardware, to_settings
from planner.contract.spec import HardwareProfile, ModelSpec, TrainingChoices
from planner.decide.reasons import calibration_sentences, explain
from planner.decide.verdict import hardware_summary, predict_speed, verdict_of

if TYPE_CHECKING:
    from planner.data.lengths import Lengths


def check(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    *,
    budget_bytes: int | None = None,
    tokens_per_epoch: int | None = None,
    lengths: Lengths | None = None,
    fixed: Iterable[str] = (),
    tier: str | None = None,
    with_remedies: bool = True,
    notes: Iterable[str] = (),
    meanwhile: Callable[[], None] | None = None,
) -> CheckReport:
    """Judges `choices`.

    `budget_bytes`: device bytes the run may use; None is the profile's total minus its reserve.
    `tokens_per_epoch`: tokens that pass through the model in one epoch, padding included; None: no epoch time.
    `lengths`: those of the data; memory is then that of its heaviest micro-batch. Without it every row is full.
    `fixed`: choices the user named; remedies leave the model's and the data's meaning alone but may change these.
    `notes`: sentences that open the reasons (which default was taken, which format was replaced).
    `meanwhile`: called between the parts that take time; what it raises ends the judgement.
    Raises `InvalidInput` or `NotModelled` for a request without an answer; a configuration that does not fit is an
    answer, not an error.
    """
    from planner import memory
    from planner.models import lora

    budget = hardware.budget_bytes if budget_bytes is None else budget_bytes
    check_length(model, choices)
    fixed = frozenset(fixed)
    asked = choices
    choices, format_notes = fit_to_hardware(asked, hardware, fixed=fixed)
    predicted = memory.predict(model, hardware, choices, budget_bytes=budget, lengths=lengths)
    if meanwhile is not None:
        meanwhile()
    speed = predict_speed(model, hardware, choices, tokens_per_epoch)
    verdict = verdict_of(predicted)
    applied = None if hardware.calibration is None else hardware.calibration.summary()
    remedies = []
    if with_remedies and verdict != "fits":
        from planner.decide.remedies import find_remedies  # most starts need none

        remedies = find_remedies(
            model,
            hardware,
            asked,
            predicted,
            speed,
            lengths,
            choices=choices,
            fixed=fixed,
            meanwhile=meanwhile,
        )
    return CheckReport(
        tier=tier,
        hardware=hardware_summary(hardware),
        model=ModelSummary(
            id=model.id, parameters=model.parameters, trainable_parameters=lora.trainable_parameters(model, choices)
        ),
        settings=to_settings(choices),
        memory=predicted,
        speed=speed,
        verdict=verdict,
        reasons=[*notes, *format_notes, *explain(predicted, verdict, applied), *calibration_sentences(hardware)],
        remedies=remedies,
        calibration=applied,
    )
