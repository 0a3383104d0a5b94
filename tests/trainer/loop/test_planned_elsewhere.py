"""A plan for a GPU never runs on a CPU by itself: that is refused with the way out, or asked for by name and told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.records import MemoryReport, Plan
from planner.handover import plans
from tests.support.trainer_support import make_model, make_plan, of_kind, train, write_pairs
from trainer.loop import prepare
from trainer.measure import devices

GIB = 2**30
PROMISED = MemoryReport(
    allocated_peak_bytes=20 * GIB,
    reserved_peak_bytes=20 * GIB,
    device_peak_bytes=20 * GIB,
    interval_bytes=(20 * GIB, 20 * GIB),
    budget_bytes=21 * GIB,
    binding_instant="loss",
    instants={"loss": 20 * GIB},
    components={"weights": 20 * GIB},
)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    file = make_plan(
        tmp_path / "plan.json", make_model(tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl"), max_steps=1
    )
    made = plans.load(file).model_copy(update={"gpu": "a10g", "predicted": PROMISED})
    file.write_text(made.model_dump_json(by_alias=True))
    return file


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_an_unnamed_cpu_is_refused_with_what_was_planned(plan_file: Path, tmp_path: Path) -> None:
    events, failure = train(plan_file, tmp_path / "run")
    assert failure is not None
    for words in ("for a10g (20.0 GiB of 21.0 GiB)", "only a CPU here", "--device cpu", "plan --gpu auto"):
        assert words in str(failure)
    assert not of_kind(events, "step")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_gpu")
def test_a_named_cpu_is_told_once_and_trains(plan_file: Path, tmp_path: Path) -> None:
    events, failure = train(plan_file, tmp_path / "run", device="cpu")
    assert failure is None
    (told,) = [event for event in of_kind(events, "warning") if event["what"] == "another device"]
    assert told["message"].startswith("planned for a10g (20.0 GiB of 21.0 GiB); here is ")
    assert of_kind(events, "finished")


def test_a_smaller_card_than_planned_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(model="m", gpu="a10g", settings={}, predicted=PROMISED)
    cards = {"small": 15 * GIB, "same": 22 * GIB}
    for name, size in cards.items():
        monkeypatch.setattr(devices, "describe", lambda device, size=size: {"title": "Tesla T4", "total_bytes": size})
        told = prepare.device_warning(plan, torch.device("cuda"))
        assert (told is not None) == (name == "small")
        assert told is None or "here is Tesla T4 with 15.0 GiB" in told
    cpu = plan.model_copy(update={"gpu": "cpu"})
    assert prepare.device_warning(cpu, torch.device("cpu")) is None


@pytest.mark.usefixtures("no_gpu")
def test_a_cpus_own_plan_needs_no_word(tmp_path: Path) -> None:
    plan = Plan(model="m", gpu="cpu", settings={})
    assert prepare.choose_device(plan, TrainingChoices(precision="fp32"), "auto").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU")
def test_plan_train_ends_with_two_and_one_line(plan_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(plan_file), "--output", str(plan_file.parent / "run")]) == 2
    assert "PyTorch sees only a CPU here; --device cpu trains on it all the same" in capfd.readouterr().err
