"""The throughput benchmark in small: every contender does the same work, and the limits are what a hand computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.throughput import contenders, docs, limits, report, workload
from benchmarks.throughput.workload import FIXED, RAGGED

TINY = dataclasses.replace(
    workload.CPU,
    dimensions={
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    sequences=12,
    shortest=4,
    longest=40,
    median=12,
    fixed_sequences=6,
    fixed_length=16,
    batch_size=3,
    vocabulary=97,
    lora_r=2,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    workload.write(folder, TINY)
    return folder


def run(name: str, model: Path, scratch: Path, *, metered: bool = False, data: str = RAGGED) -> dict[str, Any]:
    scratch.mkdir()
    return contenders.run(name, model, scratch, TINY, data, "cpu", metered=metered)


def test_contenders_learn_the_same_targets_at_the_same_loss(model: Path, tmp_path: Path) -> None:
    names = ["ours", "ours-without-flat", "ours-without-onednn", "transformers", "transformers-grouped"]
    names += [name for name in ("trl", "trl-packed") if contenders.missing(name) is None]
    found = {name: run(name, model, tmp_path / name) for name in names}
    targets = sum(length - 1 for length in TINY.lengths(RAGGED))
    for name, result in found.items():
        assert result["targets"] == targets, name
        assert result["loss_per_token"] == pytest.approx(found["transformers"]["loss_per_token"], rel=1e-5), name
        assert result["seconds"] > 0, name
        assert result["steps"] == len(result["shapes"]), name


@pytest.mark.parametrize("data", [RAGGED, FIXED])
def test_the_planned_peak_is_the_measured_one(model: Path, tmp_path: Path, data: str) -> None:
    measured = run("ours", model, tmp_path / "run", metered=True, data=data)
    planned = limits.planned_bytes(TINY, TINY.lengths(data), "cpu")
    assert planned == pytest.approx(measured["peak_bytes"], rel=report.PLANNED_WITHIN)
    assert measured["own_peak_bytes"] == pytest.approx(measured["peak_bytes"], rel=0.001)
    recomputed = run("ours-checkpointed", model, tmp_path / "recomputed", metered=True, data=data)
    planned = limits.planned_bytes(TINY, TINY.lengths(data), "cpu", checkpointed=True)
    assert planned == pytest.approx(recomputed["peak_bytes"], rel=report.PLANNED_WITHIN)
    assert recomputed["peak_bytes"] < measured["peak_bytes"]
    assert measured["peak_bytes"] > limits.floor_bytes(TINY, TINY.lengths(data))


def test_the_metered_sequences_hold_the_heaviest_micro_batches() -> None:
    lengths = TINY.lengths(RAGGED)
    assert len(lengths) == TINY.sequences
    assert max(lengths) == TINY.longest
    assert min(lengths) >= TINY.shortest
    ranked = sorted(lengths, reverse=True)
    assert TINY.lengths(RAGGED, metered=True) == [*ranked[:3], *ranked[-3:]]
    assert [len(sequence) for sequence in TINY.sequences_of(RAGGED)] == lengths


def test_the_arithmetic_that_cannot_be_left_out_by_hand() -> None:
    one = dataclasses.replace(TINY, dimensions={**TINY.dimensions, "num_hidden_layers": 1, "num_key_value_heads": 4})
    # q, k, v, o of 32 x 32 and three of 32 x 48; r = 2; a sequence of 3 tokens: 2 targets, 6 pairs.
    layer, adapters = 4 * 32 * 32 + 3 * 32 * 48, 2 * (4 * (32 + 32) + 3 * (32 + 48))
    first = 3 * 32 * 32 + 3 * 2 * 32
    expected = 3 * (4 * layer - 2 * first + 6 * adapters) + 2 * 4 * 32 * 97 + 12 * 32 * 6
    assert limits.flops(one, [3]) == expected


def results(ours: float, theirs: float, peak: int = 50) -> list[report.Run]:
    base = {"loss_per_token": 4.5, "targets": 100, "steps": 4, "shapes": []}
    made: list[report.Run] = [("peak", "", "matmul", {"flops_per_second": {"torch.mm": 1e9, "oneDNN": 2e9}})]
    for name, seconds, size in (("ours", ours, peak), ("transformers", theirs, 100), ("transformers-grouped", 2, 90)):
        for kind in ("timed", "metered"):
            made.append(
                (kind, FIXED, name, {**base, "seconds": seconds, "processor_seconds": seconds, "peak_bytes": size})
            )
    return made


def test_goals_are_judged_by_ratio_loss_and_bytes() -> None:
    found = report.summarize(results(1.0, 1.3), TINY, "cpu")
    assert found["matmul_flops_per_second"] == 2e9
    row = found["tables"][FIXED]["rows"]["transformers"]
    assert row["ours_over_it"] == pytest.approx(1.3)
    verdicts = dict(report.judge(found, TINY, "cpu"))
    assert verdicts["fixed: 1.30 x transformers.Trainer + PEFT, wanted 1.2"]
    assert verdicts["fixed: peak bytes of tuneplan 50% of transformers.Trainer + PEFT's, wanted 60%"]
    slow = report.judge(report.summarize(results(1.0, 1.1, 70), TINY, "cpu"), TINY, "cpu")
    missed = [sentence for sentence, met in slow if not met]
    assert any("1.10 x" in sentence for sentence in missed)
    assert any("70%" in sentence for sentence in missed)
    assert "MISSED" in report.text(found, slow, [])


def test_a_table_takes_its_place_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "lean.md"
    page.write_text("a\n<!-- throughput cpu -->\nold\n<!-- /throughput cpu -->\nb\n")
    monkeypatch.setattr(docs, "PAGE", page)
    about = {"date": "2026-11-26", "device": "a cpu", "threads": 1, "rounds": 3, "versions": {"torch": "2.13"}}
    docs.replace("cpu", "| new |\n", about)
    assert page.read_text().startswith("a\n<!-- throughput cpu -->\n2026-11-26, a cpu, 1 thread(s)")
    assert page.read_text().endswith("| new |\n<!-- /throughput cpu -->\nb\n")
    with pytest.raises(ValueError, match="no place"):
        docs.replace("mps", "", about)
