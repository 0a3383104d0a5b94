"""Real runs of a tiny model: what they emit, write and measure; resume; every early end."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from planner.contract.events import Event
from planner.contract.records import Observation
from tests.support.trainer_support import make_model, make_plan, of_kind, train, write_pairs


def losses(events: list[Event]) -> dict[int, float]:
    return {step["step"]: step["loss"] for step in of_kind(events, "step")}


@pytest.fixture(scope="module")
def finished(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """One uninterrupted run of two epochs, eight steps, that several tests look at."""
    folder = tmp_path_factory.mktemp("finished")
    plan = make_plan(folder / "plan.json", model, data, report_to=("tensorboard",), save_total_limit=3, save_steps=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(folder / "home"))
        events, failure = train(plan, folder / "run")
    assert failure is None, failure
    return folder, events


# ---- what a run leaves ---------------------------------------------------------------------------------------------


def test_events_tell_the_whole_story(finished: tuple[Path, list[Event]]) -> None:
    folder, events = finished
    (started,) = of_kind(events, "started")
    assert started["total_steps"] == 8
    assert 0 < started["trainable_parameters"] < started["parameters"]
    assert started["pid"] == os.getpid()
    (told,) = of_kind(events, "data")
    assert (told["examples"], told["validation_examples"], told["skipped"]) == (32, 8, 0)
    assert sum(told["lengths"]["counts"]) == 32
    steps = of_kind(events, "step")
    assert [step["step"] for step in steps] == list(range(1, 9))
    assert all(math.isfinite(step["loss"]) and step["tokens_per_second"] > 0 for step in steps)
    assert steps[-1]["seconds_left"] == 0
    evaluations = of_kind(events, "eval")
    assert [entry["step"] for entry in evaluations] == [0, 4, 8]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert evaluations[-1]["perplexity"] == pytest.approx(math.exp(evaluations[-1]["loss"]))
    assert isinstance(evaluations[0]["sample"], str)
    assert evaluations[0]["sample_prompt"]
    assert evaluations[0]["sample_expected"]
    assert {phase["name"] for phase in of_kind(events, "phase")} == {"load", "data", "train", "eval", "save", "finish"}
    (end,) = of_kind(events, "finished")
    assert end["reason"] == "completed"
    assert end["eval_loss_before"] == evaluations[0]["loss"]
    assert end["eval_loss"] == min(entry["loss"] for entry in evaluations[1:])
    kept = [Event.model_validate_json(line) for line in (folder / "run/events.jsonl").read_text().splitlines()]
    assert kept == events


SENSED = {"device_load", "device_celsius", "device_watts", "device_watt_hours"}
NOT_TOLD_HERE = {"eval": {"accuracy"}, "step": SENSED, "finished": {"device_watt_hours"}}
"""Fields of a classifier's run, and of a card whose sensors can be read."""


def test_each_event_sets_every_field_of_its_record(finished: tuple[Path, list[Event]]) -> None:
    told = {event.kind: event.told for event in finished[1]}
    assert set(told) == {"phase", "data", "started", "step", "eval", "checkpoint", "finished"}
    for kind, record in told.items():
        assert record is not None
        assert {*type(record).model_fields} - record.model_fields_set == NOT_TOLD_HERE.get(kind, set())
        assert next(event for event in finished[1] if event.kind == kind).data.keys() <= {*type(record).model_fields}


def test_checkpoints_are_rotated_and_the_best_stays(finished: tuple[Path, list[Event]]) -> None:
    folder, events = finished
    names = sorted(path.name for path in (folder / "run").glob("checkpoint-*"))
    assert [entry["step"] for entry in of_kind(events, "checkpoint")] == [3, 4, 6, 8]
    assert len(names) == 3
    assert "checkpoint-8" in names
    assert not list((folder / "run").glob(".*"))
    assert list((folder / "run/tensorboard").glob("events.*"))
    assert "lora" in (folder / "run/plan.yaml").read_text()


def test_the_adapter_loads_in_plain_peft_and_speaks_as_the_trainer_did(finished: tuple[Path, list[Event]]) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer.__main__ import main
    from trainer.commands.generate import load_trained

    folder, events = finished
    adapter = Path(of_kind(events, "finished")[0]["adapter_path"])
    assert {path.name for path in adapter.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    config = json.loads((adapter / "adapter_config.json").read_text())
    place = Path(json.loads((folder / "plan.json").read_text())["model"])
    assert config["base_model_name_or_path"] == f"./{place.name}"  # where it stands is the plan's to say
    base = AutoModelForCausalLM.from_pretrained(place)
    ids = torch.tensor([AutoTokenizer.from_pretrained(adapter)("<|user|>say abab<|end|><|assistant|>")["input_ids"]])
    with torch.no_grad():
        untrained = base(ids).logits
        trained = PeftModel.from_pretrained(base, str(adapter)).eval()(ids).logits
        with contextlib.chdir(place.parent):
            auto = AutoPeftModelForCausalLM.from_pretrained(str(adapter))(ids).logits
        ours = load_trained(folder / "run", torch.device("cpu"))[0](ids).logits
    assert (trained - untrained).abs().max() > 0.1
    torch.testing.assert_close(auto, trained)
    torch.testing.assert_close(ours, trained)
    weights = load_file(adapter / "adapter_model.safetensors")
    assert len(weights) == 2 * 2 * 7
    assert main(["generate", str(folder / "run"), "--prompt", "say abab", "--max-new-tokens", "4"]) == 0
    assert main(["generate", str(folder), "--prompt", "x"]) == 2


def test_the_observation_sets_measured_beside_predicted(finished: tuple[Path, list[Event]]) -> None:
    folder, events = finished
    (end,) = of_kind(events, "finished")
    path = Path(end["observation_path"])
    observation = Observation.model_validate_json(path.read_text())
    copies = list((folder / "home/observations").glob("*.json"))
    assert [copy.read_text() for copy in copies] == [path.read_text()]
    assert observation.hardware["profile"] == "cpu"
    assert observation.model["config"]["hidden_size"] == 32
    assert set(observation.instants) == {"load", "eval", "forward", "loss", "backward", "optimizer", "save"}
    assert observation.allocated_peak_bytes == max(observation.instants.values()) == end["measured_bytes"]
    assert observation.device_peak_bytes is not None
    assert observation.device_peak_bytes > observation.allocated_peak_bytes
    # The longest batch was shorter than planned, and the observation says for what length it stands.
    assert observation.settings["max_length"] == end["longest_length"] < end["planned_length"] == 32
    assert len(observation.step_seconds) == 7
    # Weights and logits alone bound the peak from below: fp32, 4 x longest x 261.
    assert observation.instants["loss"] > observation.instants["load"] + 4 * end["longest_length"] * 261 * 4


# ---- resume --------------------------------------------------------------------------------------------------------


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("stop_at", [3, 4])
def test_a_resumed_run_is_the_uninterrupted_run(
    finished: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Stopped within an epoch and at its end: the same losses and, bit for bit, the same weights."""
    from trainer.loop.callbacks import Reporter

    folder, whole = finished
    original = Reporter.on_step_end

    def stopping(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> Any:
        if state.global_step == stop_at:
            self.flags.stop.set()
        return original(self, args, state, control, **rest)

    monkeypatch.setattr(Reporter, "on_step_end", stopping)
    first, failure = train(folder / "plan.json", tmp_path / "run")
    assert failure is None
    assert of_kind(first, "finished")[0]["reason"] == "stopped"
    assert of_kind(first, "checkpoint")[-1]["step"] == stop_at
    monkeypatch.setattr(Reporter, "on_step_end", original)
    second, failure = train(folder / "plan.json", tmp_path / "run", resume="auto")
    assert failure is None
    assert losses(first) | losses(second) == losses(whole)
    assert min(losses(second)) == stop_at + 1
    assert [entry["step"] for entry in of_kind(second, "eval")] == [step for step in (4, 8) if step > stop_at]
    end, reference = of_kind(second, "finished")[0], of_kind(whole, "finished")[0]
    assert end["eval_loss"] == reference["eval_loss"]
    assert end["eval_loss_before"] == reference["eval_loss_before"]
    ours, theirs = weights_of(tmp_path / "run/checkpoint-8"), weights_of(folder / "run/checkpoint-8")
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_run_that_broke_after_its_last_step_only_writes_its_results(
    finished: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    """Everything but the checkpoints is gone, as after a full disk at the end: no step is made twice or added."""
    import shutil

    folder, whole = finished
    for checkpoint in (folder / "run").glob("checkpoint-*"):
        shutil.copytree(checkpoint, tmp_path / "run" / checkpoint.name)
    events, failure = train(folder / "plan.json", tmp_path / "run", resume="auto")
    assert failure is None
    assert losses(events) == {}
    assert of_kind(events, "finished")[0]["steps"] == of_kind(whole, "finished")[0]["steps"] == 8
    ours, theirs = weights_of(tmp_path / "run/adapter"), weights_of(folder / "run/adapter")
    assert theirs.keys() == ours.keys()
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_resume_refuses_what_is_not_the_same_run(
    finished: tuple[Path, list[Event]], model: Path, data: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    checkpoint = str(folder / "run/checkpoint-8")
    for says, plan in (
        (
            "lora_r was 4 and is 8 now",
            make_plan(tmp_path / "rank.json", model, data, settings={"lora_r": 8}),
        ),
        (
            "(the data changed since then)",
            make_plan(tmp_path / "data.json", model, write_pairs(tmp_path / "other.jsonl", 44)),
        ),
    ):
        _, failure = train(plan, tmp_path / "run", resume=checkpoint)
        assert says in str(failure)
    _, failure = train(folder / "plan.json", tmp_path / "empty", resume="auto")
    assert "holds no good checkpoint; start without --resume" in str(failure)


def test_a_damaged_checkpoint_is_passed_over_loudly(finished: tuple[Path, list[Event]], tmp_path: Path) -> None:
    import shutil

    folder, _ = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    newest = tmp_path / "run/checkpoint-8"
    broken = newest / "optimizer.safetensors"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    events, failure = train(folder / "plan.json", tmp_path / "run", resume="auto")
    assert failure is None
    (warning,) = [entry for entry in of_kind(events, "warning") if entry["what"] == "damaged checkpoint"]
    assert "optimizer.safetensors differs from what was written" in warning["message"]
    assert not of_kind(events, "started")[0]["resumed_from"].endswith("checkpoint-8")
    broken.unlink()
    _, failure = train(folder / "plan.json", tmp_path / "other", resume=str(newest))
    assert failure is None or "damaged" in str(failure)


# ---- variants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "full", "loss": "chunked"},
        {"padding": "packed", "loss": "chunked", "gradient_checkpointing": True, "checkpoint_layers": 1},
        {"padding": "max", "precision": "bf16", "adapter_dtype": "bf16", "attention": "eager"},
        {"precision": "bf16-mixed", "optimizer": "sgd", "lora_targets": ["attention"]},
    ],
    ids=["full-chunked", "packed-checkpointed", "bf16-eager-max", "mixed-sgd"],
)
def test_variants_train(model: Path, data: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    plan = make_plan(
        tmp_path / "plan.json", model, data, settings=settings, max_steps=3, eval_steps=2, learning_rate=3e-2
    )
    events, failure = train(plan, tmp_path / "run")
    assert failure is None, failure
    evaluations = of_kind(events, "eval")
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert [entry["step"] for entry in evaluations] == [0, 2, 3]
    trained = Path(of_kind(events, "finished")[0]["adapter_path"])
    assert trained.name == ("model" if settings.get("method") == "full" else "adapter")
    assert list(trained.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("stack", "changes"),
    [
        ("builtin", {"lora_variant": "rslora"}),
        ("builtin", {"quantization": "int8"}),
        ("peft", {"quantization": "int8"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_qlora_trains_over_packed_weights(data: Path, tmp_path: Path, stack: str, changes: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    wide = make_model(tmp_path / "wide", width=64)  # the block size of nf4 on a cpu is 64 weights of one row
    settings = {"method": "qlora", "precision": "bf16", "stack": stack, **changes}
    plan = make_plan(tmp_path / "plan.json", wide, data, settings=settings, max_steps=4)
    events, failure = train(plan, tmp_path / "run")
    assert failure is None, failure
    evaluations = of_kind(events, "eval")
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert config["use_rslora"] == ("lora_variant" in changes)


def test_full_training_starts_from_scratch_where_there_are_no_weights(data: Path, tmp_path: Path) -> None:
    blank = make_model(tmp_path / "blank", weights=False)
    plan = make_plan(
        tmp_path / "plan.json",
        blank,
        data,
        settings={"method": "full"},
        max_steps=2,
        data_settings={"validation_split": 0},
    )
    events, failure = train(plan, tmp_path / "run")
    assert failure is None, failure
    assert not of_kind(events, "eval")
    assert of_kind(events, "finished")[0]["eval_loss"] is None
    plan = make_plan(tmp_path / "lora.json", blank, data)
    _, failure = train(plan, tmp_path / "lora")
    assert "no safetensors weights to attach adapters to" in str(failure)


def test_chunked_loss_and_accumulation_leave_the_curve_alone(model: Path, data: Path, tmp_path: Path) -> None:
    """Three ways to the same effective batch of eight give the same losses (no dropout, one order of examples)."""
    curves = []
    for name, settings in {
        "whole": {"batch_size": 8, "gradient_accumulation_steps": 1},
        "chunked": {"batch_size": 8, "gradient_accumulation_steps": 1, "loss": "chunked"},
        "split": {"batch_size": 2, "gradient_accumulation_steps": 4},
    }.items():
        plan = make_plan(
            tmp_path / f"{name}.json", model, data, max_steps=2, group_by_length=False,
            settings={"lora_dropout": 0.0, **settings}, data_settings={"validation_split": 0},
        )  # fmt: skip
        events, failure = train(plan, tmp_path / name)
        assert failure is None, failure
        curves.append(losses(events))
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert sum(curves[2].values()) == pytest.approx(sum(curves[0].values()), rel=0.05)


def test_early_stopping_counts_evaluations_without_enough_gain(model: Path, data: Path, tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path / "plan.json", model, data, eval_steps=1, early_stopping_patience=2, early_stopping_threshold=9.0
    )
    events, failure = train(plan, tmp_path / "run")
    assert failure is None
    (end,) = of_kind(events, "finished")
    assert (end["reason"], end["steps"]) == ("early_stopping", 3)


# ---- early ends ----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import modeling

    original, calls = modeling.compute_loss, []

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        loss, kept = original(*args, **kwargs)
        calls.append(1)
        return (loss * float("nan") if len(calls) == 9 else loss), kept

    monkeypatch.setattr(modeling, "compute_loss", poisoned)
    plan = make_plan(tmp_path / "plan.json", model, data, eval_steps=2, data_settings={"validation_split": 0})
    events, failure = train(plan, tmp_path / "run")
    (failed,) = of_kind(events, "failed")
    assert failed["exit_code"] == 4
    assert "step 5: the loss became nan; the last good checkpoint is" in failed["message"]
    assert failed["message"] == str(failure)
    assert "checkpoint-" in failed["message"]
    assert (tmp_path / "run/observation.json").exists()


def test_out_of_memory_that_no_halving_cures_is_one_line(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from trainer import modeling

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(modeling, "compute_loss", full)
    plan = make_plan(tmp_path / "plan.json", model, data, data_settings={"validation_split": 0})
    events, _ = train(plan, tmp_path / "run")
    told = of_kind(events, "oom")
    assert {(oom["phase"], oom["step"]) for oom in told} == {("forward", 1)}
    assert [(oom["batch_size"], oom["new_batch_size"]) for oom in told] == [(4, 2), (2, 1), (1, 1), (1, None)]
    (failed,) = of_kind(events, "failed")
    assert failed["exit_code"] == 4
    assert "at step 1 (forward) with micro-batch 1: nothing is left to halve" in failed["message"]
    assert "--gradient-checkpointing, --loss chunked or --method qlora" in failed["message"]


def test_wrong_requests_are_one_line_with_exit_code_2(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/config.json").write_text((model / "config.json").read_text())
    for file in model.glob("tokenizer*"):
        (tmp_path / "pickled" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"\x80")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    cases: list[tuple[str, dict[str, Any]]] = [
        ("no such model folder", {"model": tmp_path / "nothing"}),
        ("holds no config.json", {"model": tmp_path / "hollow"}),
        ("pickled weights can run code", {"model": tmp_path / "pickled"}),
        ("no such data file", {"data": tmp_path / "none.jsonl"}),
        ("bad.jsonl:2: 'completion' is missing", {"data": tmp_path / "bad.jsonl"}),
        ("settings.batch_size must be a whole number", {"settings": {"batch_size": 0}}),
        ("settings.batchsize: this key is unknown", {"settings": {"batchsize": 1}}),
        ("longer than the 128 positions", {"settings": {"max_length": 4096}}),
        ("matches no linear module; this model has", {"settings": {"lora_targets": ["Wqkv"]}}),
        ("needs a GPU: on cpu use bf16 or fp32", {"settings": {"precision": "fp16"}}),
        ("leaves a token to learn within --max-length 4", {"settings": {"max_length": 4}}),
        ("hyperparameters.learning_rate must be above 0", {"learning_rate": 0.0}),
        ("report_to 'wandbb' is unknown", {"report_to": ("wandbb",)}),
        ("validation_split must lie in [0, 1)", {"data_settings": {"validation_split": 1.0}}),
    ]
    for says, changes in cases:
        options = {"model": model, "data": data, **changes}
        plan = make_plan(tmp_path / "plan.json", options.pop("model"), options.pop("data"), **options)
        events, failure = train(plan, tmp_path / "run")
        (failed,) = of_kind(events, "failed")
        assert says in failed["message"], (says, failed)
        assert failed["exit_code"] == 2, failed
        assert "\n" not in failed["message"]
        assert str(failure) == failed["message"]


def test_weights_of_other_dimensions_than_planned_are_refused(model: Path, data: Path, tmp_path: Path) -> None:
    from planner.handover.plans import load, save

    plan = load(make_plan(tmp_path / "plan.json", model, data))
    config = json.loads((model / "config.json").read_text()) | {"hidden_size": 2560}
    save(plan.model_copy(update={"model_config_inline": config}), tmp_path / "plan.yaml")
    _, failure = train(tmp_path / "plan.yaml", tmp_path / "run")
    assert "hidden_size is 32, but the plan was made for 2560; plan this model anew" in str(failure)


def test_one_run_per_folder(finished: tuple[Path, list[Event]], tmp_path: Path) -> None:
    from trainer.wire.folder import FolderLock

    folder, _ = finished
    _, failure = train(folder / "plan.json", folder / "run")
    assert "already holds a run: go on with --resume" in str(failure)
    lock = FolderLock(tmp_path / "busy")
    lock.sign()
    events, failure = train(folder / "plan.json", tmp_path / "busy")
    assert f"in use by another run (process {os.getpid()})" in str(failure)
    assert of_kind(events, "failed")[0]["exit_code"] == 2
    lock.release()
    (tmp_path / "file").write_text("")
    _, failure = train(folder / "plan.json", tmp_path / "file")
    assert "is no folder" in str(failure)


def test_more_data_workers_than_processors_are_not_started(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN 300 data workers and one processor WHEN the run starts THEN one is, and a warning says so."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    plan = make_plan(tmp_path / "plan.json", model, data, max_steps=1, dataloader_workers=300)
    events, failure = train(plan, tmp_path / "run")
    assert failure is None
    (told,) = (warning for warning in of_kind(events, "warning") if warning["what"] == "data workers")
    assert told["message"] == "300 data workers were asked for; 1 start, one for each processor"
