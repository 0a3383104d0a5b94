"""The benchmarks that observe: real cpu runs against the closed form, and the GPU harness on small models."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cpu_observe  # noqa: E402
import gpu_grid  # noqa: E402
import observe_common as common  # noqa: E402

HARNESS = ROOT / "benchmarks" / "gpu_observe.py"
TEN = {
    "llama": ("peft lora", "builtin lora chunked plain"),
    "qwen2": ("builtin full fp32", "peft full padded plain"),
    "qwen3": ("peft lora padded fp32", "builtin lora bf16 adapters"),
    "phi": ("peft lora", "builtin full fp32"),
    "gemma": ("peft lora padded fp32", "builtin lora chunked plain"),
}
LIGHT = ("textual", "textual_plotext", "platformdirs", "pynvml")
"""Dependencies of the package that a machine with torch alone may lack."""
PLANNERS = (*LIGHT, "typer", "rich", "scipy", "yaml", "matplotlib", "torch", "transformers")
"""What the harness's own process must do without too; the probe's process needs torch and what that brings."""


@pytest.mark.parametrize("names", [("llama", "phi"), pytest.param(tuple(TEN), marks=pytest.mark.nightly)], ids=len)
def test_real_runs_agree_with_the_closed_form(tmp_path: Path, names: tuple[str, ...]) -> None:
    chosen = [point for name in names for point in cpu_observe.points([name], list(TEN[name]))]
    observations = cpu_observe.observe(chosen, talk=False)
    errors = cpu_observe.errors_of(observations)
    assert len(errors) == 2 * len(names)
    sizes = [abs(error) for error in errors]
    assert statistics.median(sizes) <= 0.002
    assert max(sizes) <= 0.01
    common.write_lines(tmp_path / "o.jsonl", observations)
    assert common.read_lines(tmp_path / "o.jsonl")[0].instants == observations[0].instants
    assert f"| all runs | {len(errors)} |" in cpu_observe.summary(observations)


@pytest.mark.nightly
def test_the_gpu_harness_on_small_models(tmp_path: Path) -> None:
    """GIVEN torch and pydantic but none of the light dependencies THEN it measures, judges and sums up."""
    blocker = tmp_path / "site"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import sys\n"
        f"missing = {LIGHT!r} if 'trainer' in sys.orig_argv else {PLANNERS!r}\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in missing:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    out = tmp_path / "out"
    child = subprocess.run(
        [sys.executable, str(HARNESS), "--out", str(out), "--device", "cpu"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(blocker)},
        check=False,
        timeout=900,
    )
    assert child.returncode == 0, child.stderr
    assert (out / "failures.txt").read_text() == ""
    observations = common.read_lines(out / "observations.jsonl")
    judged = [item for item in observations if item.probe.get("expected")]
    assert len(observations) - len(judged) == 6
    assert len(judged) == 4
    assert all(item.outcome == item.probe["expected"] for item in judged), "neighbouring batches run and overflow"
    errors = [abs(common.allocated_error(item) or 0) for item in observations if not item.probe.get("expected")]
    assert max(errors) <= 0.01
    text = (out / "summary.md").read_text()
    assert "called fits: 2, of which overflowed: 0" in text
    assert "called infeasible: 2, of which ran all the same: 0" in text


def test_time_that_is_up_ends_the_harness(tmp_path: Path) -> None:
    """GIVEN no minutes THEN nothing is measured, the files are there and the exit code says so."""
    child = subprocess.run(
        [sys.executable, str(HARNESS), "--out", str(tmp_path), "--device", "cpu", "--minutes", "0.01"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 1, child.stderr
    assert "0 points" in (tmp_path / "summary.md").read_text()


def test_the_grid_is_large_and_balanced() -> None:
    """GIVEN an H200 THEN there are at least 120 points besides the verdicts, and each kind is among the first ten."""
    from planner.devices import profiles

    points = [*gpu_grid.architecture_points(), *gpu_grid.setting_points(), *gpu_grid.shape_points()]
    assert len(points) >= 120
    assert len({point.label for point in points}) == len(points)
    assert len({point.config["model_type"] for point in points}) >= 18
    first = list(itertools.islice(gpu_grid.full_grid(profiles.load("h200")), 10))
    assert {point.group for point in first} == {"architecture", "quantized", "settings", "shapes", "verdict"}
    many = list(itertools.islice(gpu_grid.full_grid(profiles.load("h100-80gb")), 120))
    assert len(many) == 120
    assert sum(point.choices.stack == "builtin" for point in many) >= 25
    assert sum(point.choices.method == "qlora" for point in many) >= 25
    assert len(list(gpu_grid.fact_points())) == len(list(gpu_grid.tiny_facts())) == 12
    limited = [point for point in first if point.memory_limit_bytes is not None]
    assert {point.expected for point in limited} == {"ran", "out_of_memory"}


def test_the_boundary_between_verdicts() -> None:
    """GIVEN fits up to 5, tight at 6 and 7 THEN 5 must run and 8 must overflow; without either, None."""
    word = {True: "fits"}
    assert gpu_grid.boundary(lambda b: word.get(b <= 5, "tight" if b <= 7 else "does_not_fit")) == (5, 8)
    assert gpu_grid.boundary(lambda b: "does_not_fit") == (None, 1)
    assert gpu_grid.boundary(lambda b: "fits") == (gpu_grid.LARGEST_BATCH, None)
