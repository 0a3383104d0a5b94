"""What the interval of a device that nobody calibrated rests on stands in its sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.contract.spec import Calibration
from planner.decide.reasons import basis
from planner.devices.profiles import load


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t4", ", by a rule from others' runs"),
        ("a40", "419.8 MiB of it, the context, are an estimate"),
        ("m3-18gb", "no run on a Mac"),
    ],
)
def test_an_interval_names_its_basis(name: str, said: str) -> None:
    assert basis(load(name)).endswith(said) or said in basis(load(name))


def test_measured_context_is_no_estimate_and_a_calibration_speaks_for_itself() -> None:
    assert "estimate" not in basis(load("t4"))
    assert basis(replace(load("a40"), calibration=Calibration(applied=True))) == ""
    assert "estimate" in basis(replace(load("a40"), calibration=Calibration(applied=False)))
    assert basis(load("cpu")) == ""
