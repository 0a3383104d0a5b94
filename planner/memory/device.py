"""From allocated to reserved to device bytes.

Until a device has been calibrated these are bounds with a basis, not measurements: the CUDA caching allocator rounds
blocks to 512 B, takes segments of 2 MiB, 20 MiB or multiples of 2 MiB, and keeps what it cannot reuse
(PyTorch c10/cuda/CUDACachingAllocator.cpp, read 2026-11).
"""

from __future__ import annotations

import numpy as np

from planner.memory.peak import Array
from planner.spec import HardwareProfile
from planner.units import MIB

CUBLAS_HANDLES = 2
"""cuBLAS and cuBLASLt make a workspace each in a training step; both count as allocated."""
SEGMENT_SLACK_BYTES = 20 * MIB
"""Half-used segments of the small and the large pool."""
FRAGMENTATION_SHARE = 0.02
"""Share of the bytes that come and go within a step which the allocator cannot reuse: a rule of this tool, to be
replaced by measurement on each device."""
UPPER_SHARE, LOWER_SHARE = 0.06, 0.02
"""Half widths of the uncalibrated interval, as shares of the bytes that come and go within a step."""


def workspace_bytes(hardware: HardwareProfile) -> int:
    """Bytes of the cuBLAS workspaces, which count as allocated."""
    return CUBLAS_HANDLES * hardware.cublas_workspace_bytes


def reserved(allocated: Array, persistent: Array) -> Array:
    """Reserved bytes at the peak, from allocated and persistent ones."""
    moving = np.maximum(allocated - persistent, 0)
    return allocated + SEGMENT_SLACK_BYTES + (FRAGMENTATION_SHARE * moving).astype(np.int64)


def upper(total: Array, allocated: Array, persistent: Array) -> Array:
    """Upper end of the device peak's interval."""
    moving = np.maximum(allocated - persistent, 0)
    return total + (UPPER_SHARE * moving).astype(np.int64) + 64 * MIB


def lower(total: Array, allocated: Array, persistent: Array) -> Array:
    """Lower end of the device peak's interval."""
    moving = np.maximum(allocated - persistent, 0)
    return np.maximum(total - (LOWER_SHARE * moving).astype(np.int64) - 64 * MIB, allocated)
