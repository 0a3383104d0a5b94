"""Bytes per rank: runs of two processes on a cpu, metered, against the closed form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from planner import memory
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.devices.hardware import find
from planner.memory.step.sharding import ZERO_LIVE, per_rank, units
from planner.models import sources
from tests.support.trainer_support import SETTINGS, make_model, make_plan

COMMON: dict[str, Any] = {
    "num_gpus": 2,
    "batch_size": 2,
    "padding": "max",
    "max_length": 64,
    "lora_dropout": 0.0,
    "lora_r": 8,
    "loss": "chunked",
    "gradient_accumulation_steps": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("memory")
    make_model(made / "model", layers=4, width=128)
    lines = [json.dumps({"text": "abcdefgh" * 16}) for _ in range(16)]
    (made / "data.jsonl").write_text("\n".join(lines))
    return made


@pytest.mark.parametrize(
    ("strategy", "method", "accumulation"),
    [
        pytest.param("ddp", "lora", 1, marks=pytest.mark.nightly),
        pytest.param("ddp", "full", 1, marks=pytest.mark.nightly),
        pytest.param("fsdp", "lora", 1, marks=pytest.mark.nightly),
        pytest.param("fsdp", "full", 1, marks=pytest.mark.nightly),
        ("fsdp", "full", 2),
    ],
)
def test_ranks_hold_what_is_planned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, method: str, accumulation: int
) -> None:
    """GIVEN two processes WHEN they take real steps THEN the most that either holds is what the closed form says."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from planner.handover import trainer_process

    settings = {**COMMON, "strategy": strategy, "method": method, "gradient_accumulation_steps": accumulation}
    plan = make_plan(
        tmp_path / "plan.json",
        folder / "model",
        folder / "data.jsonl",
        settings=settings,
        data_settings={"validation_split": 0.0},
        max_steps=3,
    )
    run = trainer_process.start(plan, output=tmp_path / "run")
    assert list(run)
    assert run.wait(60) == 0, run.stderr_tail
    measured = json.loads((tmp_path / "run/observation.json").read_text())["instants"]
    spec = sources.load_model(str(folder / "model"))
    choices = TrainingChoices(**{**SETTINGS, **settings, "lora_targets": ("all-linear",)})
    found = memory.predict(spec, find("cpu"), choices).instants
    for instant in ("forward", "loss", "backward"):
        assert abs(found[instant] / measured[instant] - 1) <= 0.005, (instant, found, measured)
    # Under FSDP the update's parts are cut by what a rank holds of each tensor, the plan's by whole tensors.
    assert abs(found["optimizer"] / measured["optimizer"] - 1) <= 0.02, (found, measured)
    if strategy == "fsdp":  # rank 0 gathers what it writes; on a cpu it holds that as tensors, which can be the peak
        assert abs(found["save"] / measured["save"] - 1) <= 0.05, (found, measured)


def test_shares_of_a_rank() -> None:
    """Sums by hand: 1,000 trained elements of 2 bytes over 4 devices."""
    base = TrainingChoices(method="full", num_gpus=4, precision="bf16")
    given: dict[str, Any] = {
        "weights": 2000,
        "adapters": 0,
        "optimizer_state": 4000,
        "gradients": 2000,
        "elements": 1000,
        "itemsize": 2,
        "accumulating": False,
    }
    shares = per_rank(dataclasses.replace(base, strategy="ddp"), **given)
    assert (shares.weights, shares.optimizer_state, shares.gradients, shares.buckets) == (2000, 4000, 2000, 0)
    shares = per_rank(dataclasses.replace(base, strategy="fsdp"), **{**given, "accumulating": True})
    assert (shares.weights, shares.optimizer_state, shares.gradients, shares.buckets) == (500, 1000, 500, 0)
    shares = per_rank(dataclasses.replace(base, strategy="zero2"), **given)
    assert (shares.weights, shares.optimizer_state, shares.gradients, shares.buckets) == (2000, 12_000 // 4, 0, 0)
    shares = per_rank(dataclasses.replace(base, strategy="zero2"), **{**given, "accumulating": True})
    assert shares.gradients == 4000 // 4
    shares = per_rank(dataclasses.replace(base, strategy="zero3"), **given)
    assert (shares.weights, shares.optimizer_state, shares.buckets) == (500, 3000, 2000 + 2000 + 2000)
    shares = per_rank(dataclasses.replace(base, strategy="zero3"), **{**given, "weights": 10**11})
    assert shares.buckets == 2000 + 2 * ZERO_LIVE + 2 * 50_000_000
    lora = TrainingChoices(method="lora", num_gpus=4)
    assert per_rank(lora, **{**given, "adapters": 2000}).buckets == 2000
    with pytest.raises(NotModelled, match="quantised weights"):
        per_rank(dataclasses.replace(base, strategy="fsdp", method="qlora"), **given)
    quantised = dataclasses.replace(base, method="qlora", stack="peft")
    for strategy, weights in (("fsdp", 400 + 1600 // 4), ("zero3", 400 + 1600 // 4), ("zero2", 2000)):  # scales whole
        shares = per_rank(dataclasses.replace(quantised, strategy=strategy), **{**given, "whole": 400})
        assert shares.weights == weights
    with pytest.raises(NotModelled, match="int8"):
        per_rank(dataclasses.replace(quantised, strategy="fsdp", quantization="int8"), **given)
    stock = dataclasses.replace(base, stack="peft", strategy="fsdp")
    assert per_rank(stock, **{**given, "accumulating": True}).gradients == 2000  # the Trainer's `no_sync`
    with pytest.raises(NotModelled, match="adafactor"):
        per_rank(dataclasses.replace(base, strategy="fsdp", optimizer="adafactor"), **given)


def test_units_cover_the_model(folder: Path) -> None:
    """Layers, embeddings and the rest are all weights; adapters go with their layers."""
    spec = sources.load_model(str(folder / "model"))
    found = units(spec, size=lambda module: 4 * module.parameters, adapters={})
    assert len(found.layers) == 4
    assert len(set(found.layers)) == 1
    assert sum(found.layers) + found.embedding + found.root == 4 * sum(m.parameters * m.copies for m in spec.modules)
    carried = units(
        spec,
        size=lambda module: 4 * module.parameters,
        adapters={"model.layers.{}.self_attn.q_proj": (100, (0, 2))},
    )
    assert [more - less for more, less in zip(carried.layers, found.layers, strict=True)] == [100, 0, 100, 0]


def test_more_devices_never_need_more_each() -> None:
    """GIVEN 1 to 64 devices THEN FSDP's bytes per rank fall towards what no division touches."""
    spec = sources.load_model("llama-3.2-1b")
    base = TrainingChoices(method="full", precision="bf16", batch_size=1, max_length=512, strategy="fsdp")
    peaks = [
        memory.predict(spec, find("h200"), dataclasses.replace(base, num_gpus=n)).allocated_peak_bytes
        for n in (2, 4, 8, 16, 32, 64)
    ]
    assert peaks == sorted(peaks, reverse=True)
    whole = memory.predict(spec, find("h200"), base).allocated_peak_bytes
    assert peaks[0] < 0.8 * whole


@pytest.mark.parametrize("name", ["phi-4-mini", "bert-base-uncased", "qwen3-30b-a3b"])
def test_modules_out_of_order_can_be_divided(name: str) -> None:
    """GIVEN a model that makes some modules out of order WHEN adapters are on others THEN every unit has its share."""
    chosen = TrainingChoices(num_gpus=2, strategy="fsdp", lora_targets=("attention",), max_length=64)
    report = memory.predict(sources.load_model(name), find("a100-80gb"), chosen)
    assert report.instants["backward"] > report.instants["load"] > 0


STOCK = TrainingChoices(
    stack="peft",
    strategy="fsdp",
    num_gpus=2,
    batch_size=2,
    max_length=1024,
    gradient_accumulation_steps=1,
    lora_targets=("q_proj", "v_proj"),
    lora_dropout=0.0,
)


def _instants(**changes: Any) -> dict[str, int]:
    chosen = dataclasses.replace(STOCK, **changes)
    return memory.predict(sources.load_model("llama-3.2-1b"), find("a100-80gb"), chosen).instants


def test_accelerate_gathers_16_bit_copies_of_fp32_parts() -> None:
    """GIVEN fp32 weights under autocast THEN a rank keeps its fp32 part, and what runs is as wide as 16-bit weights."""
    mixed, narrow = _instants(precision="bf16-mixed"), _instants(precision="bf16-amp")
    frozen = 1_235_814_400  # parameters of the model
    assert mixed["load"] - narrow["load"] == frozen * 2 // 2
    assert mixed["backward"] - mixed["load"] == narrow["backward"] - narrow["load"]
    builtin = _instants(precision="bf16-mixed", stack="builtin")  # gathers what is stored
    assert builtin["forward"] - builtin["load"] > mixed["forward"] - mixed["load"] + 2 * 10**8


def test_quantised_weights_are_divided_and_their_scales_are_not() -> None:
    """GIVEN 4-bit weights in 16-bit storage THEN two ranks hold half of the values and of what isn't quantised each."""
    two, four = (_instants(method="qlora", precision="bf16-amp", num_gpus=n)["load"] for n in (2, 4))
    linear, rest = 16 * 60_817_408, 1_235_814_400 - 16 * 60_817_408
    trained = 16 * 8 * ((2048 + 2048) + (2048 + 512)) * 12
    quarter = (linear // 2 + 2 * rest + trained) / 4
    assert two - four == pytest.approx(quarter, abs=200)


def test_re_entrant_checkpoints_keep_the_inputs_gradients_under_fsdp_1() -> None:
    """GIVEN frozen weights THEN the inputs of 16 layers and their gradients are there at the end of backward."""
    shape = {"precision": "bf16-amp", "batch_size": 8, "max_length": 2048, "loss": "full"}
    plain, kept = (_instants(**shape, checkpoint_reentrant=way)["backward"] for way in (False, True))
    trained = _instants(**shape, method="full", checkpoint_reentrant=True)["backward"]
    assert trained == _instants(**shape, method="full")["backward"]
    assert kept >= plain
    ends = _instants(**shape, checkpoint_reentrant=True)["load"] + 2 * 16 * 8 * 2048 * 2048 * 2
    assert kept > ends
