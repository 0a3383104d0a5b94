"""Probes: real steps in a process of their own, an overflow as an answer, a worker that outlives its probe."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.calibration.worker import Worker, probe
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.records import ProbeRequest
from tests.support.trace_support import TINY, choices, measure
from trainer.commands.probe.command import read_request
from trainer.commands.probe.measure import measure as run_probe

ROOT = Path(__file__).parents[3]


def request(**changes: Any) -> ProbeRequest:
    """A tiny llama, LoRA with checkpointing on the cpu."""
    values: dict[str, Any] = {
        "model": {"id": "tiny", "config": TINY["llama"]},
        "settings": {"stack": "peft", "batch_size": 3, "max_length": 64, "gradient_accumulation_steps": 1},
        "device": "cpu",
        "profile": "cpu",
        "steps": 1,
        "label": "tiny llama",
    }
    return ProbeRequest(**{**values, **changes})


def test_a_probe_counts_the_tensors_of_a_steady_step() -> None:
    """GIVEN the step that the trace's tests measure THEN the probe finds the same bytes, and an evaluation's."""
    found = run_probe(request())
    expected = measure(TINY["llama"], choices())
    for instant in ("forward", "loss", "backward", "optimizer"):
        assert found.instants[instant] == pytest.approx(expected[instant], rel=0.002), instant
    assert found.instants["eval"] > 0
    assert found.allocated_peak_bytes == max(found.instants.values())
    assert len(found.step_seconds) == 1
    assert found.tokens_per_second == pytest.approx(3 * 64 / found.step_seconds[0], rel=0.01)
    assert found.outcome == "ran"
    assert found.versions["torch"] == importlib.metadata.version("torch")  # without the build's name


def test_out_of_memory_is_an_outcome() -> None:
    """GIVEN a limit below and one above the peak THEN the probe overflows in the one and runs in the other."""
    peak = run_probe(request()).allocated_peak_bytes
    assert peak is not None
    over = run_probe(request(memory_limit_bytes=int(0.9 * peak)))
    assert over.outcome == "out_of_memory"
    assert over.probe["phase"] in ("loss", "backward")
    within = run_probe(request(memory_limit_bytes=int(1.02 * peak)))
    assert within.outcome == "ran"
    assert within.allocated_peak_bytes == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full", "gradient_accumulation_steps": 2},
        {"padding": "max", "attention": "eager"},
        {"padding": "packed", "stack": "builtin", "loss": "chunked"},
        {"precision": "bf16-mixed", "eval_batch_size": 5},
    ],
    ids=str,
)
def test_settings_run(changes: dict[str, Any]) -> None:
    settings = {**request().settings, **changes}
    found = run_probe(request(settings=settings))
    assert found.outcome == "ran"
    assert set(found.instants) == {"forward", "loss", "backward", "optimizer", "eval"}
    assert found.probe["padded"] == (changes.get("padding") == "max")


def test_a_request_is_checked() -> None:
    with pytest.raises(InvalidInput, match=r"here: .*device"):
        read_request(request().model_dump_json(by_alias=True).replace('"cpu"', '"tpu"'), "here")
    with pytest.raises(InvalidInput, match="not JSON"):
        read_request("{", "here")
    with pytest.raises(InvalidInput, match="batchsize"):
        run_probe(request(settings={"batchsize": 3}))
    with pytest.raises(NotModelled, match="needs a GPU"):
        run_probe(request(settings={"precision": "fp16"}))


@pytest.mark.nightly
def test_one_process_one_observation(tmp_path: Path) -> None:
    """GIVEN a settings file THEN stdout is the observation and nothing else, with the process's own size."""
    path = tmp_path / "settings.json"
    path.write_text(request().model_dump_json(by_alias=True))
    child = subprocess.run(
        [sys.executable, "-m", "trainer", "probe", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["schema"] == "tuneplan.observation/1"
    assert found["device_peak_bytes"] >= found["probe"]["base_bytes"] > 100 << 20


def test_what_a_probe_refuses_arrives_by_name() -> None:
    with pytest.raises(InvalidInput, match="batchsize"):
        probe(request(settings={"batchsize": 3}), timeout=120)


def test_a_worker_outlives_its_probe() -> None:
    """GIVEN a probe process that is killed between two requests THEN the next request is answered by a new one."""
    with Worker() as worker:
        first = worker.ask(request(), timeout=120)
        assert first.device_peak_bytes is not None
        with pytest.raises(InvalidInput, match="batchsize"):
            worker.ask(request(settings={"batchsize": 3}), timeout=120)
        again = worker.ask(request(), timeout=120)
        assert again.instants == first.instants
        assert again.device_peak_bytes is None, "resident memory of a used process says nothing"
        assert worker.starts == 1
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        assert worker.ask(request(), timeout=120).instants == first.instants
        assert worker.starts == 2
