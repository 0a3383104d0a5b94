"""A minute of hostile inputs of every kind; `python -m tests.fuzz` (`make fuzz`) goes on for as long as it is let."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import oracle
from tests.fuzz.__main__ import run
from tests.fuzz.kinds import KINDS

SECONDS = 10.0
"""Of each kind."""
CASES = {"config": 300, "plan": 250, "cli": 60, "calibration": 80, "runs": 250, "data": 250, "tokens": 60}


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_ends_in_a_traceback_or_hangs(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN the first cases of a fixed seed THEN each ends in sane numbers or one plain line."""
    cases, found = run(kind, 7, seconds=SECONDS, cases=CASES[kind])
    assert not found, capsys.readouterr().out
    assert cases >= 20


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(random=st.randoms(use_true_random=False))
def test_hypothesis_finds_no_wrong_config(random: Random) -> None:
    """The same change of configs, drawn by hypothesis, which makes what it finds small."""
    KINDS["config"](random, Path("/nowhere"))


def test_the_oracle_tells_right_from_wrong() -> None:
    with pytest.raises(oracle.Hang), oracle.limited(0.05):
        time.sleep(5)
    for wrong in ("two\nlines", "\x1b[31m", "", "x" * 1000):
        with pytest.raises(oracle.Broken):
            oracle.complaint(wrong)
    with pytest.raises(ZeroDivisionError):
        oracle.asked(lambda: 1 // 0)
    with pytest.raises(oracle.Broken, match="NaN"):
        oracle.answer("[NaN]")
    memory = {
        **dict.fromkeys(("allocated_peak_bytes", "reserved_peak_bytes", "device_peak_bytes", "budget_bytes"), 2),
        "interval_bytes": [1, 3],
        "components": {"weights": 2},
        "instants": {"load": 2},
    }
    good = {"memory": memory, "speed": None, "model": {"parameters": 1}}
    oracle.report(good)
    for change in ({"components": {"weights": 1}}, {"budget_bytes": 0}, {"interval_bytes": [3, 4]}):
        with pytest.raises(oracle.Broken):
            oracle.report({**good, "memory": {**memory, **change}})
