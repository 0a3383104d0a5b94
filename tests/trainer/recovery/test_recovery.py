"""Out-of-memory at every place of a step: what is undone, what goes on, and that the training stays the same."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from planner.contract.choices import TrainingChoices
from planner.contract.events import Event
from planner.contract.records import Observation
from tests.support.trainer_support import make_plan, of_kind, train
from trainer.measure import devices
from trainer.recovery import updates
from trainer.recovery.faults import VARIABLE

PLAIN = {"lora_dropout": 0.0}


def losses(events: list[Event]) -> dict[int, float]:
    return {step["step"]: step["loss"] for step in of_kind(events, "step")}


def norms(events: list[Event]) -> dict[int, float]:
    return {step["step"]: step["grad_norm"] for step in of_kind(events, "step")}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = (*folder.glob("model.safetensors"), *folder.glob("adapter_model.safetensors"))
    return load_file(file)


@pytest.fixture(scope="module", params=["lora", "full"])
def method(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def undisturbed(model: Path, data: Path, method: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(f"undisturbed-{method}")
    plan = make_plan(
        folder / "plan.json", model, data, settings={**PLAIN, "method": method}, learning_rate=3e-3, eval_steps=2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(folder / "home"))
        events, failure = train(plan, folder / "run")
    assert failure is None, failure
    return folder, events


@pytest.mark.parametrize(
    ("faults", "phases"),
    [
        ("loss@2,optimizer@5", {"loss", "optimizer"}),
        ("forward@1,backward@4,eval@4,eval@6", {"forward", "backward", "eval"}),
    ],
)
def test_the_curve_goes_on_as_if_nothing_had_been(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: str, phases: set[str]
) -> None:
    folder, reference = undisturbed
    monkeypatch.setenv(VARIABLE, faults)
    events, failure = train(folder / "plan.json", tmp_path / "run")
    assert failure is None, failure
    told = of_kind(events, "oom")
    assert {oom["phase"] for oom in told} == phases
    assert len(told) == sum(int(part.partition("*")[2] or 1) for part in faults.split(","))
    for oom in told:
        assert oom["new_batch_size"] == max(1, oom["batch_size"] // 2)
        if oom["phase"] != "eval":
            assert oom["new_batch_size"] * oom["gradient_accumulation_steps"] == 8
    assert losses(events) == pytest.approx(losses(reference), rel=1e-4)
    assert norms(events) == pytest.approx(norms(reference), rel=1e-3)
    before, after = of_kind(reference, "eval"), of_kind(events, "eval")
    assert [entry["step"] for entry in after] == [entry["step"] for entry in before]
    assert [entry["loss"] for entry in after] == pytest.approx([entry["loss"] for entry in before], rel=1e-4)
    assert [step["learning_rate"] for step in of_kind(events, "step")] == [
        step["learning_rate"] for step in of_kind(reference, "step")
    ]


def test_an_overflow_may_have_no_words(undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own MemoryError says nothing."""
    folder, reference = undisturbed
    monkeypatch.setenv(VARIABLE, "forward@2,eval@4")
    monkeypatch.setattr("trainer.recovery.faults.torch", SimpleNamespace(OutOfMemoryError=lambda text: MemoryError()))
    events, failure = train(folder / "plan.json", tmp_path / "run")
    assert failure is None, failure
    assert [oom["phase"] for oom in of_kind(events, "oom")] == ["forward", "eval"]
    assert losses(events) == pytest.approx(losses(reference), rel=1e-4)


def test_an_update_that_failed_half_way_is_undone_bit_for_bit(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation and update failures don't touch a training number; only later pieces are smaller."""
    folder, _ = undisturbed
    for name, faults in (("clean", ""), ("struck", "optimizer@4*2,eval@2")):
        monkeypatch.setenv(VARIABLE, faults)
        plan = make_plan(
            tmp_path / f"{name}.json",
            folder / "../" / json.loads((folder / "plan.json").read_text())["model"],
            Path(json.loads((folder / "plan.json").read_text())["data"]["path"]),
            settings=json.loads((folder / "plan.json").read_text())["settings"],
            max_steps=4,
            eval_steps=2,
        )
        events, failure = train(plan, tmp_path / name)
        assert failure is None, failure
    assert [oom["phase"] for oom in of_kind(events, "oom")] == ["eval", "optimizer", "optimizer"]
    clean, struck = weights(tmp_path / "clean/checkpoint-4"), weights(tmp_path / "struck/checkpoint-4")
    assert all(torch.equal(clean[name], struck[name]) for name in clean)


def gradients_with(model: Path, data: Path, folder: Path, faults: str, **settings: Any) -> dict[str, torch.Tensor]:
    """Gradients of the first update, before clipping."""
    from trainer.loop.trainer import LoopTrainer

    found: dict[str, torch.Tensor] = {}
    original = LoopTrainer._clip_grad_norm

    def keeping(self: Any, trained: Any) -> Any:
        found.update({name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None})
        return original(self, trained)

    plan = make_plan(
        folder / "plan.json", model, data, max_steps=1, data_settings={"validation_split": 0},
        settings={**PLAIN, **settings},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoopTrainer, "_clip_grad_norm", keeping)
        patch.setenv(VARIABLE, faults)
        events, failure = train(plan, folder / f"run-{faults or 'none'}".replace("*", "x"))
    assert failure is None, failure
    assert len(of_kind(events, "oom")) == (int(faults[-1]) if faults else 0)
    return found


@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "full"}, {"loss": "chunked", "gradient_checkpointing": True}, {"padding": "packed"}],
    ids=["lora", "full", "chunked-checkpointed", "packed"],
)
def test_halved_pieces_make_the_same_gradients(
    model: Path, data: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = gradients_with(model, data, tmp_path, "", **settings)
    for faults in ("forward@1*1", "backward@1*2"):
        halved = gradients_with(model, data, tmp_path, faults, **settings)
        assert halved.keys() == whole.keys()
        # Held against the tensor's largest entry: single entries near zero are sums that cancel.
        off = max(float((halved[n] - whole[n]).abs().max() / (whole[n].abs().max() + 1e-30)) for n in whole)
        assert off < 1e-6, (faults, off)
        total = math.sqrt(sum(float(g.double().square().sum()) for g in whole.values()))
        apart = math.sqrt(sum(float((halved[n] - whole[n]).double().square().sum()) for n in whole))
        assert apart / total < 1e-6


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_random_numbers_go_on_where_they_would_have_been(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    """A run that halved and one that resumed from its checkpoint agree bit for bit: rows and seeds are kept."""
    plan = make_plan(tmp_path / "plan.json", model, data, settings={"lora_dropout": dropout}, save_steps=3)
    monkeypatch.setenv(VARIABLE, "backward@2")
    events, failure = train(plan, tmp_path / "run", resume=None)
    assert failure is None, failure
    import shutil

    shutil.copytree(tmp_path / "run/checkpoint-6", tmp_path / "again/checkpoint-6")
    monkeypatch.delenv(VARIABLE)
    resumed, failure = train(plan, tmp_path / "again", resume="auto")
    assert failure is None, failure
    assert losses(resumed) == {step: loss for step, loss in losses(events).items() if step > 6}
    ours, theirs = weights(tmp_path / "again/checkpoint-8"), weights(tmp_path / "run/checkpoint-8")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_observations_tell_what_did_not_fit_and_what_did(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "loss@2")
    plan = make_plan(tmp_path / "plan.json", model, data, settings=PLAIN)
    _, failure = train(plan, tmp_path / "run")
    assert failure is None, failure
    refused = Observation.model_validate_json((tmp_path / "run/observation-oom-2-loss-4.json").read_text())
    assert (refused.outcome, refused.settings["batch_size"]) == ("out_of_memory", 4)
    kept = Observation.model_validate_json((tmp_path / "run/observation.json").read_text())
    assert (kept.outcome, kept.settings["batch_size"], kept.settings["gradient_accumulation_steps"]) == ("ran", 2, 4)
    assert "out of memory at step 2 in loss with micro-batch 4: went on with 2" in kept.notes
    assert kept.instants["loss"] < refused.instants["loss"]
    assert {"forward", "loss", "backward", "optimizer"} <= set(kept.instants)
    assert len(list((home / "observations").glob("*.json"))) == 2


def test_with_one_row_left_the_run_ends_with_one_line(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "plan.json", model, data, eval_steps=2)
    for faults, place in (("backward@4*4", "backward"), ("optimizer@4*30", "optimizer"), ("eval@2*5", "eval")):
        monkeypatch.setenv(VARIABLE, faults)
        events, failure = train(plan, tmp_path / place)
        (failed,) = of_kind(events, "failed")
        assert failed["exit_code"] == 4
        assert f"({place}) with micro-batch 1: nothing is left to halve" in str(failure)
        assert "\n" not in str(failure)
        assert of_kind(events, "oom")[-1]["new_batch_size"] is None
        if place != "eval":
            assert "the last good checkpoint is" in str(failure)


def test_a_misspelt_fault_is_refused(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "forwards@2")
    _, failure = train(make_plan(tmp_path / "plan.json", model, data), tmp_path / "run")
    assert "'forwards@2' isn't PLACE@STEP" in str(failure)
    assert gc.isenabled(), "it rests only while a run starts"


def test_memory_messages_of_every_device() -> None:
    for text in (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9.50 GiB",
        "CUDA error: out of memory",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":830',
        "MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB)",
        "Invalid buffer size: 24.00 GiB",
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert devices.is_out_of_memory(RuntimeError(text)), text
    assert not devices.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert devices.is_out_of_memory(caught.value)


# ---- the guarded update --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choices",
    [
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "optimizer_implementation": "fused"},
        {"optimizer": "adamw", "optimizer_implementation": "forloop"},
        {"optimizer": "sgd"},
        {"optimizer": "adafactor"},
    ],
    ids=lambda choices: "-".join(choices.values()),
)
def test_guarded_updates_are_the_optimizers_own(choices: dict[str, str]) -> None:
    """Over parts, and struck in the first and in a later update: the same numbers bit for bit."""
    from trainer import modeling

    asked = TrainingChoices(method="full", **choices)  # type: ignore[arg-type]

    def trained(strikes: list[int] | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(5)])
        optimizer = modeling.build_optimizer(net, asked)
        calls, failed = [0], []

        def strike() -> None:
            calls[0] += 1
            if strikes is not None and calls[0] in strikes:
                raise torch.OutOfMemoryError("on demand") if calls[0] % 2 else MemoryError()

        if strikes is not None:
            updates.guard(optimizer, asked, failed=failed.append, strike=strike)
        for number in range(3):
            net(torch.full((2, 8), 1.0 + number)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert len(failed) == len(strikes or ())
        return [*net.parameters(), *(v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))]

    plain = trained(None)
    for strikes in ([], [1], [3, 4, 5, 6]):
        assert all(torch.equal(a, b) for a, b in zip(plain, trained(strikes), strict=True)), strikes
