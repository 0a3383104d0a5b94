"""The order in which devices are shown: by maker and kind, the fastest first. UI-free."""

from __future__ import annotations

import re
from collections.abc import Iterable

from planner.contract.spec import HardwareProfile


def maker_of(profile: HardwareProfile) -> str:
    """The heading under which a device stands."""
    name = profile.name
    if profile.kind == "cpu":
        return "Processor"
    if profile.kind == "mps":
        return f"Apple {name.split('-')[0].upper()}"
    if profile.kind == "rocm":
        return "AMD"
    if name.startswith("rtx-a") or name.endswith("-ada") or "pro-" in name:
        return "NVIDIA workstation"
    if name.startswith("rtx"):
        return f"NVIDIA GeForce {name.split('-')[1][:2]} series"
    return "NVIDIA GeForce GTX" if name.startswith("gtx") else "NVIDIA data centre"


MAKERS = (
    "NVIDIA data centre",
    *(f"NVIDIA GeForce {number} series" for number in (50, 40, 30, 20)),
    "NVIDIA workstation",
    *(f"Apple M{number}" for number in (4, 3, 2, 1)),
    "AMD",
    "NVIDIA GeForce GTX",
    "Processor",
)
"""The headings in their order."""


def device_order(profile: HardwareProfile) -> tuple[int, float, str]:
    """Makers in their order, in each the fastest first."""
    maker = maker_of(profile)
    place = MAKERS.index(maker) if maker in MAKERS else len(MAKERS)
    return place, -max(profile.flops_per_second.values(), default=0.0), profile.name


def same_but_memory(name: str, names: Iterable[str]) -> list[str]:
    """The devices that differ from this one in their memory alone, itself among them: `m3-8gb`, `m3-16gb`."""
    stem = re.sub(r"-\d+gb$", "", name)
    return [other for other in names if other == name or re.fullmatch(rf"{re.escape(stem)}-\d+gb", other)]
