"""From allocated to reserved to device bytes, and what a calibration corrects in them.

Until a device has been calibrated these are bounds with a basis, not measurements: the CUDA caching allocator rounds
blocks to 512 B, takes segments of 2 MiB, 20 MiB or multiples of 2 MiB, and keeps what it cannot reuse
(PyTorch c10/cuda/CUDACachingAllocator.cpp, read 2026-11).

A calibration (planner.calibration) corrects, with P the bytes that live through the step, M those that come and go, W
the workspaces, F what the allocator was expected to hold beyond the tensors:
    allocated = W + a P + b M        reserved = allocated + f F + s        device = reserved + context
W and the context are the profile's own fields by then; a, b, f and s are applied here.
"""

from __future__ import annotations

import numpy as np

from planner.contract.records import MemoryReport
from planner.contract.spec import Calibration, HardwareProfile
from planner.contract.units import MIB
from planner.memory.engine.values import Array

CUBLAS_HANDLES = 2
"""cuBLAS and cuBLASLt make a workspace each in a training step; both count as allocated."""
SEGMENT_SLACK_BYTES = 20 * MIB
"""Half-used segments of the small and the large pool."""
FRAGMENTATION_SHARE = 0.02
"""Share of the bytes that come and go within a step which the allocator cannot reuse: a rule of this tool, to be
replaced by measurement on each device."""
UPPER_SHARE, LOWER_SHARE = 0.115, 0.05
MARGIN_BYTES = 250 * MIB
"""Half widths of the uncalibrated interval: so many bytes, and shares of the bytes that come and go within a step.

A rule, chosen on measured runs: all 32 of a T4 lie inside (tests/cases/measured_t4.json); of published figures of the
device bytes four in five do (docs/accuracy.md).
"""
INTERVAL_BYTES, INTERVAL_SHARE = 16 * MIB, 0.01
"""Unit of a calibrated interval: so many bytes plus this share of the bytes that come and go."""
PERSISTENT = ("weights", "adapters", "optimizer_state")
"""Components that live through the whole step."""


def workspace_bytes(hardware: HardwareProfile) -> int:
    """Bytes of the cuBLAS workspaces, which count as allocated."""
    return CUBLAS_HANDLES * hardware.cublas_workspace_bytes


def reserved(allocated: Array, persistent: Array) -> Array:
    """Reserved bytes at the peak, from allocated and persistent ones."""
    moving = np.maximum(allocated - persistent, 0)
    slack: Array = SEGMENT_SLACK_BYTES + (FRAGMENTATION_SHARE * moving).astype(np.int64)
    return allocated + slack


def upper(total: Array, allocated: Array, persistent: Array) -> Array:
    """Upper end of the device peak's interval."""
    moving = np.maximum(allocated - persistent, 0)
    margin: Array = (UPPER_SHARE * moving).astype(np.int64) + MARGIN_BYTES
    return total + margin


def lower(total: Array, allocated: Array, persistent: Array) -> Array:
    """Lower end of the device peak's interval."""
    moving = np.maximum(allocated - persistent, 0)
    margin: Array = (LOWER_SHARE * moving).astype(np.int64) + MARGIN_BYTES
    end: Array = np.maximum(total - margin, allocated)
    return end


def interval_unit(moving: Array) -> Array:
    """Bytes of one unit of a calibrated interval."""
    unit: Array = (INTERVAL_BYTES + INTERVAL_SHARE * np.maximum(moving, 0)).astype(np.int64)
    return unit


def in_use(hardware: HardwareProfile) -> Calibration | None:
    """The calibration that corrects predictions for this device, or None."""
    found = hardware.calibration
    return found if found is not None and found.applied else None


def corrected_peaks(
    hardware: HardwareProfile, allocated: Array, held: Array, persistent: Array
) -> tuple[Array, Array, Array]:
    """(allocated, reserved, upper end of the device peak) under the device's calibration; `held` is reserved bytes.

    `allocated` includes the workspaces. Without a calibration the bytes come back as they are.
    """
    found = in_use(hardware)
    if found is None:
        return allocated, held, upper(held + hardware.context_bytes, allocated, persistent)
    moving = np.maximum(allocated - persistent - workspace_bytes(hardware), 0)
    change = (found.persistent_factor - 1) * persistent + (found.moving_factor - 1) * moving
    peak = allocated + np.rint(change).astype(np.int64)
    beyond = found.fragmentation_factor * (held - allocated) + found.slack_bytes
    holding = peak + np.rint(np.maximum(beyond, 0)).astype(np.int64)
    total = holding + hardware.context_bytes
    if found.interval is None:
        return peak, holding, upper(total, peak, persistent)
    return peak, holding, total + np.rint(found.interval[1] * interval_unit(moving)).astype(np.int64)


def corrected_report(hardware: HardwareProfile, report: MemoryReport, persistent: int, most: int) -> MemoryReport:
    """The report under the device's calibration: every instant, the components, reserved, device and the interval.

    persistent: bytes that live through the step. most: reserved bytes with nothing in the way, for the interval's upper
    end.
    """
    found = in_use(hardware)
    if found is None:
        return report
    workspaces = workspace_bytes(hardware)
    fixed = np.array([persistent])

    def allocated(size: int) -> int:
        return int(corrected_peaks(hardware, np.array([size]), np.array([size]), fixed)[0][0])

    instants = {name: allocated(size) for name, size in report.instants.items()}
    before = report.allocated_peak_bytes
    peaks, held, _ = corrected_peaks(hardware, np.array([before]), np.array([report.reserved_peak_bytes]), fixed)
    _, _, highest = corrected_peaks(hardware, np.array([before]), np.array([most]), fixed)
    total = int(held[0]) + hardware.context_bytes
    unit = int(interval_unit(np.array([before - persistent - workspaces]))[0])
    moved = report.interval_bytes[0] + total - report.device_peak_bytes
    low = moved if found.interval is None else round(total - found.interval[0] * unit)
    components = {}
    for name, size in report.components.items():
        factor = found.persistent_factor if name in PERSISTENT else found.moving_factor
        components[name] = size if name in ("workspaces", "context") else round(size * factor)
    components["fragmentation"] = int(held[0] - peaks[0])
    # What rounding leaves over belongs to the largest part, so that the components sum to the device peak.
    largest = max(components, key=lambda name: components[name])
    components[largest] += total - sum(components.values())
    return report.model_copy(
        update={
            "allocated_peak_bytes": int(peaks[0]),
            "tensors_peak_bytes": None if report.tensors_peak_bytes is None else allocated(report.tensors_peak_bytes),
            "reserved_peak_bytes": int(held[0]),
            "device_peak_bytes": total,
            "interval_bytes": (max(low, int(peaks[0])), max(int(highest[0]), total)),
            "instants": instants,
            "components": {name: size for name, size in components.items() if size},
        }
    )
