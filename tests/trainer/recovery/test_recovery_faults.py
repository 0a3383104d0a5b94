"""The short fault table: killed, damaged, filled up and out of memory, no run is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(os.name != "posix", reason="forks its runs")
def test_the_short_fault_table_loses_no_run() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/faults.py"), "--short"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| checkpoint: flipped bit |" in done.stdout
    runs = 20 - done.stdout.count("left out: limits") * 2 - done.stdout.count("left out: no cgroup")
    assert f"| **all** | | **{runs}** | **0** |" in done.stdout or "left out: needs Linux" in done.stdout
