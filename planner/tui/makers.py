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


STARTS: tuple[tuple[str, float], ...] = (
    ("qwen3-8b", 16.4e9),
    ("qwen3-4b-instruct-2507", 8.0e9),
    ("qwen3-1.7b", 3.4e9),
    ("qwen3-0.6b", 1.2e9),
)
"""Where the cursor stands for who has chosen no model yet: chat models that anyone may fetch (Apache-2.0, not gated),
with the bytes of their weights at 16 bits."""


def first_model(device: HardwareProfile | None) -> str | None:
    """The largest model of `STARTS` whose weights leave half of the device free; a processor gets the smallest."""
    if device is None:
        return None
    room = 0.0 if device.kind == "cpu" else device.budget_bytes / 2
    return next((name for name, size in STARTS if size <= room), STARTS[-1][0])
