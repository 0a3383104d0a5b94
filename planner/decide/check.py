"""One configuration judged: does it fit the budget, how tightly, how fast, why, and what would help.

UI-free: the command line and the wizard both print what stands in the `CheckReport`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from planner.contract.errors import NotModelled
from planner.contract.records import CheckReport, MemoryReport, ModelSummary, SpeedReport, Verdict
from planner.contract.settings import check_length, fit_to_hardware, to_settings
from planner.contract.spec import HardwareProfile, ModelSpec, TrainingChoices
from planner.contract.units import format_bytes, format_deviation

if TYPE_CHECKING:
    from planner.data.lengths import Lengths

TIGHT_SHARE = 0.95
"""Share of the budget above which a peak counts as tight even where its interval fits: a rule of this tool.

The interval covers the prediction's error, not what a desktop or a second process takes in the meantime."""

INSTANT_TEXT = {
    "load": "while the model is loaded",
    "forward": "at the end of the forward pass",
    "loss": "while the loss is computed",
    "backward": "in the backward pass",
    "optimizer": "in the optimizer's step",
    "eval": "during evaluation",
    "save": "while a checkpoint is saved",
}

COMPONENT_TEXT = {
    "weights": "model weights",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "checkpoints": "saved layer inputs",
    "layer_activations": "layer activations",
    "attention": "attention",
    "lora_activations": "adapter activations",
    "logits_and_loss": "logits and loss",
    "temporaries": "temporaries",
    "context": "device context",
    "fragmentation": "allocator rounding",
}


def component_text(name: str) -> str:
    """A component's name as people read it."""
    return COMPONENT_TEXT.get(name, name.replace("_", " "))


def verdict_of(memory: MemoryReport) -> Verdict:
    """fits: the interval's upper end is inside the budget; tight: only the peak is, or it passes 95 % of the budget."""
    if memory.device_peak_bytes > memory.budget_bytes:
        return "does_not_fit"
    if memory.interval_bytes[1] > memory.budget_bytes or (memory.device_peak_bytes > TIGHT_SHARE * memory.budget_bytes):
        return "tight"
    return "fits"


def budget_of(hardware: HardwareProfile, *, reserve_bytes: int | None = None, used_by_others_bytes: int = 0) -> int:
    """Device bytes a run may use: total minus what others hold minus the reserve (the profile's unless given)."""
    reserve = hardware.reserve_bytes if reserve_bytes is None else reserve_bytes
    return max(0, hardware.total_bytes - used_by_others_bytes - reserve)


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
        from planner.decide.remedies import find_remedies

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


def calibration_sentences(hardware: HardwareProfile) -> list[str]:
    """What this machine's measurements say of the prediction; nothing where there are none."""
    found = hardware.calibration
    if found is None:
        return []
    sentences = []
    if found.applied:
        off = found.errors.get("fitted_median")
        typical = f", typically {off:.1%} off for a model it had not seen" if off is not None else ""
        sentences.append(
            f"Corrected by {found.observations} measurements of {found.models} models on this machine{typical}."
        )
    elif found.reason:
        sentences.append(f"Not corrected by measurements here: {found.reason}.")
    if "runs" in found.errors:
        usual, worst = (format_deviation(found.errors[f"runs_{which}"]) for which in ("median", "worst"))
        sentences.append(f"{_runs(round(found.errors['runs']))} predicted {usual} off (worst {worst}).")
    return sentences


def _runs(count: int) -> str:
    return "The last training run here was" if count == 1 else f"The last {count} training runs here were"


def predict_speed(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, tokens_per_epoch: int | None = None
) -> SpeedReport | None:
    """Speed of one configuration, or None where no speed is modelled for it (memory still is)."""
    from planner import speed

    try:
        return speed.predict(model, hardware, choices, tokens_per_epoch=tokens_per_epoch)
    except NotModelled:
        return None


def hardware_summary(hardware: HardwareProfile) -> dict[str, Any]:
    """What a report says of the device."""
    return {
        "name": hardware.name,
        "title": hardware.title,
        "kind": hardware.kind,
        "total_bytes": hardware.total_bytes,
        "reserve_bytes": hardware.reserve_bytes,
    }


def runs_inside(calibration: Mapping[str, Any] | None) -> str:
    """How many runs' peaks the interval holds: what a calibration aims at, or what published runs showed without one.

    `calibration`: the report's own account of it.
    """
    return "95 of 100" if calibration is not None and calibration.get("applied") else "4 of 5"


def explain(memory: MemoryReport, verdict: Verdict, calibration: Mapping[str, Any] | None = None) -> list[str]:
    """Why the verdict is what it is: binding instant, largest components, what is left, how certain."""
    where = INSTANT_TEXT.get(memory.binding_instant, f"at {memory.binding_instant}")
    low, high = memory.interval_bytes
    left = memory.budget_bytes - memory.device_peak_bytes
    largest = sorted(memory.components.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{component_text(name)} {format_bytes(size)}" for name, size in largest if size > 0)
    sentences = [
        f"Memory peaks {where}: {format_bytes(memory.device_peak_bytes)} on the device, "
        f"{format_bytes(memory.allocated_peak_bytes)} of it in tensors.",
        f"Most of it: {parts}.",
    ]
    budget = format_bytes(memory.budget_bytes)
    if verdict == "does_not_fit":
        sentences.append(f"The budget is {budget}: {format_bytes(-left)} are missing.")
    else:
        sentences.append(f"The budget is {budget}: {format_bytes(left)} are left.")
    inside = runs_inside(calibration)
    sentences.append(f"In {inside} runs the peak lies between {format_bytes(low)} and {format_bytes(high)}.")
    if verdict == "tight":
        if high > memory.budget_bytes:
            sentences.append("Tight: the upper end of that interval is beyond the budget.")
        else:
            sentences.append(f"Tight: the peak takes more than {TIGHT_SHARE:.0%} of the budget.")
    return sentences
