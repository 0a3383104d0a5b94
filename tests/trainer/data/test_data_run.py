"""What the trainer takes of a data set is what the reader says: splits, weights, invalid examples, and its account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.contract import events
from planner.contract.choices import TrainingChoices
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings
from planner.data import dataset
from planner.data.lengths import lengths_of


class Listener:
    """Events as they are emitted."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, told: events.Told) -> None:
        self.events.append((told.event_kind, told.model_dump()))

    def warn(self, what: str, message: str, advice: str = "") -> None:
        self.emit(events.WarningEvent(what=what, message=message, advice=advice))


def test_splits_weights_and_invalid_examples_reach_the_run(tmp_path: Path) -> None:
    from trainer.commands.demo.tokenizer import build
    from trainer.loop.prepare import read_data
    from trainer.tasks import Task

    data = tmp_path / "data"
    data.mkdir()
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "BAD", "weight": 0}]
    good = {"messages": [*turns, {"role": "user", "content": "r"}, {"role": "assistant", "content": "good"}]}
    for name, rows in (("train", [good] * 3 + [{"messages": []}]), ("validation", [good] * 2), ("test", [good] * 9)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer, told = build(), Listener()
    settings = DataSettings(path=str(data), skip_invalid=True)
    plan = Plan(model="m", gpu="cpu", settings={}, data=settings)
    choices = TrainingChoices(max_length=64)
    train, validation, _ = read_data(plan, choices, Task({}), tokenizer, told)  # type: ignore[arg-type]
    assert (len(train.sequences), len(validation.sequences)) == (3, 2)
    learned = tokenizer.decode([label for label in train.sequences[0].labels if label != -100])
    assert learned == "good<|end|>"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    planned = dataset.profile(data, skip_invalid=True, tokenizer=tmp_path / "tokenizer")
    lengths = lengths_of(planned, validation_split=0.1)
    assert sorted(lengths.training) == sorted(train.lengths)
    assert sorted(lengths.validation) == sorted(validation.lengths)
    warnings = " ".join(found["message"] for kind, found in told.events if kind == "warning")
    for said in ("test split", "own validation split validates (2 examples)", "weight 0 are not learned", "1 invalid"):
        assert said in warnings, said
        assert said in " ".join(planned.said), said
    (event,) = [found for kind, found in told.events if kind == "data"]
    assert event["account"]["invalid_left_out"] == 1
