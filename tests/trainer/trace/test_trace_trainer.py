"""The trace against the transformers Trainer itself: same code path, so the same peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from planner.contract.choices import TrainingChoices
from tests.support.trace_support import TINY, choices
from trainer import modeling
from trainer.measure.meter import StorageMeter
from trainer.trace import Setup, trace


class Examples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random token sequences without padding."""

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        self.tokens = torch.randint(1, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.tokens[index]
        return {"input_ids": row, "labels": row.clone(), "attention_mask": torch.ones_like(row)}


class Measured(Trainer):
    """Notes the batches of a step, which exist before the step begins."""

    fetched: tuple[Any, ...] = ()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.fetched = super().get_batch_samples(*args, **kwargs)
        return self.fetched


class SecondStep(TrainerCallback):
    """Runs the storage meter over the second optimizer step."""

    def __init__(self) -> None:
        self.meter = StorageMeter()
        self.trainer: Measured | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == 1 and self.trainer is not None:
            batches, items = self.trainer.fetched
            tensors = [tensor for batch in batches for tensor in batch.values()]
            optimizer = parts["optimizer"]
            self.meter.adopt_training(parts["model"], getattr(optimizer, "optimizer", optimizer), tensors)
            if isinstance(items, torch.Tensor):
                self.meter.adopt([items])
            self.meter.enter("step")
            self.meter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if state.global_step == 2:
            self.meter.__exit__(None, None, None)
            self.meter.forget()


def measured_by_trainer(config: dict[str, Any], chosen: TrainingChoices, folder: Path) -> int:
    model = modeling.build(config, dtype=modeling.weights_dtype(chosen.precision), attention=chosen.attention)
    model = modeling.attach_adapters(model, chosen)
    count = chosen.batch_size * chosen.gradient_accumulation_steps * 3
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=chosen.batch_size,
        gradient_accumulation_steps=chosen.gradient_accumulation_steps,
        gradient_checkpointing=chosen.gradient_checkpointing,
        max_steps=3,
        use_cpu=True,
        bf16=chosen.precision == "bf16-mixed",
        optim="adamw_torch",
        report_to=[],
        save_strategy="no",
        logging_steps=100,
        disable_tqdm=True,
    )
    watcher = SecondStep()
    data = Examples(count, chosen.max_length, config["vocab_size"])
    watcher.trainer = Measured(model=model, args=arguments, train_dataset=data, callbacks=[watcher])
    watcher.trainer.train()
    return watcher.meter.instants["step"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {}),
        ("llama", {"method": "full", "gradient_checkpointing": False}),
        ("phi", {"precision": "bf16-mixed"}),
        ("gpt2", {"method": "full", "gradient_accumulation_steps": 3}),
    ],
)
def test_the_transformers_trainer_peaks_where_the_trace_says(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    chosen = choices(optimizer_implementation="forloop", **changes)
    assert trace(TINY[name], chosen, Setup(target="cpu")).allocated_peak_bytes == pytest.approx(
        measured_by_trainer(TINY[name], chosen, tmp_path), rel=0.001
    )
