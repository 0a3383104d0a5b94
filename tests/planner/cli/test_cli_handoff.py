"""`plan` hands dry runs, range tests, grids and merges to the trainer, with its output and exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from planner.cli import main
from tests.support.trainer_support import make_model, make_plan, write_pairs


def plan(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    import os

    environment = {**os.environ, "TUNEPLAN_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "planner.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handoff")
    return make_plan(folder / "plan.json", make_model(folder / "model"), write_pairs(folder / "pairs.jsonl"))


def test_a_dry_run(plan_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(plan_file), "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["measured_bytes"] > 0


def test_refusals_keep_their_line_and_code(plan_file: Path, tmp_path: Path) -> None:
    done = plan("find-lr", str(plan_file), "--min", "1", "--max", "0.5", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: --min 1.0 and --max 0.5: need 0 < min < max"


def test_every_command_takes_the_trainers_options() -> None:
    """The options that `plan` passes on are options that the trainer has."""
    from planner.cli import handoff
    from trainer.__main__ import parser

    words = handoff.options(data="d", device="cpu", learning_rates="1e-4,1e-3", max_steps=3, json=True, epochs=None)
    given = parser().parse_args(["grid", "plan.yaml", *words])
    assert (given.learning_rates, given.max_steps, given.json, given.epochs) == ([1e-4, 1e-3], 3, True, None)
    parser().parse_args(["find-lr", "p", *handoff.options(min=1e-6, max=0.1, steps=100, plot="x.png", json=False)])
    parser().parse_args(["merge", "run", *handoff.options(output="m", dtype="auto")])
    drawn = handoff.options(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=8, seed=1, device="cpu")
    assert parser().parse_args(["generate", "run", "--prompt=-x", *drawn]).prompt == "-x"
    parser().parse_args(["dry-run", "p", *handoff.options(data=None, device="auto", json=True)])
