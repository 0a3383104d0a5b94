"""A traced step as a picture and for PyTorch's memory viewer, and what the allocator's model makes of its events."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.export.memory_viewer import snapshot
from planner.export.timeline import Timeline
from tests.support.trace_support import TINY, choices
from trainer.trace import Setup, trace

SETTINGS = "--stack peft --batch-size 3 --max-length 64 --lora-targets q_proj,v_proj"


def traced_json(**changes: Any) -> dict[str, Any]:
    """What `python -m trainer.trace --events` prints, read back."""
    result = trace(TINY["llama"], choices(**changes), Setup(target="cuda", events=True))
    return dict(json.loads(json.dumps(result.to_json())))


LATE = pytest.param("/proc/step.pickle", marks=pytest.mark.nightly)
"""Found out only once the step is traced."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY["llama"]))
    return str(path)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_course_of_a_step_peaks_where_the_trace_does(accumulation: int) -> None:
    found = traced_json(gradient_accumulation_steps=accumulation)
    course = Timeline.from_trace(found)
    names, live = course.live_by_component()
    memory = found["memory"]
    assert live.sum(axis=0).max() == memory["allocated_peak_bytes"]
    top = int(live.sum(axis=0).argmax())
    at_peak = {name: int(size) for name, size in zip(names, live[:, top], strict=True) if size}
    assert at_peak == {name: size for name, size in memory["components"].items() if size}
    assert (live >= 0).all()
    assert [name for name, _ in course.phases()][-4:] == ["forward", "loss", "backward", "optimizer"]
    # A step ends as it began.
    sizes = {key: storage.size for key, storage in course.storages.items()}
    assert sum(sizes[key] if made else -sizes[key] for key, made in course.step) == 0


def test_the_picture_shows_a_peak_at_its_full_height(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a step THEN the areas stand still between events: a peak of one event is no slope that fades away."""
    from matplotlib.axes import Axes

    from planner.export import timeline_plot

    asked: dict[str, Any] = {}
    drawn = Axes.stackplot

    def stackplot(axes: Axes, *places: Any, **options: Any) -> Any:
        asked.update(options)
        return drawn(axes, *places, **options)

    monkeypatch.setattr(Axes, "stackplot", stackplot)
    timeline_plot.picture(Timeline.from_trace(traced_json()), title="", file_format="svg")
    assert asked["step"] == "post"


def test_the_memory_viewer_reads_the_step() -> None:
    from torch.cuda import _memory_viz

    found = traced_json()
    course = Timeline.from_trace(found)
    content: dict[str, Any] = pickle.loads(pickle.dumps(snapshot(course)))
    summary = _memory_viz.segsum(content)  # checks the sums of blocks and segments itself
    assert f"segments: {len(content['segments'])}" in summary
    assert "cudaMalloc" in _memory_viz.trace(content)
    live = highest = reserved = 0
    for entry in content["device_traces"][0]:
        if entry["action"] == "alloc":
            live += entry["size"]
        elif entry["action"] == "free_completed":
            live -= entry["size"]
        elif entry["action"] == "segment_alloc":
            reserved += entry["size"]
        highest = max(highest, live)
    assert highest == found["memory"]["allocated_peak_bytes"]
    assert reserved == sum(segment["total_size"] for segment in content["segments"])
    assert live == sum(segment["requested_size"] for segment in content["segments"])
    frames = [entry["frames"] for entry in content["device_traces"][0] if entry["frames"]]
    assert any("q_proj" in frame["filename"] for frame, *_ in frames)


def test_plan_trace_writes_both_files(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, history = tmp_path / "step.png", tmp_path / "step.pickle"
    command = ["trace", "--gpu", "a10g", "--model", config, "--json", *SETTINGS.split()]
    assert main([*command, "--timeline", str(picture), "--memory-viewer", str(history)]) == 0
    memory = json.loads(capsys.readouterr().out)
    assert memory["reserved_peak_bytes"] >= memory["allocated_peak_bytes"]
    assert sum(memory["components"].values()) == memory["device_peak_bytes"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    content = pickle.loads(history.read_bytes())
    held = sum(segment["total_size"] for segment in content["segments"])
    # Small blocks are counted in whole segments by the report and played one by one in the history.
    assert abs(held - memory["reserved_peak_bytes"]) <= 4 << 20


@pytest.mark.parametrize("file", ["", "folder", "nowhere/step.pickle", LATE])
def test_a_history_that_cannot_be_written_is_refused_or_said(
    config: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN a place that takes no file THEN it is refused before the trace, or the report is there all the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    code = main(["trace", "--gpu", "a10g", "--model", config, *SETTINGS.split(), "--memory-viewer", file])
    caught = capsys.readouterr()
    assert code == 2 or (code == 4 and "device peak" in caught.out)
    assert repr(file) in caught.err or file in caught.err.splitlines()[-1]
    assert "Traceback" not in caught.err


@pytest.mark.parametrize("file", ["step.bmp", "step", "nowhere/step.png"])
def test_files_that_cannot_be_written_are_refused_before_the_trace(
    config: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "--gpu", "a10g", "--model", config, *SETTINGS.split(), "--timeline", file]) == 2
    caught = capsys.readouterr()
    assert file in caught.err
    assert "tracing" not in caught.err


def test_several_devices_are_not_traced_as_one(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN two devices THEN plan trace says that it traces one, instead of answering for one."""
    assert main(["trace", "--gpu", "a10g", "--model", config, *SETTINGS.split(), "--num-gpus", "2"]) == 2
    assert "--num-gpus 2" in capsys.readouterr().err
