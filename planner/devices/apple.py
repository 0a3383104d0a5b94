"""What Metal lets a process hold on a Mac: the working set by RAM, and the largest single buffer.

The working set is `MTLDevice.recommendedMaxWorkingSetSize` (torch.mps.recommended_max_memory), measured by others on
macOS 15 and 26: 8, 24, 48, 64, 128 and 256 GiB in bytes, 16, 32 and 36 GiB as llama.cpp prints it (MB of 10^6). Older
systems grant less (11,453 MB of 16 GiB). 256 GiB may have been raised by its owner. Read 2026-11.
"""

from __future__ import annotations

import sys

from planner.contract.units import GIB, MIB

MEASURED = {
    8: 5_726_633_984,
    16: 12_713_120_000,
    24: 19_069_665_280,
    32: 26_800_600_000,
    36: 30_150_670_000,
    48: 40_200_896_512,
    64: 55_662_788_608,
    128: 115_448_725_504,
    256: 223_338_299_392,
}
"""Bytes by RAM in GiB."""
BUFFER_SHARE = 0.75
"""The largest buffer over the working set: 30,150,672,384 B at 48 GiB, 41,747,087,360 at 64, 86,586,540,032 at 128
(`MTLDevice.maxBufferLength`, measured with the above). Beyond it Metal refuses whatever is free."""
_METAL = "/System/Library/Frameworks/Metal.framework/Metal"
_OBJC = "/usr/lib/libobjc.A.dylib"


def working_set(memory_bytes: int) -> tuple[int, str]:
    """Metal's working set in bytes for so much RAM, and what it rests on.

    Between measured sizes the share of the RAM is interpolated, beyond them it is the nearest one's.
    """
    size = round(memory_bytes / GIB)
    if size in MEASURED:
        return MEASURED[size], f"Metal recommendedMaxWorkingSetSize, measured on Macs with {size} GiB (macOS 15 and 26)"
    below = max((known for known in MEASURED if known < size), default=min(MEASURED))
    above = min((known for known in MEASURED if known > size), default=max(MEASURED))
    shares = [MEASURED[known] / (known * GIB) for known in (below, above)]
    weight = 0.0 if above == below else (min(max(size, below), above) - below) / (above - below)
    share = shares[0] + weight * (shares[1] - shares[0])
    known = f"{below} and {above} GiB" if above != below else f"{below} GiB"
    basis = f"rule: share of the RAM between those measured at {known}; no figure for {size} GiB"
    return int(share * memory_bytes), basis


def largest_buffer(working_set_bytes: int) -> int:
    """Bytes of the largest single buffer."""
    return int(working_set_bytes * BUFFER_SHARE)


def split(memory_bytes: int, total: int, system_reserve_bytes: int) -> tuple[int, int]:
    """Total and reserve in bytes, of a machine with this working set.

    The system's own share lies outside the working set as far as RAM - total allows; what is missing there is the
    reserve, so that total - reserve is the lesser of working set and RAM - system reserve.
    """
    return total, max(0, total - (memory_bytes - system_reserve_bytes))


def live() -> tuple[int, int] | None:
    """Working set and largest buffer of this Mac, as Metal says now (a wired limit included); None elsewhere."""
    if sys.platform != "darwin":
        return None
    import ctypes

    try:
        metal, objc = ctypes.CDLL(_METAL), ctypes.CDLL(_OBJC)
        metal.MTLCreateSystemDefaultDevice.restype = ctypes.c_void_p
        objc.sel_registerName.restype = ctypes.c_void_p
        objc.sel_registerName.argtypes = [ctypes.c_char_p]
        ask = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(("objc_msgSend", objc))
        device = metal.MTLCreateSystemDefaultDevice()
        if not device:
            return None
        names = (b"recommendedMaxWorkingSetSize", b"maxBufferLength")
        found = [int(ask(device, objc.sel_registerName(name))) for name in names]
    except (OSError, AttributeError, ValueError):
        return None
    return (found[0], found[1]) if min(found) > 64 * MIB else None
