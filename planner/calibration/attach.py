"""Finding a device as the front doors do: its profile with what runs on this machine have taught of it."""

from __future__ import annotations

from dataclasses import replace

from planner.calibration.store import attach
from planner.contract.spec import HardwareProfile
from planner.devices import hardware
from planner.devices.hardware import Detected


def find(name: str) -> HardwareProfile:
    """As `planner.devices.hardware.find`, corrected by this machine's observations."""
    return attach(hardware.find(name))


def detect() -> Detected:
    """As `planner.devices.hardware.detect`, corrected by this machine's observations."""
    found = hardware.detect()
    return replace(found, profile=attach(found.profile))
