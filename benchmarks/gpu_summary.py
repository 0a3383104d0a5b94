"""Tables over the observations of gpu_observe: signed errors, verdicts, speed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import observe_common as common
from observe_common import Observation

from planner.contract.spec import HardwareProfile
from planner.contract.units import format_bytes


def ordinary(observations: Sequence[Observation]) -> list[Observation]:
    """Points without a memory limit that ran."""
    return [item for item in observations if "memory_limit_bytes" not in item.probe and item.outcome == "ran"]


def allocated(observations: Sequence[Observation]) -> list[float]:
    """Signed errors of the allocated peak."""
    return [error for item in observations if (error := common.allocated_error(item)) is not None]


def reserved(observations: Sequence[Observation]) -> list[float]:
    """Signed errors of the reserved peak."""
    return [
        common.signed_error(item.predicted.reserved_peak_bytes, item.reserved_peak_bytes)
        for item in observations
        if item.predicted is not None and item.reserved_peak_bytes
    ]


def device(observations: Sequence[Observation]) -> list[float]:
    """Signed errors of the device peak."""
    return [
        common.signed_error(item.predicted.device_peak_bytes, item.device_peak_bytes)
        for item in observations
        if item.predicted is not None and item.device_peak_bytes
    ]


def covered(observations: Sequence[Observation]) -> tuple[int, int]:
    """(device peaks inside the predicted interval, device peaks measured)."""
    known = [item for item in observations if item.predicted is not None and item.device_peak_bytes]
    inside = sum(
        item.predicted.interval_bytes[0] <= (item.device_peak_bytes or 0) <= item.predicted.interval_bytes[1]
        for item in known
        if item.predicted is not None
    )
    return inside, len(known)


def verdict_lines(observations: Sequence[Observation]) -> list[str]:
    """What became of the verdicts on emulated cards."""
    checked = [item for item in observations if item.probe.get("expected")]
    fits = [item for item in checked if item.probe["expected"] == "ran"]
    refused = [item for item in checked if item.probe["expected"] == "out_of_memory"]
    broken = [item for item in fits if item.outcome == "out_of_memory"]
    needless = [item for item in refused if item.outcome == "ran"]
    lines = [
        "### Verdicts on emulated cards",
        "",
        f"- called fits: {len(fits)}, of which overflowed: {len(broken)}",
        f"- called infeasible: {len(refused)}, of which ran all the same: {len(needless)}",
        "",
    ]
    lines += [f"- overflowed: {item.probe['label']} ({_detail(item)})" for item in broken]
    lines += [f"- ran: {item.probe['label']} ({_detail(item)})" for item in needless]
    return [*lines, ""] if broken or needless else lines


def _detail(item: Observation) -> str:
    limit = format_bytes(item.probe.get("memory_limit_bytes", 0))
    predicted = format_bytes(item.predicted.reserved_peak_bytes) if item.predicted else "–"
    measured = format_bytes(item.reserved_peak_bytes or item.allocated_peak_bytes or 0)
    return f"limit {limit}, predicted {predicted} reserved, measured {measured}"


def context_line(observations: Sequence[Observation], hardware: HardwareProfile) -> list[str]:
    """The context as measured beside the profile's."""
    known = [item.probe["context_bytes"] for item in observations if item.probe.get("context_bytes")]
    if not known:
        return []
    basis = ", ".join(sorted({str(item.probe.get("device_basis")) for item in observations}))
    return [
        f"Context: {format_bytes(statistics.median(known))} in the median, {format_bytes(min(known))} to "
        f"{format_bytes(max(known))}; the profile has {format_bytes(hardware.context_bytes)} (basis: {basis}).",
        "",
    ]


def off_lines(observations: Sequence[Observation], limit: float = 0.01) -> list[str]:
    """Points beyond `limit`, the worst first, with the errors of their instants."""
    off = [(item, error) for item in observations if abs(error := common.allocated_error(item) or 0.0) > limit]
    lines = [f"### Points beyond {limit:.0%}: {len(off)}", ""]
    for item, error in sorted(off, key=lambda pair: -abs(pair[1])):
        instants = ", ".join(f"{name} {value:+.2%}" for name, value in common.instant_errors(item).items())
        lines.append(f"- {item.probe.get('label')}: {error:+.2%} ({instants})")
    return [*lines, ""]


def summary(observations: Sequence[Observation], hardware: HardwareProfile) -> str:
    """Everything in markdown."""
    known = ordinary(observations)
    # A limit changes what the allocator holds, not what the tensors take.
    ran = [item for item in observations if item.outcome == "ran"]
    versions = observations[0].versions if observations else {}
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if name in versions)
    title = observations[0].hardware.get("title", hardware.title) if observations else hardware.title
    instants: dict[str, list[float]] = {}
    for item in ran:
        for name, error in common.instant_errors(item).items():
            instants.setdefault(name, []).append(error)
    models = common.by(ran, lambda item: str(item.model["config"].get("model_type")))
    groups = common.by(ran, lambda item: str(item.probe.get("group")))
    inside, of = covered(known)
    lines = [
        f"# Real steps on {title} beside the prediction",
        "",
        f"{len(observations)} points ({len(known)} without a memory limit); {named}; profile {hardware.name}, "
        "uncalibrated; error = (predicted - measured) / measured.",
        "",
        *common.table("All", [("allocated", allocated(ran)), ("reserved", reserved(known)), ("device", device(known))]),
        f"Device peaks inside the interval: {inside} of {of}.",
        "",
        *context_line(known, hardware),
        *verdict_lines(observations),
        *common.table("Allocated, by architecture", [(name, allocated(items)) for name, items in models.items()]),
        *common.table("Allocated, by group", [(name, allocated(items)) for name, items in groups.items()]),
        *common.table("Reserved, by group", [(name, reserved(ordinary(items))) for name, items in groups.items()]),
        *common.table("Allocated, by instant", list(instants.items())),
        *off_lines(ran),
    ]
    return "\n".join(lines).rstrip() + "\n"
