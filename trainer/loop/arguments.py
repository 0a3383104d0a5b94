"""The plan in the words of transformers' `TrainingArguments`."""

from __future__ import annotations

import os
from typing import Any

import transformers

from planner.contract.run_settings import Hyperparameters
from trainer.loop.inputs import Job


def data_workers(h: Hyperparameters) -> int:
    """Processes that prepare batches: those asked for, at most one for each processor that this process may use.

    Which batches come, and in which order, doesn't depend on their number.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(h.dataloader_workers, processors)


def training_arguments(
    job: Job, steps_per_epoch: int, validates: bool, further: dict[str, Any]
) -> transformers.TrainingArguments:
    """The plan in transformers' words, with `further` arguments of a strategy on several devices.

    Evaluations and saves always go by steps, so that a stop never adds one.
    """
    h, choices, device = job.hyperparameters, job.choices, job.device
    eval_steps = h.eval_steps or steps_per_epoch
    arguments = transformers.TrainingArguments(
        output_dir=str(job.run_dir),
        per_device_train_batch_size=choices.batch_size,
        per_device_eval_batch_size=choices.eval_batch_size or choices.batch_size,
        gradient_accumulation_steps=choices.gradient_accumulation_steps,
        num_train_epochs=h.epochs,
        max_steps=h.max_steps or -1,
        learning_rate=h.learning_rate,
        weight_decay=h.weight_decay,
        max_grad_norm=choices.max_grad_norm,
        bf16=choices.precision == "bf16-mixed",
        fp16=choices.precision.startswith("fp16"),
        seed=h.seed,
        full_determinism=h.deterministic,
        torch_compile=h.torch_compile,
        logging_strategy="steps",
        logging_steps=h.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=eval_steps if validates else None,
        save_strategy="steps",
        save_steps=h.save_steps or (max(1, round(h.save_epochs * steps_per_epoch)) if h.save_epochs else eval_steps),
        save_total_limit=None,  # transformers would remove every other folder called checkpoint-N, whoever made it
        metric_for_best_model="eval_loss" if validates else None,
        greater_is_better=False if validates else None,
        report_to=list(h.report_to) or "none",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        dataloader_num_workers=data_workers(h),
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        **further,
    )
    # One process trains on one device; without this, transformers would wrap the model in DataParallel
    # on a machine with several.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments
