"""What a card says of itself while it trains: load, temperature, power, and the energy of the run, by NVML.

NVML API reference, 2026: `nvmlDeviceGetUtilizationRates` gives the percent of its last sample period (a sixth of a
second to a second) in which a kernel ran, so it may be read between two steps; `nvmlDeviceGetPowerUsage` milliwatts of
the whole card, `nvmlDeviceGetTotalEnergyConsumption` millijoules since the driver was loaded (Volta and newer). What a
card, a slice of one or its driver doesn't tell is left out. On a Mac all of it takes `powermetrics`, which only root
may run, and on ROCm another library: nothing is told there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

JOULES_PER_WATT_HOUR = 3600.0


class Sensors:
    """Reads the cards `uuids` (`GPU-…`), whose energy is counted from now on. Raises nothing."""

    def __init__(self, uuids: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml: Any = None
        self._cards: list[Any] = []
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._cards = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        except Exception:  # no library, no driver, or a card that it doesn't know
            self._cards = []
        self._joules = 0.0
        """By power and time, where no card counts energy."""
        self._counted = self._counters()
        self._power = self._watts()
        self._at = clock()

    def read(self) -> dict[str, float]:
        """Fields of a `step` event, those that are known: load and power of all cards, the hottest one's degrees."""
        if not self._cards:
            return {}
        loads = self._each(lambda card: self._nvml.nvmlDeviceGetUtilizationRates(card).gpu / 100)
        degrees = self._each(lambda card: self._nvml.nvmlDeviceGetTemperature(card, self._nvml.NVML_TEMPERATURE_GPU))
        found: dict[str, float | None] = {
            "device_load": sum(loads) / len(loads) if loads else None,
            "device_celsius": float(max(degrees)) if degrees else None,
            "device_watt_hours": self.watt_hours(),
            "device_watts": self._power,
        }
        return {name: value for name, value in found.items() if value is not None}

    def watt_hours(self) -> float | None:
        """Energy of all cards so far; None where none tells of it."""
        before, since = self._power, self._at
        self._power, self._at = self._watts(), self._clock()
        counted = self._counters()
        if counted is not None and self._counted is not None:
            return (counted - self._counted) / JOULES_PER_WATT_HOUR
        if before is None or self._power is None:
            return None
        self._joules += (before + self._power) / 2 * (self._at - since)
        return self._joules / JOULES_PER_WATT_HOUR

    def close(self) -> None:
        """Lets the library go."""
        if self._nvml is not None:
            with contextlib.suppress(Exception):  # the driver went away before
                self._nvml.nvmlShutdown()
        self._nvml, self._cards = None, []

    def _watts(self) -> float | None:
        found = self._each(lambda card: self._nvml.nvmlDeviceGetPowerUsage(card) / 1000)
        return sum(found) if found else None

    def _counters(self) -> float | None:
        """Joules that all cards have counted; None where one of them doesn't."""
        found = self._each(lambda card: self._nvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000)
        return sum(found) if found else None

    def _each(self, ask: Callable[[Any], float]) -> list[float]:
        """What every card answers; nothing where one of them has no answer."""
        try:
            return [float(ask(card)) for card in self._cards]
        except Exception:  # NVML_ERROR_NOT_SUPPORTED, a lost card, an older library
            return []


def of(device: torch.device, count: int) -> Sensors:
    """Those of the run's cards: of `device`, or of the first `count` that this process sees."""
    uuids: list[str] = []
    try:
        if device.type == "cuda" and torch.version.hip is None:
            for card in [device] if count == 1 else range(count):
                uuid = str(torch.cuda.get_device_properties(card).uuid)
                uuids.append(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except Exception:  # an older torch has no uuid
        uuids = []
    return Sensors(uuids)
