"""The fault table: killed, damaged, filled up and out of memory, no run is lost; kept parts aren't run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks its runs")


def table(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks/faults.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.nightly
def test_the_short_fault_table_loses_no_run() -> None:
    done = table("--short")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| checkpoint: flipped bit |" in done.stdout
    runs = 20 - done.stdout.count("left out: limits") * 2 - done.stdout.count("left out: no cgroup")
    assert f"| **all** | | **{runs}** | **0** |" in done.stdout or "left out: needs Linux" in done.stdout


def test_parts_that_are_kept_make_the_table(tmp_path: Path) -> None:
    """GIVEN two parts that ended, one of them with a lost run THEN they are told as they were, in the table's order."""
    good = {"name": "good", "expected": "goes on", "runs": 3, "lost": [], "loss": 1e-7, "gradients": None, "notes": []}
    bad = {**good, "name": "bad", "runs": 2, "lost": ["why"], "loss": None, "notes": ["a note"]}
    kept = {
        "refused": {"seed": 3, "short": False, "seconds": 4.0, "rows": [bad]},
        "killed": {"seed": 3, "short": False, "seconds": 5.0, "rows": [good, good]},
    }
    (tmp_path / "rows.json").write_text(json.dumps(kept))
    words = ["--seed", "3", "--part", "refused", "--part", "killed", "--kept", str(tmp_path / "rows.json")]
    done = table(*words)
    assert done.returncode == 1, "a run was lost"
    told = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert told[:3] == [
        "| good | goes on | 3 | 0 | 1.0e-07 |  |  |",
        "| good | goes on | 3 | 0 | 1.0e-07 |  |  |",
        "| bad | goes on | 2 | 1 |  |  | a note |",
    ]
    assert "| **all** | | **8** | **1** |" in told[3]
    assert done.stdout.splitlines()[-1] == "9 s"
