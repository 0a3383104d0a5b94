"""The transient bytes of the trainer's own update against what its guarded optimizer really holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from planner.contract.choices import TrainingChoices
from planner.memory.step import updates as planned
from planner.memory.step.optimizers import TrainedTensor
from trainer import modeling
from trainer.measure.meter import StorageMeter
from trainer.recovery import updates

LAYERS = 6


class Model(torch.nn.Module):
    """Embeddings, equal layers with a norm and a bias, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(700, 64)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({"up": torch.nn.Linear(64, 160), "norm": torch.nn.LayerNorm(64)}) for _ in range(LAYERS)
        )
        self.head = torch.nn.Linear(64, 130, bias=False)


def tensors() -> list[TrainedTensor]:
    return [
        TrainedTensor((700, 64), 1, 4),
        TrainedTensor((160, 64), LAYERS, 4),
        TrainedTensor((160,), LAYERS, 4, decayed=False),
        TrainedTensor((64,), LAYERS, 4, decayed=False),
        TrainedTensor((64,), LAYERS, 4, decayed=False),
        TrainedTensor((130, 64), 1, 4),
    ]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"optimizer": "adamw", "optimizer_implementation": "foreach"},
        {"optimizer": "adamw", "optimizer_implementation": "forloop"},
        {"optimizer": "adamw", "optimizer_implementation": "fused"},
        {"optimizer": "sgd", "optimizer_implementation": "foreach"},
        {"optimizer": "sgd", "optimizer_implementation": "forloop"},
        {"optimizer": "adafactor"},
    ],
    ids=lambda kwargs: "-".join(kwargs.values()),
)
def test_an_update_in_parts_takes_what_is_planned(kwargs: dict[str, Any]) -> None:
    choices = TrainingChoices(method="full", precision="fp32", **kwargs)
    model = Model()
    optimizer = modeling.build_optimizer(model, choices)
    updates.guard(optimizer, choices, failed=updates.give_up)
    for step in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if step:
            meter = StorageMeter()
            meter.adopt_training(model, optimizer)
            before = meter.current
            with meter:
                meter.enter("optimizer")
                optimizer.step()
        else:
            optimizer.step()
    measured = meter.instants["optimizer"] - before
    meter.forget()
    found = planned.update_bytes(tensors(), choices)
    # Step counters and Adafactor's sums over rows and columns are made anew too and aren't counted.
    assert found <= measured <= 1.01 * found + 8 * len(list(model.parameters())), (found, measured)


def test_parts_are_those_of_the_trainer() -> None:
    """GIVEN the tensors of a real model in the optimizer's order THEN both rules cut them at the same places."""
    choices = TrainingChoices(method="full")
    optimizer = modeling.build_optimizer(Model(), choices)
    members = [(n, p) for n, group in enumerate(optimizer.param_groups) for p in group["params"]]
    there = [[p.numel() for _, p in part] for part in updates.parts(members, 16)]
    here = [[t.elements for t in part] for part in planned.parts(list(planned.one_by_one(tensors())))]
    assert [sorted(part) for part in here] == [sorted(part) for part in there]
    assert len(here) > 5


def test_the_stock_stack_updates_everything_at_once() -> None:
    choices = TrainingChoices(method="full", stack="peft")
    assert planned.update_bytes(tensors(), choices) == sum(t.size for t in tensors() if t.decayed)
