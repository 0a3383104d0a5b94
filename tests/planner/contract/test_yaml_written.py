"""YAML that is written: what it holds reads back, and a terminal that shows the file obeys nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.contract import yaml_text
from planner.contract.choices import TrainingChoices
from planner.contract.records import Advice, DataSettings, Plan
from planner.contract.words import LAYOUT, visible
from planner.exchange import recognise
from planner.exchange.write import export
from planner.handover import plans
from tests.planner.contract.test_words import STEERING

HOSTILE = "".join(character for character in STEERING if not "\ud800" <= character <= "\udfff").replace("\x00", "")


def test_text_of_others_is_written_with_escapes() -> None:
    """GIVEN a mapping with characters that steer a terminal THEN they stand as escapes; other languages as they are."""
    for content in ({"a": HOSTILE, HOSTILE: 1}, {"a": "Größe 量", "b": [1, "x\ny"]}):
        text = yaml_text.dumps(content)
        assert visible(text, keep=LAYOUT) == text
        assert yaml_text.parse(text, "x").value == content
    assert "Größe 量" in text


@pytest.mark.parametrize("tool", recognise.TOOLS)
def test_plans_and_exports_steer_no_terminal(tool: str, tmp_path: Path) -> None:
    """GIVEN a plan with such text in every field that a file can bring in THEN no file that comes of it holds any."""
    plan = Plan(
        model="meta-llama/Llama-3.2-1B",
        gpu="a10g",
        settings=TrainingChoices(batch_size=2, max_length=512),
        data=DataSettings(path=f"{HOSTILE}.jsonl", columns={"prompt": HOSTILE}),
        advice=[Advice(name="learning_rate", value=2e-4, rule=HOSTILE, source=HOSTILE)],
        created=HOSTILE,
        tuneplan_version=HOSTILE,
    )
    written = plans.save(plan, tmp_path / "plan.yaml").read_text(encoding="utf-8")
    files = {"plan.yaml": written, **export(plan, tool).files}
    assert plans.load(tmp_path / "plan.yaml") == plan
    for name, text in files.items():
        assert visible(text, keep=LAYOUT) == text, name
