"""Learning-rate schedules by hand-computed values, and the presets of the guides."""

from __future__ import annotations

import pytest

from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from trainer.commands import presets
from trainer.loop.schedules import multiplier, warmup_steps


def curve(total: int, per_epoch: int = 10, **settings: object) -> list[float]:
    h = Hyperparameters(**{"warmup_ratio": 0.0, **settings})  # type: ignore[arg-type]
    return [multiplier(step, hyperparameters=h, total_steps=total, steps_per_epoch=per_epoch) for step in range(total)]


def test_warm_up_rises_linearly_and_reaches_one() -> None:
    rates = curve(100, warmup_ratio=0.05, scheduler="constant")
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert warmup_steps(Hyperparameters(warmup_ratio=0.05, warmup_steps=3), 100) == 3
    assert warmup_steps(Hyperparameters(warmup_ratio=0.03), 10) == 1
    assert warmup_steps(Hyperparameters(warmup_steps=50), 10) == 10


@pytest.mark.parametrize(
    ("scheduler", "middle"), [("cosine", 0.55), ("linear", 0.55), ("polynomial", 0.1 + 0.9 * 0.25), ("constant", 1.0)]
)
def test_shapes_begin_at_one_and_end_at_the_minimum(scheduler: str, middle: float) -> None:
    rates = curve(11, scheduler=scheduler, min_learning_rate_ratio=0.1, polynomial_power=2.0)
    assert rates[0] == pytest.approx(1.0)
    assert rates[5] == pytest.approx(middle)
    assert rates[-1] == pytest.approx(1.0 if scheduler == "constant" else 0.1)
    assert rates == sorted(rates, reverse=True)


def test_steps_drop_every_so_many_epochs_down_to_the_minimum() -> None:
    rates = curve(
        60, per_epoch=5, scheduler="step", scheduler_step_epochs=3, scheduler_gamma=0.5, min_learning_rate_ratio=0.2
    )
    assert [rates[0], rates[14], rates[15], rates[30], rates[45]] == [1.0, 1.0, 0.5, 0.25, 0.2]


def test_a_single_step_and_all_warm_up() -> None:
    assert curve(1) == [1.0]
    assert curve(2, warmup_steps=2) == [0.5, 1.0]


def test_presets_are_the_guides_sizes() -> None:
    medium = presets.config("medium", vocab_size=261)
    assert (medium["hidden_size"], medium["num_attention_heads"], medium["num_hidden_layers"]) == (512, 8, 6)
    assert medium["intermediate_size"] == 2048
    with pytest.raises(InvalidInput, match="'huge' is unknown; choose one of small, medium, large"):
        presets.config("huge", vocab_size=261)
