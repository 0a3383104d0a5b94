"""A resumed run under a plan that was changed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.trainer_support import make_plan, of_kind, train, write_pairs

STEPS = {"max_steps": 4, "save_steps": 2, "eval_steps": 100, "scheduler": "constant", "warmup_ratio": 0.0}


@pytest.fixture(scope="module")
def stopped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(plan, run folder) of a run of four steps with checkpoints."""
    folder = tmp_path_factory.mktemp("resume")
    plan = make_plan(folder / "plan.json", model, write_pairs(folder / "pairs.jsonl"), **STEPS)
    _, failure = train(plan, folder / "run")
    assert failure is None
    return plan, folder / "run"


def test_a_changed_rate_and_rhythm_hold_from_the_checkpoint_on(stopped: tuple[Path, Path]) -> None:
    """GIVEN a run that goes on with another rate and logging THEN they are said and taken, not the checkpoint's."""
    plan, run = stopped
    overrides = {"learning_rate": "0.0005", "max_steps": "8", "logging_steps": "2"}
    events, failure = train(plan, run, resume="auto", overrides=overrides)
    assert failure is None
    steps = of_kind(events, "step")
    assert [step["step"] for step in steps] == [6, 8]
    assert [step["learning_rate"] for step in steps] == pytest.approx([0.0005, 0.0005])
    said = [warning["message"] for warning in of_kind(events, "warning") if warning["what"] == "changed plan"]
    assert "learning_rate was 0.01 and is 0.0005 now" in said
    assert not any("weight_decay" in message for message in said)


def test_only_metered_steps_count_as_measured() -> None:
    """GIVEN a cpu's meter THEN it counts from the start of the training to the end of its metered steps."""
    import torch

    from trainer.measure.instants import METERED_STEPS, StepMeter

    meter, model = StepMeter(torch.device("cpu")), torch.nn.Linear(2, 2)
    assert not meter.counting
    meter.start_training(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(METERED_STEPS):
        assert meter.counting
        meter.step_done()
    assert not meter.counting
    meter.close()
