"""What NVML tells within a run: its own Python binding, over C functions that fill its structures as a driver does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import c_uint
from typing import Any

import pytest

from planner.cli.progress import summary_lines
from planner.contract.events import FinishedEvent, StepEvent, line_of
from planner.tui import live, run_texts

pytest.importorskip("torch")
pynvml = pytest.importorskip("pynvml")

from trainer.measure.sensors import Sensors, of  # noqa: E402

NOT_SUPPORTED = 3
"""`NVML_ERROR_NOT_SUPPORTED` (nvml.h)."""


class Driver:
    """The C functions that `Sensors` reaches: each fills what its last argument points at, and returns a code."""

    def __init__(self) -> None:
        self.load, self.degrees, self.milliwatts, self.millijoules = 97, 71, 312_345, 8_000_000_000
        self.missing: set[str] = set()

    def function(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name in self.missing:
                return NOT_SUPPORTED
            told = getattr(arguments[-1], "_obj", None)
            if name == "nvmlDeviceGetUtilizationRates":
                told.gpu, told.memory = c_uint(self.load), c_uint(55)
            elif name == "nvmlDeviceGetTemperature":
                told.value = self.degrees
            elif name == "nvmlDeviceGetPowerUsage":
                told.value = self.milliwatts
            elif name == "nvmlDeviceGetTotalEnergyConsumption":
                told.value = self.millijoules
            return 0

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", lambda: None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", made.function)
    return made


def test_a_card_tells_load_heat_power_and_energy(driver: Driver) -> None:
    sensors = Sensors(["GPU-1"])
    driver.millijoules += 7_200_000
    assert sensors.read() == {
        "device_load": 0.97,
        "device_celsius": 71.0,
        "device_watts": 312.345,
        "device_watt_hours": 2.0,
    }
    sensors.close()
    assert sensors.read() == {}


def test_energy_of_a_card_that_counts_none_is_power_by_time(driver: Driver) -> None:
    """A Pascal card: 300 W for ten seconds, then on average 350 W for twenty."""
    driver.missing = {"nvmlDeviceGetTotalEnergyConsumption"}
    driver.milliwatts = 300_000
    now = [0.0]
    sensors = Sensors(["GPU-1"], clock=lambda: now[0])
    now[0] = 10.0
    assert sensors.read()["device_watt_hours"] == pytest.approx(3000 / 3600)
    now[0], driver.milliwatts = 30.0, 400_000
    assert sensors.watt_hours() == pytest.approx(10_000 / 3600)


def test_several_cards_are_one_run(driver: Driver) -> None:
    assert Sensors(["GPU-1", "GPU-2"]).read()["device_watts"] == pytest.approx(624.69)


@pytest.mark.parametrize("missing", ["nvmlInitWithFlags", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUtilizationRates"])
def test_what_isnt_told_is_left_out(driver: Driver, missing: str) -> None:
    """GIVEN no driver, a card that it doesn't know, or a slice without a load THEN it is absent, and nothing fails."""
    driver.missing = {missing}
    found = Sensors(["GPU-1"]).read()
    assert "device_load" not in found
    assert bool(found) == (missing == "nvmlDeviceGetUtilizationRates")


def test_without_the_library_or_a_card_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert of(torch.device("cpu"), 1).read() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors = Sensors(["GPU-1"])
    assert sensors.read() == {}
    assert sensors.watt_hours() is None
    sensors.close()


def test_what_was_told_is_shown_while_it_runs_and_at_the_end() -> None:
    run = live.reduce(live.RunSnapshot(), line_of(StepEvent(step=1, total_steps=2), 1.0))
    assert "device load" not in dict(run_texts.figures(run))
    told = StepEvent(step=2, total_steps=2, device_load=0.97, device_celsius=71.0, device_watts=312.0)
    run = live.reduce(run, line_of(told.model_copy(update={"device_watt_hours": 37.06}), 2.0))
    shown = dict(run_texts.figures(run))
    assert (shown["device load"], shown["power"]) == ("97 %, 71 °C", "312 W, 37.1 Wh")
    end = FinishedEvent(reason="completed", steps=2, device_watt_hours=1240.0)
    run = live.reduce(run, line_of(end, 3.0))
    assert dict(run_texts.outcome(run))["energy"] == "1.24 kWh"
    assert "Energy of the card: 1.24 kWh" in summary_lines(end)
