"""Numbers as people read them: no powers of ten, no `-0.0%`, no `1e+03`, whatever their size."""

from __future__ import annotations

import math
import random
import re

import pytest

from planner.contract.units import (
    counted,
    format_bytes,
    format_count,
    format_deviation,
    format_duration,
    format_quantity,
    format_rate,
)
from planner.devices.profiles import all_profiles
from planner.models import catalogue
from planner.models.sources import load_model

PLAIN = re.compile(r"^[-+]?[\d,]+(\.\d+)?( [A-Za-zµ/0-9]+)*$")


def spread(seed: int, low: float, high: float, count: int = 400) -> list[float]:
    """Values over many sizes, and those beside every power of ten and two."""
    chance = random.Random(seed)
    edges = [base * factor for power in range(16) for base in (10.0**power, 2.0 ** (10 * power / 3))
             for factor in (0.999, 0.9994, 0.9995, 0.99951, 0.9999, 1, 1.0001, 1.004, 1.005)]  # fmt: skip
    return [
        value
        for value in [*edges, *(10 ** chance.uniform(math.log10(low), math.log10(high)) for _ in range(count))]
        if low <= value <= high
    ]


def test_counts_rates_and_sizes_have_no_powers_of_ten() -> None:
    for value in (*range(0, 1200, 7), *spread(1, 1, 1e15)):
        check_plain(value)


def check_plain(value: float) -> None:
    for text in (format_count(int(value)), format_rate(value, "B"), format_bytes(int(value))):
        assert PLAIN.match(text), text
        digits = re.sub(r"[^\d]", "", text.split()[0])
        assert len(digits) <= 5, text
    count = format_count(int(value))
    scale = {"T": 1e12, "B": 1e9, "M": 1e6, "k": 1e3}.get(count.split()[-1], 1)
    assert float(count.split()[0].replace(",", "")) * scale == pytest.approx(int(value), rel=0.006)


def test_every_model_and_device_reads_plainly() -> None:
    for entry in catalogue.entries():
        text = format_count(load_model(entry.name).parameters)
        assert re.fullmatch(r"\d{1,3}(\.\d{1,2})? [MBT]", text), (entry.name, text)
    for profile in all_profiles():
        for name, fact in profile.facts.items():
            text = format_quantity(fact.value, fact.unit)
            assert PLAIN.match(text), (profile.name, name, text)
        for rate in (profile.bandwidth_bytes_per_second, *profile.flops_per_second.values()):
            assert PLAIN.match(format_rate(rate, "B"))


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-9, -1e-9, 0.00049, -0.00049, 0.0004999, 0.0005001, -0.012, 0.5, -3.0])
def test_a_deviation_is_never_nothing_with_a_sign(value: float) -> None:
    text = format_deviation(value)
    assert text not in ("+0.0%", "-0.0%")
    assert (text == "below 0.1%") == (abs(value) <= 0.0005)


def test_durations_have_no_powers_of_ten() -> None:
    for seconds in (*spread(2, 1e-6, 1e7), 59.6, 59.99, 3599.9, 172799):
        assert "e" not in format_duration(seconds).replace("below", "")


def test_one_of_a_thing_is_singular() -> None:
    assert counted(1, "core") == "1 core"
    assert counted(8, "core") == "8 cores"
    assert format_quantity(8519680, "B") == "8.1 MiB"
    assert format_quantity(600, "GB/s") == "600 GB/s"
    assert format_count(999_885_952) == "1 B"
    assert format_count(999_499) == "999 k"
