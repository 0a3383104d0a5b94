"""A remedy's change, made as it is written, gives exactly the verdict and the bytes that it promised."""

from __future__ import annotations

from typing import Any

import pytest

from planner.cli.asked import Target
from planner.cli.resolve import resolve
from planner.contract.records import CheckReport
from planner.contract.settings import to_settings
from planner.decide.check import check

CASES = [
    ("t4", {"method": "full", "batch_size": 8, "max_length": 512}),
    ("v100-16gb", {"stack": "peft", "batch_size": 8, "max_length": 512, "gradient_checkpointing": False}),
    ("gtx-1080-ti", {"batch_size": 16, "max_length": 1024, "gradient_checkpointing": False}),
    ("a10g", {"method": "full", "batch_size": 8, "max_length": 1024, "gradient_checkpointing": False}),
]


def judged(gpu: str, words: dict[str, Any]) -> CheckReport:
    """As `plan check` judges these options."""
    return check(resolve(Target(gpu=gpu, model="qwen2.5-1.5b", settings=words)))


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        # The others take as long again each: they predict some forty configurations.
        pytest.param(*case, id=case[0], marks=() if case[0] == "v100-16gb" else pytest.mark.nightly)
        for case in CASES
    ],
)
def test_each_remedy_holds_from_the_words_and_from_the_settings(gpu: str, words: dict[str, Any]) -> None:
    report = judged(gpu, words)
    assert report.remedies
    settings = {name: value for name, value in to_settings(report.settings).items() if value is not None}
    for remedy in report.remedies:
        change = dict(remedy.change)
        there = change.pop("gpu", gpu)
        left = report.memory.budget_bytes - report.memory.device_peak_bytes + remedy.saves_bytes
        for start in (words, settings):
            wanted = {**start, **change}
            if wanted.get("method", "lora") != "qlora":
                wanted.pop("quantization", None)
            after = judged(there, wanted)
            assert after.verdict == remedy.verdict, remedy
            assert after.memory.budget_bytes - after.memory.device_peak_bytes == left, remedy
