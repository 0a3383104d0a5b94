"""Evaluation of a training loop: loss over the validation set, in pieces where it doesn't fit, and a sample."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, cast

import torch
import transformers

from planner.contract.choices import TrainingChoices
from trainer import modeling
from trainer.distributed.alone import Alone
from trainer.distributed.batches import RankBatches
from trainer.distributed.world import World
from trainer.loop.inputs import Listeners
from trainer.measure import devices
from trainer.measure.instants import StepMeter
from trainer.recovery.pieces import Recovery, free
from trainer.tasks import Task


class Evaluating(transformers.Trainer):
    """The part of `LoopTrainer` that evaluates."""

    # transformers declares some of these more narrowly than it uses them.
    model: Any
    args: Any
    state: Any
    control: Any
    accelerator: Any
    choices: TrainingChoices
    meter: StepMeter
    recovery: Recovery
    strategy: Alone
    task: Task
    world: World
    listeners: Listeners
    last_sample: str | None
    compute_piece: Callable[..., tuple[Any, Any]]
    eval_batches: RankBatches

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Mean loss per target token over the validation set, its perplexity, and a generated sample."""
        model = self.model
        model.eval()
        total, targets, correct, batches = 0.0, 0, 0, 0
        started = time.perf_counter()
        self.listeners.announce("eval")
        classifies = self.task.name == "classification"
        self.meter.begin("eval")
        # Sampling and batching must not shift the random numbers of the training that goes on afterwards.
        with torch.no_grad(), torch.random.fork_rng(devices=_cuda_devices(self.args.device)):
            for inputs in self.get_eval_dataloader():
                del inputs["real_tokens"]
                inputs = self._prepare_inputs(inputs)
                filler = self.eval_batches.is_filler(batches)
                if not filler or not self.strategy.recovers:
                    found = self.recovery.evaluation(inputs, self._evaluate_piece)
                    if not self.strategy.recovers:
                        # As many passes as every other process makes: each of them exchanges weights.
                        full = self.args.per_device_eval_batch_size
                        for _missing in range(-(-full // self.recovery.eval_rows) - len(found)):
                            self._evaluate_piece(inputs)
                    for loss, count, right in found if not filler else []:
                        total += loss
                        targets += count
                        correct += right
                batches += 1
                self.meter.eval_batch_done(batches)
            self.meter.end()
            with self.meter.unmetered():
                self.last_sample = self._make_sample()
        model.train()
        if self.world.size > 1:
            table = self.world.table([total, targets, correct, self.recovery.eval_rows])
            total = float(table[:, 0].sum())
            targets, correct = int(table[:, 1].sum()), int(table[:, 2].sum())
            self.recovery.eval_rows = int(table[:, 3].min())
        mean = total / max(targets, 1)
        metrics = {
            "eval_loss": mean,
            "eval_perplexity": math.exp(mean) if mean < 700 else math.inf,
            "eval_seconds": time.perf_counter() - started,
        }
        if classifies:
            metrics["eval_accuracy"] = correct / max(targets, 1)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.listeners.announce("train")
        return metrics

    def _maybe_log_save_evaluate(self, *given: Any, **named: Any) -> None:
        """What is due after a step; a paused run does what a person wants of it meanwhile."""
        super()._maybe_log_save_evaluate(*given, **named)
        while self.listeners.waits(self.state, self.control):
            super()._maybe_log_save_evaluate(*given, **named)

    def _evaluate_piece(self, inputs: dict[str, Any]) -> tuple[float, int, int]:
        """(loss summed over the targets, number of targets, how many a classifier got right)."""
        if self.meter.current != "eval":
            self.meter.begin("eval")
        self.recovery.faults.strike("eval", self.recovery.step)
        count = int(self.task.targets(inputs["labels"]))
        if not count and self.strategy.recovers:
            return 0.0, 0, 0
        classifies = self.task.name == "classification"
        choices = dataclasses.replace(self.choices, keep_logits=True) if classifies else self.choices
        one = torch.ones((), device=self.args.device)  # divides by 1: the sum over the batch's targets
        loss, kept = self.compute_piece(self.model, inputs, choices, one)
        if not count:  # of a model whose own loss is a mean, this is no number
            return 0.0, 0, 0
        right = int(self.task.correct(kept, inputs["labels"]) or 0) if classifies else 0
        return float(loss), count, right

    def _make_sample(self) -> str | None:
        """The sample is worth a look, not a run: where memory runs out, there is none."""
        sample = self.listeners.sample
        if sample is None or (self.strategy.whole and not self.world.main):
            return None
        try:
            if modeling.base_model(self.model) is self.model:
                return sample()
            return cast(str | None, self.strategy.inside(self.model, sample))
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
        free(self.args.device)
        return None


def _cuda_devices(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []
