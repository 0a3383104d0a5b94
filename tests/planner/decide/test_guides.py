"""The guides' own configurations: ours stand beside theirs, take what is said, and lose nowhere without a reason."""

from __future__ import annotations

import re

import pytest

from planner.cli import main
from planner.decide import guides
from planner.decide.check import check
from tests.support import guide_docs

ALL = [
    *((gpu, setting) for gpu, tiers in guides.TIERS_OF.items() for setting in tiers.values()),
    *(("a10g", setting) for setting in guides.RECOMMENDED),
    *((situation.gpu, situation.setting) for situation in guides.SITUATIONS),
]
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@pytest.mark.parametrize(("gpu", "setting"), ALL, ids=lambda value: getattr(value, "name", value))
def test_ours_trains_the_same_and_is_not_worse(gpu: str, setting: guides.Configured) -> None:
    """GIVEN a guide's setting THEN ours has its sequences and length, fits by `check`, and is faster or smaller."""
    question = guide_docs.question(gpu)
    found = guides.beside(question, setting)
    assert found.ours is not None
    ours = found.ours.settings
    assert ours.effective_batch_size == setting.batch_size * setting.accumulation
    assert ours.max_length == setting.length
    again = check(question.having(ours), with_remedies=False)
    assert again.verdict in ("fits", "tight")
    assert again.memory.device_peak_bytes == found.ours.memory.device_peak_bytes
    assert found.theirs is not None
    if found.theirs.verdict == "fits":
        assert found.theirs.speed is not None
        assert found.ours.speed is not None
        faster = found.ours.speed.tokens_per_second > found.theirs.speed.tokens_per_second
        assert faster or found.ours.memory.device_peak_bytes < found.theirs.memory.device_peak_bytes
    assert len([*guides.sentences(found)]) == 2


@pytest.mark.parametrize(("gpu", "tier"), [("a10g", "high"), ("a10g", "low"), ("m3-18gb", "safe")])
def test_a_named_tier_is_recommended_beside_the_guides(gpu: str, tier: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu", gpu, "--tier", tier]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"› {tier} " in out
    assert f"Guide 1, {tier}: " in out
    assert "Ours for the same: " in out


def test_an_unknown_tier_or_a_contradiction_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu", "a10g", "--tier", "huge"]) == 2
    assert "high, balanced, low, safe" in capsys.readouterr().err
    assert main(["--gpu", "a10g", "--tier", "high", "--goal", "safest"]) == 2
    assert "contradicts" in capsys.readouterr().err
    assert main(["--gpu", "a10g", "--tier", "safe", "--goal", "safest", "--brief"]) == 0


def test_the_page_is_what_the_planner_says() -> None:
    """Words as they are made; numbers within 3 %, so that a repaired byte asks for no new page.

    `python -m tests.support.guide_docs` writes it anew.
    """
    page, made = guide_docs.PAGE.read_text(encoding="utf-8"), guide_docs.render()
    assert NUMBER.sub("#", page) == NUMBER.sub("#", made)
    for written, computed in zip(NUMBER.findall(page), NUMBER.findall(made), strict=True):
        one, other = float(written.replace(",", "")), float(computed.replace(",", ""))
        assert abs(one - other) <= max(1.0, 0.03 * other), (written, computed)
