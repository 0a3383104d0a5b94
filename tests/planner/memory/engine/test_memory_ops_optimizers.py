"""Optimizer state and the update's transient bytes against the real optimizers, on real parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from planner.contract.choices import TrainingChoices  # noqa: E402
from planner.memory.engine.monomials import WIDTH  # noqa: E402
from planner.memory.step.optimizers import TrainedTensor, state_bytes, step_bytes, trained_tensors  # noqa: E402
from planner.models.sources import from_config, load_model  # noqa: E402
from trainer import modeling  # noqa: E402
from trainer.measure.meter import StorageMeter  # noqa: E402
from trainer.modeling.optimizers import parameter_groups  # noqa: E402

SHAPES = ((96, 64), (64, 96), (256, 128), (96,), (128,))
"""Matrices first, as the trainer groups parameters."""
SCALARS = 16 * len(SHAPES) * 4
"""Step counters and norms of single values."""


def measured(optimizer: Any, parameters: list[Any]) -> tuple[int, int]:
    """(state, transient) bytes of the second step."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = sum(
        value.untyped_storage().nbytes()
        for entry in optimizer.state.values()
        for value in entry.values()
        if isinstance(value, torch.Tensor)
    )
    meter = StorageMeter()
    meter.adopt(parameters)
    meter.adopt(parameter.grad for parameter in parameters)
    meter.adopt(v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    meter.adopt(v for group in optimizer.param_groups for v in group.values() if isinstance(v, torch.Tensor))
    with meter:
        before = meter.current
        meter.enter("step")
        optimizer.step()
        meter.enter("end")
    transient = meter.instants["step"] - before
    meter.forget()
    return state, transient


def _make(kind: str, implementation: str, parameters: list[Any]) -> Any:
    flags = {"foreach": implementation == "foreach", "fused": implementation == "fused"}
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=1e-3, **flags)
    if kind == "sgd":
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=1e-3, **flags)
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=1e-3, scale_parameter=False, relative_step=False)


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(
    ("kind", "implementation"),
    [
        ("adamw", "foreach"),
        ("adamw", "forloop"),
        ("adamw", "fused"),
        ("sgd", "foreach"),
        ("sgd", "forloop"),
        ("sgd", "fused"),
        ("adafactor", "forloop"),
    ],
)
def test_an_optimizer_takes_the_bytes_that_the_real_one_takes(kind: str, implementation: str, itemsize: int) -> None:
    dtype = torch.float32 if itemsize == 4 else torch.bfloat16
    parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    chosen = TrainingChoices(method="full", optimizer=kind, optimizer_implementation=implementation)
    tensors = [TrainedTensor(shape, 1, itemsize, decayed=kind != "sgd" or len(shape) > 1) for shape in SHAPES]
    state, transient = measured(_make(kind, implementation, parameters), parameters)
    assert abs(state_bytes(tensors, chosen) - state) <= SCALARS
    # Adafactor's sums over rows and columns come and go too; they are a hundredth of its estimate here.
    slack = SCALARS if kind != "adafactor" else 4 * (256 + 128) * 4
    assert abs(step_bytes(tensors, chosen) - transient) <= slack


def test_8_bit_states_by_hand() -> None:
    # 96x64 = 6144 values: 2 bytes a value and 2 scales of 4 bytes per 256: 12288 + 24·8. 96 values stay in fp32: 768.
    # Two code books of 256 fp32 values.
    tensors = [TrainedTensor((96, 64), 1, 2), TrainedTensor((96,), 1, 2)]
    expected = 2 * 6144 + 24 * 8 + 8 * 96 + 2 * 256 * 4
    assert state_bytes(tensors, TrainingChoices(optimizer="adamw-8bit")) == expected


def test_paged_states_of_large_tensors_are_not_allocated() -> None:
    # 400 x 300 = 120,000 values, from 100,000 on in managed memory: only the scales count, 469 blocks.
    tensors = [TrainedTensor((400, 300), 1, 2)]
    assert state_bytes(tensors, TrainingChoices(optimizer="paged-adamw-8bit")) == 469 * 8 + 2 * 256 * 4


@pytest.mark.parametrize("name", ["bert-base-cased", "phi-3-mini", "qwen3-30b-a3b", "gpt2", "t5-small"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_trained_tensors_come_in_the_groups_and_the_order_of_the_real_optimizer(name: str, method: str) -> None:
    config = dict(load_model(name).config)
    for key in ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"):
        if key in config:
            config[key] = 2
    spec = from_config(config, name)
    targets = "attention" if spec.num_experts else "all-linear"
    chosen = TrainingChoices(method=method, lora_variant="dora", lora_dropout=0.0, lora_targets=(targets,))
    model = modeling.build(config, dtype=torch.bfloat16, attention="eager", device="meta")
    if method == "lora":
        model = modeling.attach_adapters(model, chosen, low_cpu_mem_usage=True)
    real = {g["weight_decay"] > 0: [tuple(p.shape) for p in g["params"]] for g in parameter_groups(model, 0.01)}
    tensors = trained_tensors(spec, chosen, 2, 4)
    for decayed in (True, False):
        group = [tensor for tensor in tensors if tensor.decayed is decayed]
        assert sorted(t.shape for t in group for _ in range(t.copies)) == sorted(real.get(decayed, []))
    if name == "t5-small":  # two stacks with as many layers: `copies` does not tell them apart
        return
    inside = [tensor.shape for tensor in tensors if tensor.decayed and tensor.copies > 1]
    assert _contains(real[True], 2 * inside), "the layers' tensors, one layer after the other"


def _contains(sequence: list[Any], run: list[Any]) -> bool:
    return any(sequence[start : start + len(run)] == run for start in range(len(sequence)))


def test_a_multi_tensor_update_is_replayed_tensor_by_tensor() -> None:
    """GIVEN full training on stack `peft` WHEN its step is logged THEN no temporary of the update exceeds a tensor."""
    from planner.memory.engine.values import multipliers
    from planner.memory.step.case import Case
    from planner.memory.step.program import run

    spec = load_model("gpt2")
    choices = TrainingChoices(method="full", stack="peft", batch_size=2, max_length=128)
    values = [float(v) for v in multipliers(*(np.array([n]) for n in (2, 128, 0)), 0)[0]]
    update = run(Case(spec, choices, 0), None, values[:WIDTH]).ledger.segments[-1].log
    sizes = sorted((size for _, size in update if size > 0), reverse=True)
    tensors = trained_tensors(spec, choices, 2, 4)
    assert sizes == sorted((t.elements * 2 for t in tensors for _ in range(t.copies)), reverse=True)
