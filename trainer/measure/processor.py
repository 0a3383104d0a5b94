"""Which processor this is, by its own account: who made it, which family and model, its widest instructions."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INTEL = "GenuineIntel"
AMD = "AuthenticAMD"


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
    """A processor as CPUID names it; what the system doesn't tell is empty."""

    vendor: str = ""
    """CPUID's twelve letters, like GenuineIntel."""
    family: str = ""
    model: str = ""
    name: str = ""

    @property
    def title(self) -> str:
        """For people: name, then family and model, by which processors of one name differ."""
        numbers = f" (family {self.family}, model {self.model})" if self.family and self.model else ""
        return f"{self.name or self.vendor}{numbers}"


@functools.cache
def processor() -> Processor:
    """This machine's, by the kernel's list (Linux), or by the name that the system has for it (Windows, macOS)."""
    try:
        return of(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        told = platform.processor() or platform.machine()
        return Processor(vendor=next((word for word in (INTEL, AMD) if word in told), ""), name=told)


def of(listed: str) -> Processor:
    """The first processor of a text like /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in listed.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            found.setdefault(key.strip(), value.strip())
    return Processor(
        vendor=found.get("vendor_id", ""),
        family=found.get("cpu family", ""),
        model=found.get("model", ""),
        name=found.get("model name", "") or platform.machine(),
    )
