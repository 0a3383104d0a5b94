"""The score of measured rows: options as `plan check` takes them, errors with their sign, the interval's coverage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.accuracy import measured

ARGS = ["--gpu", "t4", "--model", "smollm2-135m", "--precision", "fp16", "--padding", "max", "--stack", "peft"]


def test_options_become_settings() -> None:
    found = measured.values_of(["--batch-size", "2", "--no-gradient-checkpointing", "--keep-logits", "--lora-r", "8"])
    assert found == {"batch_size": "2", "gradient_checkpointing": False, "keep_logits": True, "lora_r": "8"}


def test_a_row_is_scored_by_sign_and_size(tmp_path: Path) -> None:
    report = measured.predicted(ARGS)
    low, high = report.interval_bytes
    rows = [
        {"id": "half", "device": "T4", "args": ARGS, "bytes": {"allocated": 2 * report.allocated_peak_bytes}},
        {"id": "same", "device": "T4", "args": ARGS, "bytes": {"allocated": report.allocated_peak_bytes}},
    ]
    for row, device in zip(rows, (high + 1, low), strict=True):
        row["bytes"] |= {"reserved": report.reserved_peak_bytes, "device": device}  # type: ignore[operator]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    half, same = measured.read(path)
    assert half.error("allocated") == pytest.approx(-0.5)
    assert same.error("allocated") == 0
    assert not half.inside
    assert same.inside
    text = "\n".join(measured.summary([half, same]))
    assert "| allocated | 2 | 25.00 % | 25.00 % | -25.00 % | -50.00 % |" in text
    assert "holds 1 of 2 device peaks (50 %)" in text


def test_an_option_that_is_no_setting_is_told() -> None:
    with pytest.raises(ValueError, match="sequences"):
        measured.predicted([*ARGS, "--sequences", "3"])
