"""The training loop: transformers' Trainer with our batches, our step, our evaluation and whole checkpoints."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from planner.contract.choices import TrainingChoices
from planner.contract.events import OomEvent
from trainer import modeling
from trainer.data.batches import EpochBatches, SequenceDataset
from trainer.distributed import strategies
from trainer.distributed.batches import RankBatches
from trainer.loop import refusals, schedules
from trainer.loop.arguments import training_arguments
from trainer.loop.callbacks import without_paths
from trainer.loop.evaluation import Evaluating
from trainer.loop.heaviest import Growing, Heaviest
from trainer.loop.inputs import Job, Listeners, Material
from trainer.loop.saving import Saving
from trainer.loop.wishes import NOTHING, as_row
from trainer.measure import devices
from trainer.measure.instants import StepMeter
from trainer.recovery.faults import Faults
from trainer.recovery.pieces import Recovery


class LoopTrainer(Evaluating, Saving):
    """What differs from the stock Trainer, piece by piece; everything else is inherited."""

    # compute_loss divides by the targets of the whole effective batch, so no further division is due.
    loss_is_scaled_for_ga = True

    wishes: Sequence[float] = NOTHING
    """What the processes agreed that is to be done after the step, by `wishes.COLUMNS`."""

    def __init__(
        self,
        model: torch.nn.Module,
        job: Job,
        material: Material,
        meter: StepMeter,
        *,
        listeners: Listeners | None = None,
        callbacks: Sequence[transformers.TrainerCallback] = (),
    ) -> None:
        self.world, self.choices, self.hyperparameters = job.world, job.choices, job.hyperparameters
        self.task, self.identity = material.task, material.identity
        self.meter = meter
        self.listeners = listeners or Listeners()
        self.strategy = strategies.choose(job.choices, job.world)
        self.last_sample: str | None = None
        self.real_tokens = 0
        """Tokens without padding that have been trained on in this process."""
        self.heaviest = Heaviest(job.choices)
        self.growing = Growing(job.choices, torch.cuda.empty_cache if job.device.type == "cuda" else lambda: None)
        self.step_started = time.perf_counter()
        self._step_loss = torch.zeros((), device=job.device)
        self.last_loss = math.nan
        """Mean loss per target of the last optimizer step."""
        self.last_grad_norm: float | None = None
        self.stops = self.pauses = False
        """Whether any process was told to, as they agreed at the end of the step."""
        self._untold: list[OomEvent] = []
        """Overflows of this process that rank 0 has yet to tell."""
        self._rows_before = (0, 0)
        self.recovery = Recovery(
            device=job.device,
            choices=job.choices,
            run_dir=job.run_dir,
            seed=job.hyperparameters.seed,
            phase=lambda: meter.current or "train",
            report=self._out_of_memory,
            faults=Faults.from_environment(job.world.rank),
            rank=job.world.rank,
            recovers=self.strategy.recovers,
        )
        self.rank_batches = job.training_batches(material.train)
        self.batches = self.rank_batches.batches
        self.steps_per_epoch = max(1, -(-len(self.rank_batches) // job.choices.gradient_accumulation_steps))
        validation = material.validation
        self.validates = validation is not None
        if validation is not None:
            self.eval_batches = job.validation_batches(validation)
        super().__init__(
            model=model,
            args=training_arguments(job, self.steps_per_epoch, self.validates, self.strategy.arguments()),
            data_collator=self._collator(material.tokenizer, epochs=self.batches),
            train_dataset=SequenceDataset(material.train.sequences),
            eval_dataset=SequenceDataset(validation.sequences) if validation is not None else None,
            processing_class=material.tokenizer,
            callbacks=list(callbacks),
        )
        self.remove_callback(transformers.PrinterCallback)
        without_paths(self)
        self.recovery.watch(model)

    @property
    def step_loss(self) -> float:
        """Loss of the step that is being made, or was made last."""
        return float(self._step_loss)

    # ---- data ------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Batches in the seeded order of the epoch, longest first."""
        return self._loader(self.train_dataset, self.rank_batches)

    def get_eval_dataloader(self, eval_dataset: object = None) -> torch.utils.data.DataLoader[Any]:
        """Validation batches in a fixed order."""
        return self._loader(self.eval_dataset, self.eval_batches, self._collator(self.processing_class))

    def _collator(self, tokenizer: Any, epochs: EpochBatches | None = None) -> Any:
        return self.task.collator(tokenizer, self.choices, seed=self.hyperparameters.seed, epochs=epochs)

    def _loader(self, dataset: Any, batches: RankBatches, collator: Any = None) -> torch.utils.data.DataLoader[Any]:
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collator or self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        from accelerate.data_loader import prepare_data_loader

        # The batches are this process's already: accelerate only has to bring them to the device.
        placed: torch.utils.data.DataLoader[Any] = prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return placed

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The micro-batches of one optimizer step with the number of targets in them."""
        self.step_started = time.perf_counter()
        self._step_loss = torch.zeros((), device=self.args.device)
        self.recovery.begin_step(self.state.global_step + 1)
        self.strategy.begin_step()
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        if not batches:
            return [], None
        fillers = self._fillers(len(batches))
        real = [batch for batch, filler in zip(batches, fillers, strict=True) if not filler]
        self.real_tokens += sum(batch["real_tokens"] for batch in real)
        targets = float(sum(int(self.task.targets(batch["labels"])) for batch in real))
        for batch, filler in zip(batches, fillers, strict=True):
            del batch["real_tokens"]
            batch["filler"] = filler
        if self.world.size > 1:
            targets = float(self.world.table([targets]).sum())
        return batches, torch.tensor(max(int(targets), 1), device=device)

    def _fillers(self, count: int) -> list[bool]:
        """For each of the step's micro-batches, whether it only keeps this process in time with the others."""
        first = self.state.global_step % self.steps_per_epoch * self.choices.gradient_accumulation_steps
        return [self.rank_batches.is_filler(first + number) for number in range(count)]

    # ---- one step --------------------------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch, in pieces where it doesn't fit; returns its share of the loss.

        Of several processes each returns the share times their number, as DDP and FSDP take the mean of gradients.
        """
        model.train()
        filler = inputs.pop("filler", False)
        inputs = self._prepare_inputs(inputs)
        several = self.world.size

        self.strategy.accumulates(model, self.accelerator.sync_gradients)

        def attempt(piece: dict[str, Any]) -> torch.Tensor:
            return self._forward_backward(model, piece, num_items_in_batch)

        if filler:
            loss = torch.zeros((), device=self.args.device)
        else:
            loss = self.recovery.micro_batch(inputs, attempt)
        if not self.strategy.recovers:
            # All processes make the same number of passes, each of which exchanges weights.
            made = 0 if filler else -(-len(inputs["input_ids"]) // self.recovery.rows)
            for _ in range(-(-self.choices.batch_size // self.recovery.rows) - made):
                self._forward_backward(model, self._nothing(inputs), num_items_in_batch, weight=0.0)
        if self.recovery.faults.take("nan", self.recovery.step):
            loss = loss * math.nan
        self._step_loss += loss
        if several > 1 and self.accelerator.sync_gradients:
            self._reduce(model)
            self._agree()
        return loss if several == 1 else loss * several

    def _reduce(self, model: torch.nn.Module) -> None:
        """Adds up the gradients of all processes."""
        if self.strategy.reduces_in is None:
            self.strategy.reduce(model)
            return
        self.meter.begin(self.strategy.reduces_in)
        try:
            self.strategy.reduce(model)
            return
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
        self._update_failed(False)

    def _nothing(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One row with something to learn, for a pass whose loss counts nothing."""
        row = {name: value[:1] if hasattr(value, "__len__") else value for name, value in inputs.items()}
        row["labels"] = row["labels"].clone()
        row["labels"].view(-1)[-1] = 0
        return row

    def _agree(self) -> None:
        """Before the update, processes tell each other the loss, what fits, and whether to stop."""
        recovery = self.recovery
        flags = (self.listeners.stop_asked(), self.listeners.pause_asked())
        own = [float(self._step_loss), recovery.rows, recovery.eval_rows, *map(float, flags)]
        table = self.world.table([*own, *as_row(self.listeners.wanted())])
        self._step_loss = table[:, 0].sum()
        recovery.rows, recovery.eval_rows = rows = int(table[:, 1].min()), int(table[:, 2].min())
        if rows != self._rows_before:
            # Rank 0 tells what the others met.
            for rank, untold in enumerate(self.world.objects([told.model_dump() for told in self._untold])):
                for each in untold if self.world.main else ():
                    told = OomEvent.model_validate({**each, "rank": rank})
                    recovery.notes.append(f"out of memory at step {told.step} in {told.phase} on rank {rank}")
                    self.listeners.out_of_memory(told)
            self._untold = []
        self._rows_before = rows
        self.stops, self.pauses = bool(table[:, 3].any()), bool(table[:, 4].any())
        self.wishes = table[:, 5:].max(dim=0).values.tolist()

    def _forward_backward(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items: torch.Tensor | int | None, weight: float = 1.0
    ) -> torch.Tensor:
        """One piece of a micro-batch; its loss is summed over its targets and divided by the whole step's."""
        faults, step = self.recovery.faults, self.recovery.step
        shape = tuple(inputs["input_ids"].shape)
        if self.meter.counting:  # a resumed run may measure other batches than the longest, and says so
            self.heaviest.note(shape[0], shape[1], inputs.get("lengths"))
        self.growing.next(shape[0], shape[1], inputs.get("lengths"))
        # A part may be all prompt; where the model's own loss is a mean, the mean over no targets is no number.
        if shape[0] < self.choices.batch_size and not int(self.task.targets(inputs["labels"])):
            if self.strategy.recovers:
                return torch.zeros((), device=self.args.device)
            inputs, weight = self._nothing(inputs), 0.0
        self.meter.begin("forward")
        faults.strike("forward", step)
        loss, kept = self.compute_piece(model, inputs, self.choices, num_items)
        del inputs
        self.meter.begin("backward")
        share = weight * self.world.size
        with faults.within_backward(self.recovery.parameters, step):
            self.strategy.backward(self.accelerator, loss if share == 1.0 else loss * share)
        del kept
        self.meter.end()
        return loss.detach() if weight == 1.0 else torch.zeros((), device=self.args.device)

    def compute_piece(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        choices: TrainingChoices,
        num_items: torch.Tensor | int | None,
    ) -> tuple[Any, object]:
        """`modeling.compute_loss` where the strategy lets the model's weights be used."""
        # DDP's wrapper is called when the gradients are added up, not here.
        module = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model

        def compute() -> tuple[Any, object]:
            return modeling.compute_loss(module, inputs, choices, num_items=num_items)

        if choices.loss == "chunked":
            return cast(tuple[Any, Any], self.strategy.inside(module, compute))
        return compute()

    def _out_of_memory(self, told: OomEvent) -> None:
        """Tells of it while the peaks up to the failure are known; then measures what fits from the start."""
        self.meter.end()
        if self.world.main:
            self.listeners.out_of_memory(told)
        else:
            self._untold.append(told)
        self.meter.forget_peaks()
        self.heaviest.forget()

    def _update_failed(self, divisible: bool) -> None:
        if not self.strategy.updates_alone:
            # Other processes' gradients or weights are part of it: there is no way back but the last checkpoint.
            self.recovery.recovers = False
        self.recovery.update_failed(divisible)
        self.meter.begin("optimizer")

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        self.meter.begin("optimizer")
        return self._norm(lambda: self._clip(model), self.args.max_grad_norm)

    def _clip(self, model: torch.nn.Module) -> Any:
        own = self.strategy.norm()
        return super()._clip_grad_norm(model) if own is None else own  # type: ignore[no-untyped-call]

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

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Refuses to step on a loss or gradient that isn't a number, while the weights are still good."""
        if grad_norm is None:
            self.meter.begin("optimizer")
        if grad_norm is None:
            grad_norm = self._norm(self.strategy.norm, math.inf)
        usual: Callable[..., Any] = super()._get_grad_norm
        norm = self._norm(lambda: usual(model, grad_norm=grad_norm), math.inf)
        self.last_grad_norm = value = float(norm) if norm is not None else 0.0
        loss = self.last_loss = float(self._step_loss)
        scaled = getattr(self.accelerator, "scaler", None) is not None
        # Under loss scaling an infinite gradient is routine: the scaler skips the step and halves the scale.
        if not math.isfinite(loss) or (not math.isfinite(value) and not scaled):
            refusals.no_number(self.model, Path(self.args.output_dir), self.state.global_step, loss, value)
        return norm

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that the plan names, built by the code that the trace runs."""
        made: torch.optim.Optimizer | None = self.optimizer
        if made is None:
            self.strategy.before_optimizer(self.model, self.args.device)
            self.recovery.watch(self.model)
            made = self.optimizer = self.strategy.optimizer(
                modeling.build_optimizer(self.model, self.choices, self.hyperparameters),
                failed=self._update_failed,
                strike=lambda: self.recovery.faults.strike("optimizer", self.recovery.step),
            )
        return made

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

    def _move_model_to_device(self, model: torch.nn.Module, device: torch.device) -> None:
        """A model that is to be divided stays in host memory until then."""
        if self.strategy.whole:
            super()._move_model_to_device(model, device)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, object]:
        """Gradients lie in DDP's buckets once they are reduced, and aren't copied back."""
        from accelerate.utils import DistributedDataParallelKwargs

        arguments = super()._build_accelerator_args(**kwargs)
        for handler in arguments["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                handler.gradient_as_bucket_view = True
        return arguments

    def _prepare_for_training(self, max_steps: Any, train_dataloader: Any, resume_from_checkpoint: Any) -> object:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)  # type: ignore[no-untyped-call]
        # Each process drops out other elements; the weights were drawn alike.
        if self.world.size > 1 and resume_from_checkpoint is None:
            torch.manual_seed(self.hyperparameters.seed + self.world.rank)
        if self.choices.precision == "fp16":
            # accelerate ties loss scaling to autocast; weights that are fp16 already need only the scaling.
            original = self.model.__dict__.pop("_original_forward", None)
            if original is not None:
                self.model.forward = original
        return prepared
