"""Byte units and their text. Bytes are integers inside; every other unit is in a name, converted at the edge."""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GIB = 1024**3

DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int64": 8, "int8": 1, "bool": 1}
"""Bytes per element of the storage types that the model distinguishes."""


def gib(size_bytes: float) -> float:
    """Bytes as GiB (2**30 bytes)."""
    return size_bytes / GIB


def format_bytes(size_bytes: float) -> str:
    """Bytes as text in the binary unit that leaves a number of three or four digits, e.g. `17.3 GiB`."""
    magnitude = abs(size_bytes)
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if magnitude >= size:
            value = size_bytes / size
            return f"{value:.1f} {unit}" if abs(value) < 1000 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def format_duration(seconds: float) -> str:
    """Seconds as text with two units at most, e.g. `3 h 05 min`, `42 s`."""
    if 0 < seconds < 0.001:
        return "below 1 ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes, hours = round(seconds / 60), 0
    if minutes >= 60:
        hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        days, hours = divmod(hours, 24)
        return f"{days} d {hours:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
