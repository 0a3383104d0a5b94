"""The training loop: transformers' Trainer with our batches, our step, our evaluation and whole checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from planner.errors import RunFailed
from planner.records import Hyperparameters
from planner.spec import TrainingChoices
from trainer import checkpoints, devices, modeling, schedules, updates
from trainer.data.batches import EpochBatches, SequenceDataset
from trainer.data.tokens import TokenizedData
from trainer.faults import Faults
from trainer.files import disk_problem, whole_folder, write_manifest
from trainer.instants import StepMeter
from trainer.recovery import Recovery, free
from trainer.tasks import Task
from trainer.tasks.base import with_task_file


def training_arguments(
    run_dir: Path,
    choices: TrainingChoices,
    hyperparameters: Hyperparameters,
    *,
    device: torch.device,
    steps_per_epoch: int,
    validates: bool,
) -> transformers.TrainingArguments:
    """The plan in transformers' words. Evaluations and saves always go by steps, so that a stop never adds one."""
    h = hyperparameters
    eval_steps = h.eval_steps or steps_per_epoch
    arguments = transformers.TrainingArguments(
        output_dir=str(run_dir),
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
        save_total_limit=h.save_total_limit,
        metric_for_best_model="eval_loss" if validates else None,
        greater_is_better=False if validates else None,
        report_to=list(h.report_to) or "none",
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
        dataloader_num_workers=h.dataloader_workers,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
    )
    # One process trains on one device; without this, transformers would wrap the model in DataParallel
    # on a machine with several.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class LoopTrainer(transformers.Trainer):
    """What differs from the stock Trainer, piece by piece; everything else is inherited."""

    # transformers declares these more narrowly than it uses them.
    model: Any
    args: Any
    state: Any
    # compute_loss divides by the targets of the whole effective batch, so no further division is due.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        run_dir: Path,
        choices: TrainingChoices,
        hyperparameters: Hyperparameters,
        train: TokenizedData,
        validation: TokenizedData | None,
        device: torch.device,
        meter: StepMeter,
        identity: dict[str, Any],
        sample: Callable[[], str | None] | None = None,
        announce: Callable[[str], None] = lambda phase: None,
        out_of_memory: Callable[[dict[str, Any]], None] = lambda fields: None,
        callbacks: list[Any] | None = None,
        task: Task | None = None,
    ) -> None:
        self.task = task = task or Task({})
        self.choices = choices
        self.hyperparameters = hyperparameters
        self.meter = meter
        self.identity = identity
        self.sample = sample
        self.announce = announce
        self.last_sample: str | None = None
        self.real_tokens = 0
        """Tokens without padding that have been trained on in this process."""
        self.longest_batch = (0, 0)
        """Rows and padded length of the largest training batch so far."""
        self.step_started = time.perf_counter()
        self._step_loss = torch.zeros((), device=device)
        self.last_loss = math.nan
        """Mean loss per target of the last optimizer step."""
        self.tell_out_of_memory = out_of_memory
        self.recovery = Recovery(
            device=device,
            choices=choices,
            run_dir=run_dir,
            seed=hyperparameters.seed,
            phase=lambda: meter.current or "train",
            report=self._out_of_memory,
            faults=Faults.from_environment(),
        )
        self.last_grad_norm: float | None = None
        packed = choices.padding == "packed"
        self.batches = EpochBatches(
            train.lengths,
            batch_size=choices.batch_size,
            accumulation=choices.gradient_accumulation_steps,
            max_length=choices.max_length,
            packed=packed,
            group_by_length=hyperparameters.group_by_length,
            seed=hyperparameters.seed,
        )
        self.steps_per_epoch = max(1, -(-len(self.batches) // choices.gradient_accumulation_steps))
        if validation is not None:
            self.eval_batches = EpochBatches(
                validation.lengths,
                batch_size=choices.eval_batch_size or choices.batch_size,
                max_length=choices.max_length,
                packed=packed,
                shuffle=False,
            )
        super().__init__(
            model=model,
            args=training_arguments(
                run_dir,
                choices,
                hyperparameters,
                device=device,
                steps_per_epoch=self.steps_per_epoch,
                validates=validation is not None,
            ),
            data_collator=task.collator(tokenizer, choices, seed=hyperparameters.seed, epochs=self.batches),
            train_dataset=SequenceDataset(train.sequences),
            eval_dataset=SequenceDataset(validation.sequences) if validation is not None else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.remove_callback(transformers.PrinterCallback)
        self.recovery.watch(model)

    # ---- data ------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Batches in the seeded order of the epoch, longest first."""
        return self._loader(self.train_dataset, self.batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader[Any]:
        """Validation batches in a fixed order."""
        collator = self.task.collator(self.processing_class, self.choices, seed=self.hyperparameters.seed)
        return self._loader(self.eval_dataset, self.eval_batches, collator)

    def _loader(self, dataset: Any, batches: EpochBatches, collator: Any = None) -> torch.utils.data.DataLoader[Any]:
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collator or self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step with the number of targets in them."""
        self.step_started = time.perf_counter()
        self._step_loss = torch.zeros((), device=self.args.device)
        self.recovery.begin_step(self.state.global_step + 1)
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        if not batches:
            return [], None
        self.real_tokens += sum(batch.pop("real_tokens") for batch in batches)
        targets = sum(int(self.task.targets(batch["labels"])) for batch in batches)
        return batches, torch.tensor(max(targets, 1), device=device)

    # ---- one step --------------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch, in pieces where it doesn't fit; returns its share of the loss."""
        model.train()
        inputs = self._prepare_inputs(inputs)

        def attempt(piece: dict[str, Any]) -> torch.Tensor:
            return self._forward_backward(model, piece, num_items_in_batch)

        loss = self.recovery.micro_batch(inputs, attempt)
        if self.recovery.faults.take("nan", self.recovery.step):
            loss = loss * math.nan
        self._step_loss += loss
        return loss

    def _forward_backward(self, model: Any, inputs: dict[str, Any], num_items: Any) -> torch.Tensor:
        """One piece of a micro-batch; its loss is summed over its targets and divided by the whole step's."""
        faults, step = self.recovery.faults, self.recovery.step
        shape = tuple(inputs["input_ids"].shape)
        if shape[0] * shape[1] > self.longest_batch[0] * self.longest_batch[1]:
            self.longest_batch = (shape[0], shape[1])
        # A part may be all prompt; where the model's own loss is a mean, the mean over no targets is no number.
        if shape[0] < self.choices.batch_size and not int(self.task.targets(inputs["labels"])):
            return torch.zeros((), device=self.args.device)
        self.meter.begin("forward")
        faults.strike("forward", step)
        loss, kept = modeling.compute_loss(model, inputs, self.choices, num_items=num_items)
        del inputs
        self.meter.begin("backward")
        with faults.within_backward(self.recovery.parameters, step):
            self.accelerator.backward(loss)
        del kept
        self.meter.end()
        return loss.detach()

    def _out_of_memory(self, **fields: Any) -> None:
        """Tells of it while the peaks up to the failure are known; then measures what fits from the start."""
        self.meter.end()
        self.tell_out_of_memory(fields)
        self.meter.forget_peaks()
        self.longest_batch = (0, 0)

    def _update_failed(self, divisible: bool) -> None:
        self.recovery.update_failed(divisible)
        self.meter.begin("optimizer")

    def _clip_grad_norm(self, model: Any) -> Any:
        self.meter.begin("optimizer")
        return self._norm(lambda: super(LoopTrainer, self)._clip_grad_norm(model), self.args.max_grad_norm)

    def _norm(self, clip: Callable[[], Any], limit: float) -> Any:
        """The norm of all gradients, which are then clipped to `limit`; tried again after an overflow."""
        try:
            return clip()
        except Exception as error:
            # The norm is made before any gradient is scaled, so nothing is lost yet. A gradient scaler can't unscale
            # twice, hence not accelerate's call again.
            if not devices.is_out_of_memory(error) or getattr(self.accelerator, "scaler", None) is not None:
                raise
        self._update_failed(False)
        return torch.nn.utils.clip_grad_norm_(self.recovery.parameters, limit)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Refuses to step on a loss or gradient that isn't a number, while the weights are still good."""
        if grad_norm is None:
            self.meter.begin("optimizer")
        norm = self._norm(lambda: super(LoopTrainer, self)._get_grad_norm(model, grad_norm=grad_norm), math.inf)
        value = float(norm) if norm is not None else 0.0
        self.last_grad_norm = value
        loss = self.last_loss = float(self._step_loss)
        scaled = getattr(self.accelerator, "scaler", None) is not None
        # Under loss scaling an infinite gradient is routine: the scaler skips the step and halves the scale.
        if not math.isfinite(loss) or (not math.isfinite(value) and not scaled):
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            shown = loss if what == "loss" else value
            good = checkpoints.last_good(Path(self.args.output_dir))
            kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"
            raise RunFailed(
                f"step {self.state.global_step + 1}: the {what} became {shown}; {kept}. "
                "Lower the learning rate or lengthen the warm-up, and look for damaged examples"
            )
        return norm

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that the plan names, built by the code that the trace runs."""
        if self.optimizer is None:
            self.optimizer = modeling.build_optimizer(self.model, self.choices, self.hyperparameters)
            updates.guard(
                self.optimizer,
                self.choices,
                failed=self._update_failed,
                strike=lambda: self.recovery.faults.strike("optimizer", self.recovery.step),
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The plan's schedule."""
        if self.lr_scheduler is None:

            def factor(step: int) -> float:
                return schedules.multiplier(
                    step,
                    hyperparameters=self.hyperparameters,
                    total_steps=num_training_steps,
                    steps_per_epoch=self.steps_per_epoch,
                )

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(cast(Any, optimizer or self.optimizer), factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _prepare_for_training(self, max_steps: Any, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.choices.precision == "fp16":
            # accelerate ties loss scaling to autocast; weights that are fp16 already need only the scaling.
            original = self.model.__dict__.pop("_original_forward", None)
            if original is not None:
                self.model.forward = original
        return prepared

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss per target token over the validation set, its perplexity, and a generated sample."""
        model = self.model
        model.eval()
        total, targets, batches, correct = 0.0, 0, 0, 0
        started = time.perf_counter()
        self.announce("eval")
        classifies = self.task.name == "classification"
        self.meter.begin("eval")
        # Sampling and batching must not shift the random numbers of the training that goes on afterwards.
        with torch.no_grad(), torch.random.fork_rng(devices=_cuda_devices(self.args.device)):
            for inputs in self.get_eval_dataloader():
                del inputs["real_tokens"]
                inputs = self._prepare_inputs(inputs)
                for loss, count, right in self.recovery.evaluation(inputs, self._evaluate_piece):
                    total += loss
                    targets += count
                    correct += right
                batches += 1
                self.meter.eval_batch_done(batches)
            self.meter.end()
            with self.meter.unmetered():
                self.last_sample = self._make_sample()
        model.train()
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
        self.announce("train")
        return metrics

    def _evaluate_piece(self, inputs: dict[str, Any]) -> tuple[float, int, int]:
        """(loss summed over the targets, number of targets, how many a classifier got right)."""
        if self.meter.current != "eval":
            self.meter.begin("eval")
        self.recovery.faults.strike("eval", self.recovery.step)
        count = int(self.task.targets(inputs["labels"]))
        if not count:
            return 0.0, 0, 0
        classifies = self.task.name == "classification"
        choices = dataclasses.replace(self.choices, keep_logits=True) if classifies else self.choices
        one = torch.ones((), device=self.args.device)  # divides by 1: the sum over the batch's targets
        loss, kept = modeling.compute_loss(self.model, inputs, choices, num_items=one)
        right = int(self.task.correct(kept, inputs["labels"]) or 0) if classifies else 0
        return float(loss), count, right

    def _make_sample(self) -> str | None:
        """The sample is worth a look, not a run: where memory runs out, there is none."""
        try:
            return self.sample() if self.sample else None
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
        free(self.args.device)
        return None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        best = super()._determine_best_metric(metrics, trial)
        if best:
            self.control.should_save = True  # the best weights are on disk, whatever the save interval is
        return bool(best)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes a whole checkpoint or none: temporary folder, manifest with hashes, fsync, rename, then rotation."""
        self.store_flos()
        run_dir = Path(self.args.output_dir)
        step = self.state.global_step
        final = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        self.announce("save")
        self.meter.begin("save")
        try:
            with whole_folder(final) as folder:
                self._save(str(folder))
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                self._save_rng_state(str(folder))
                if self.state.best_global_step:
                    best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
                    if best.exists() or self.state.best_global_step == step:
                        self.state.best_model_checkpoint = str(best)
                self._note_callback_states()
                self.state.save_to_json(str(folder / "trainer_state.json"))
                checkpoints.write_identity(folder, {**self.identity, "recovery": self.recovery.state()})
                write_manifest(folder)
        except Exception as error:
            problem = disk_problem(error, run_dir)
            if problem is None:
                raise
            good = checkpoints.last_good(run_dir)
            kept = f"the last good checkpoint is {good}" if good else "no earlier checkpoint exists"
            raise RunFailed(f"checkpoint of step {step} could not be written: {problem}; {kept}") from error
        finally:
            self.meter.end()
        checkpoints.rotate(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.announce("train")

    def _note_callback_states(self) -> None:
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                name = type(callback).__name__
                if isinstance(self.state.stateful_callbacks.get(name), list):
                    self.state.stateful_callbacks[name].append(callback.state())
                else:
                    self.state.stateful_callbacks[name] = callback.state()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Adapters in PEFT's format (or the whole model under `full`) with the tokenizer."""
        save_trained(self.model, self.processing_class, Path(output_dir or self.args.output_dir), self.task)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Adapter weights are copied into the existing parameters, which keep their dtype; full models as stock."""
        if self.choices.method == "full":
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        weights = load_file(str(Path(resume_from_checkpoint) / "adapter_model.safetensors"))
        outcome: Any = set_peft_model_state_dict(self.model, weights)
        if outcome.unexpected_keys:
            raise RunFailed(
                f"{resume_from_checkpoint}: holds {len(outcome.unexpected_keys)} adapter tensors that this plan hasn't "
                f"(first: {outcome.unexpected_keys[0]}); resume with the plan that wrote it"
            )


def save_trained(model: Any, tokenizer: Any, folder: Path, task: Task | None = None) -> None:
    """What was trained, in safetensors, with the tokenizer beside it."""
    if hasattr(model, "peft_config"):
        # Without `False` PEFT asks the hub whether the vocabulary was resized; it never is here.
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    else:
        inner = getattr(model, "_orig_mod", model)
        inner.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if task is not None:
        with_task_file(folder, task)


def copy_trained(source: Path, destination: Path) -> None:
    """The loadable part of a checkpoint (no optimizer, no trainer state) under its final name, whole."""
    private = {"optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "trainer_state.json"}
    private |= {checkpoints.IDENTITY, "manifest.json"}
    with whole_folder(destination) as folder:
        for file in source.iterdir():
            if file.is_file() and file.name not in private:
                shutil.copy2(file, folder / file.name)


def _cuda_devices(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []


@contextlib.contextmanager
def cached_generation(model: Any) -> Any:
    """Keys and values are kept while text is generated, and only then."""
    previous = model.config.use_cache
    model.config.use_cache = True
    try:
        yield
    finally:
        model.config.use_cache = previous
