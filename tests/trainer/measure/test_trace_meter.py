"""The meters: what is alive is counted once, what died is not, and peaks belong to their phase."""

from __future__ import annotations

import gc

import torch

from planner.contract.units import MIB
from trainer.measure.meter import HostPeakMeter, StorageMeter, peak_meter

BYTES = 1000 * 4


def test_storages_are_counted_once_and_forgotten_when_they_die() -> None:
    meter = StorageMeter()
    with meter:
        meter.enter("first")
        a = torch.zeros(1000)
        view = a[10:].view(99, 10)
        assert meter.current == BYTES
        b = a + 1
        del a
        assert meter.current == 2 * BYTES, "the view keeps the storage"
        del view
        assert meter.current == BYTES
        meter.enter("second")
        c = b * 2
        del b, c
    assert meter.current == 0
    assert meter.instants == {"first": 2 * BYTES, "second": 2 * BYTES}


def test_tensors_from_before_are_adopted_once() -> None:
    meter = StorageMeter(constant_bytes=7)
    model = torch.nn.Linear(10, 10, bias=False)
    tied = torch.nn.Linear(10, 10, bias=False)
    tied.weight = model.weight
    optimizer = torch.optim.AdamW([model.weight])
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    meter.adopt_training(torch.nn.ModuleList([model, tied]), optimizer)
    assert meter.current == 7 + 4 * 400 + 4  # weight, gradient, two moments, the step count
    meter.forget()


def test_granularity_rounds_every_storage_up() -> None:
    meter = StorageMeter(granularity=512)
    with meter:
        kept = [torch.empty(1), torch.empty(129)]
    assert meter.current == 512 + 1024
    del kept


def test_backward_is_seen() -> None:
    meter = StorageMeter()
    weight = torch.ones(1000, requires_grad=True)
    meter.adopt([weight])
    with meter:
        meter.enter("forward")
        loss = (weight.exp() * 2).sum()
        meter.enter("backward")
        loss.backward()
    assert meter.instants["forward"] >= 3 * BYTES
    assert meter.current == 2 * BYTES + 4  # the weight, its gradient, the loss
    meter.forget()


def test_the_meter_itself_keeps_nothing_alive() -> None:
    meter = StorageMeter()
    with meter:
        for _ in range(50):
            torch.zeros(1000) + 1
    gc.collect()
    assert meter.current == 0
    assert not meter._live


def test_process_memory_is_followed_by_phase() -> None:
    meter = peak_meter("cpu")
    assert isinstance(meter, HostPeakMeter)
    meter.enter("small")
    meter.enter("large")
    block = torch.ones(32 * MIB)
    meter.enter("after")
    del block
    found = meter.stop()
    assert found.keys() == {"small", "large", "after"}
    assert found["large"] - found["small"] > 100 * MIB
    assert meter.device_bytes >= found["large"]
