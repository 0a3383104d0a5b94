"""What a prediction comes to: fits, tight or not; the budget it is held against; speed and device for a report."""

from __future__ import annotations

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.records import MemoryReport, SpeedReport, Verdict
from planner.contract.spec import HardwareProfile, ModelSpec

TIGHT_SHARE = 0.95
"""Share of the budget above which a peak counts as tight even where its interval fits: a rule of this tool.

The interval covers the prediction's error, not what a desktop or a second process takes in the meantime."""


def verdict_of(memory: MemoryReport) -> Verdict:
    """fits: the interval's upper end is inside the budget; tight: only the peak is, or it passes 95 % of the budget."""
    if memory.device_peak_bytes > memory.budget_bytes or beyond_a_buffer(memory):
        return "does_not_fit"
    if memory.interval_bytes[1] > memory.budget_bytes or (memory.device_peak_bytes > TIGHT_SHARE * memory.budget_bytes):
        return "tight"
    return "fits"


def beyond_a_buffer(memory: MemoryReport) -> bool:
    """Whether one tensor is larger than the largest buffer that the device makes, however much is free."""
    largest, limit = memory.largest_tensor_bytes, memory.largest_buffer_bytes
    return largest is not None and limit is not None and largest > limit


def budget_of(hardware: HardwareProfile, *, reserve_bytes: int | None = None, used_by_others_bytes: int = 0) -> int:
    """Device bytes a run may use: total minus what others hold minus the reserve (the profile's unless given)."""
    reserve = hardware.reserve_bytes if reserve_bytes is None else reserve_bytes
    return max(0, hardware.total_bytes - used_by_others_bytes - reserve)


def predict_speed(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, tokens_per_epoch: int | None = None
) -> SpeedReport | None:
    """Speed of one configuration, or None where no speed is modelled for it (memory still is)."""
    from planner import speed

    try:
        return speed.predict(model, hardware, choices, tokens_per_epoch=tokens_per_epoch)
    except NotModelled:
        return None


def hardware_summary(hardware: HardwareProfile) -> dict[str, object]:
    """What a report says of the device."""
    return {
        "name": hardware.name,
        "title": hardware.title,
        "kind": hardware.kind,
        "total_bytes": hardware.total_bytes,
        "reserve_bytes": hardware.reserve_bytes,
    }
