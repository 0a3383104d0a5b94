"""Watches a transformers Trainer, ours or another's: time, loss and peak bytes of one epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers


class Clock(transformers.TrainerCallback):
    """From the start of the training to the end of its last step; building and saving lie outside.

    `metered` counts tensor storages instead, which slows the steps down.
    """

    def __init__(self, device: str, *, metered: bool) -> None:
        self.device = device
        self.metered = metered
        self.seconds = 0.0
        self.processor_seconds = 0.0
        """Time on a processor: what is left of `seconds` where other programs want it too."""
        self.ends: list[float] = []
        """End of each optimizer step, in seconds."""
        self.peak_bytes: int | None = None
        self.losses: list[torch.Tensor] = []
        """Loss summed over its targets, by micro-batch."""
        self.targets: list[torch.Tensor] = []
        self.shapes: list[list[int]] = []
        """Shape of input_ids by micro-batch."""
        self._began = self._began_processor = 0.0
        self._meter: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Starts the clock or the meter."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        elif self.metered:
            from trainer.measure.meter import StorageMeter

            self._meter = StorageMeter()
            self._meter.adopt_training(given["model"], given["optimizer"])
            self._meter.__enter__()
        self._began, self._began_processor = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The time so far."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.peak_bytes = int(torch.cuda.max_memory_allocated())
        self.seconds = time.perf_counter() - self._began
        self.processor_seconds = time.process_time() - self._began_processor
        self.ends.append(round(self.seconds, 4))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Stops the meter."""
        if self._meter is not None:
            self._meter.__exit__(None, None, None)
            self.peak_bytes = max(self._meter.instants.values())
            self._meter.forget()

    @contextmanager
    def watching(self, cls: Any) -> Iterator[None]:
        """Every trainer made within the block has this callback; `cls.training_step` tells its losses."""
        from transformers import trainer as module

        original = cls.training_step
        clock = self

        def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            targets = (inputs["labels"][..., 1:] != -100).sum()
            clock.shapes.append(list(inputs["input_ids"].shape))
            loss = original(self, model, inputs, num_items_in_batch)
            # The loss is a sum over the targets divided by this number, however a trainer counts it.
            clock.losses.append(loss.detach() * num_items_in_batch)
            clock.targets.append(targets)
            return loss

        cls.training_step = training_step
        module.DEFAULT_CALLBACKS.append(self)
        try:
            yield
        finally:
            cls.training_step = original
            module.DEFAULT_CALLBACKS.remove(self)

    def result(self) -> dict[str, Any]:
        """What was seen, as JSON values."""
        targets = sum(int(count) for count in self.targets)
        return {
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "steps": len(self.ends),
            "step_ends": self.ends,
            "peak_bytes": self.peak_bytes,
            "targets": targets,
            "loss_per_token": sum(float(loss) for loss in self.losses) / max(targets, 1),
            "shapes": self.shapes,
        }
