"""The training loop: transformers' Trainer with our batches, our step, our evaluation and whole checkpoints."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.records import Hyperparameters
from planner.contract.spec import TrainingChoices
from trainer import modeling
from trainer.data.batches import EpochBatches, SequenceDataset
from trainer.data.tokens import TokenizedData
from trainer.distributed import strategies
from trainer.distributed.batches import RankBatches
from trainer.distributed.world import World
from trainer.loop import schedules
from trainer.loop.arguments import training_arguments
from trainer.loop.callbacks import without_paths
from trainer.loop.evaluation import Evaluating
from trainer.loop.saving import Saving
from trainer.measure import devices
from trainer.measure.instants import StepMeter
from trainer.recovery import checkpoints
from trainer.recovery.faults import Faults
from trainer.recovery.pieces import Recovery
from trainer.tasks import Task


class LoopTrainer(Evaluating, Saving):
    """What differs from the stock Trainer, piece by piece; everything else is inherited."""

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
        world: World | None = None,
    ) -> None:
        self.world = world = world or World()
        self.strategy = strategies.choose(choices, world)
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
        self.heaviest: tuple[tuple[int, ...], ...] | None = None
        """Row by row the lengths of the sequences in the heaviest measured batch so far, where rows have some."""
        self.longest_batch = (0, 0)
        """Rows and padded length of the largest measured batch so far."""
        self.step_started = time.perf_counter()
        self._step_loss = torch.zeros((), device=device)
        self.last_loss = math.nan
        """Mean loss per target of the last optimizer step."""
        self.stop_asked = self.pause_asked = lambda: False
        """Whether this process was told to stop or to pause after the step; set by whoever listens."""
        self.stops = self.pauses = False
        """Whether any process was, as they agreed at the end of the step."""
        self.tell_out_of_memory = out_of_memory
        self._untold: list[dict[str, Any]] = []
        """Overflows of this process that rank 0 has yet to tell."""
        self._rows_before = (0, 0)
        self.recovery = Recovery(
            device=device,
            choices=choices,
            run_dir=run_dir,
            seed=hyperparameters.seed,
            phase=lambda: meter.current or "train",
            report=self._out_of_memory,
            faults=Faults.from_environment(world.rank),
            rank=world.rank,
            recovers=self.strategy.recovers,
        )
        self.last_grad_norm: float | None = None
        packed = choices.padding == "packed"
        self.batches = EpochBatches(
            train.lengths,
            batch_size=choices.batch_size,
            accumulation=choices.gradient_accumulation_steps * world.size,
            max_length=choices.max_length,
            packed=packed,
            group_by_length=hyperparameters.group_by_length,
            seed=hyperparameters.seed,
        )
        self.rank_batches = RankBatches(self.batches, rank=world.rank, size=world.size)
        self.steps_per_epoch = max(1, -(-len(self.rank_batches) // choices.gradient_accumulation_steps))
        if validation is not None:
            every = EpochBatches(
                validation.lengths,
                batch_size=choices.eval_batch_size or choices.batch_size,
                max_length=choices.max_length,
                packed=packed,
                shuffle=False,
            )
            self.eval_batches = RankBatches(every, rank=world.rank, size=world.size)
        super().__init__(
            model=model,
            args=training_arguments(
                run_dir,
                choices,
                hyperparameters,
                device=device,
                steps_per_epoch=self.steps_per_epoch,
                validates=validation is not None,
                further=self.strategy.arguments(),
            ),
            data_collator=task.collator(tokenizer, choices, seed=hyperparameters.seed, epochs=self.batches),
            train_dataset=SequenceDataset(train.sequences),
            eval_dataset=SequenceDataset(validation.sequences) if validation is not None else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.remove_callback(transformers.PrinterCallback)
        without_paths(self)
        self.recovery.watch(model)

    # ---- data ------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """Batches in the seeded order of the epoch, longest first."""
        return self._loader(self.train_dataset, self.rank_batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader[Any]:
        """Validation batches in a fixed order."""
        collator = self.task.collator(self.processing_class, self.choices, seed=self.hyperparameters.seed)
        return self._loader(self.eval_dataset, self.eval_batches, collator)

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
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
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

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
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

    def _reduce(self, model: Any) -> None:
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
        flags = (self.stop_asked(), self.pause_asked())
        table = self.world.table([float(self._step_loss), recovery.rows, recovery.eval_rows, *map(float, flags)])
        self._step_loss = table[:, 0].sum()
        recovery.rows, recovery.eval_rows = rows = int(table[:, 1].min()), int(table[:, 2].min())
        if rows != self._rows_before:
            # Rank 0 tells what the others met.
            for rank, fields in enumerate(self.world.objects(self._untold)):
                for each in fields if self.world.main else ():
                    recovery.notes.append(f"out of memory at step {each['step']} in {each['phase']} on rank {rank}")
                    self.tell_out_of_memory({**each, "rank": rank})
            self._untold = []
        self._rows_before = rows
        self.stops, self.pauses = bool(table[:, 3].any()), bool(table[:, 4].any())

    def _forward_backward(
        self, model: Any, inputs: dict[str, Any], num_items: Any, weight: float = 1.0
    ) -> torch.Tensor:
        """One piece of a micro-batch; its loss is summed over its targets and divided by the whole step's."""
        faults, step = self.recovery.faults, self.recovery.step
        shape = tuple(inputs["input_ids"].shape)
        if self.meter.counting:  # a resumed run may measure other batches than the longest, and says so
            if shape[0] * shape[1] > self.longest_batch[0] * self.longest_batch[1]:
                self.longest_batch = (shape[0], shape[1])
            self.heaviest = heavier(self.heaviest, inputs.get("lengths"), self.choices)
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
        self, model: Any, inputs: dict[str, Any], choices: TrainingChoices, num_items: Any
    ) -> tuple[Any, Any]:
        """`modeling.compute_loss` where the strategy lets the model's weights be used."""
        # DDP's wrapper is called when the gradients are added up, not here.
        module = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model

        def compute() -> tuple[Any, Any]:
            return modeling.compute_loss(module, inputs, choices, num_items=num_items)

        if choices.loss == "chunked":
            return cast(tuple[Any, Any], self.strategy.inside(module, compute))
        return compute()

    def _out_of_memory(self, **fields: Any) -> None:
        """Tells of it while the peaks up to the failure are known; then measures what fits from the start."""
        self.meter.end()
        if self.world.main:
            self.tell_out_of_memory(fields)
        else:
            self._untold.append(fields)
        self.meter.forget_peaks()
        self.longest_batch, self.heaviest = (0, 0), None

    def _update_failed(self, divisible: bool) -> None:
        if not self.strategy.updates_alone:
            # Other processes' gradients or weights are part of it: there is no way back but the last checkpoint.
            self.recovery.recovers = False
        self.recovery.update_failed(divisible)
        self.meter.begin("optimizer")

    def _clip_grad_norm(self, model: Any) -> Any:
        self.meter.begin("optimizer")
        return self._norm(lambda: self._clip(model), self.args.max_grad_norm)

    def _clip(self, model: Any) -> Any:
        own = self.strategy.norm()
        return super()._clip_grad_norm(model) if own is None else own

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
        if grad_norm is None:
            grad_norm = self._norm(self.strategy.norm, math.inf)
        norm = self._norm(lambda: super(LoopTrainer, self)._get_grad_norm(model, grad_norm=grad_norm), math.inf)
        value = float(norm) if norm is not None else 0.0
        self.last_grad_norm = value
        loss = self.last_loss = float(self._step_loss)
        scaled = getattr(self.accelerator, "scaler", None) is not None
        # Under loss scaling an infinite gradient is routine: the scaler skips the step and halves the scale.
        if not math.isfinite(loss) or (not math.isfinite(value) and not scaled):
            self._refuse_broken_weights()
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            shown = loss if what == "loss" else value
            good = checkpoints.last_good(Path(self.args.output_dir))
            kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"
            raise RunFailed(
                f"step {self.state.global_step + 1}: the {what} became {shown}; {kept}. "
                "Lower the learning rate or lengthen the warm-up, and look for damaged examples"
            )
        return norm

    def _refuse_broken_weights(self) -> None:
        """Where no update was made yet, the weights may have come without numbers in them: then they are named."""
        if self.state.global_step > 0:
            return
        for name, parameter in self.model.named_parameters():
            if parameter.is_floating_point() and not bool(torch.isfinite(parameter.detach()).all()):
                where = getattr(self.model.config, "_name_or_path", "") or "the model"
                raise InvalidInput(
                    f"{where}: {name} holds values that aren't numbers; these weights can't be trained: fetch or "
                    "convert them again"
                )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that the plan names, built by the code that the trace runs."""
        if self.optimizer is None:
            self.strategy.before_optimizer(self.model, self.args.device)
            self.recovery.watch(self.model)
            self.optimizer = self.strategy.optimizer(
                modeling.build_optimizer(self.model, self.choices, self.hyperparameters),
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

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """A model that is to be divided stays in host memory until then."""
        if self.strategy.whole:
            super()._move_model_to_device(model, device)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """Gradients lie in DDP's buckets once they are reduced, and aren't copied back."""
        from accelerate.utils import DistributedDataParallelKwargs

        arguments = super()._build_accelerator_args(**kwargs)
        for handler in arguments["kwargs_handlers"]:
            if isinstance(handler, DistributedDataParallelKwargs):
                handler.gradient_as_bucket_view = True
        return arguments

    def _prepare_for_training(self, max_steps: Any, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        # Each process drops out other elements; the weights were drawn alike.
        if self.world.size > 1 and resume_from_checkpoint is None:
            torch.manual_seed(self.hyperparameters.seed + self.world.rank)
        if self.choices.precision == "fp16":
            # accelerate ties loss scaling to autocast; weights that are fp16 already need only the scaling.
            original = self.model.__dict__.pop("_original_forward", None)
            if original is not None:
                self.model.forward = original
        return prepared


def heavier(known: Any, rows: Any, choices: TrainingChoices) -> Any:
    """Of two micro-batches, as the lengths in their rows, the one that takes more memory: flattened ones by their
    tokens, padded ones by what they are padded to.
    """
    if rows is None:
        return known
    made = tuple(tuple(row) for row in rows)
    if known is None:
        return made

    def weight(batch: Any) -> int:
        tokens = [sum(row) for row in batch]
        return sum(tokens) if choices.stack == "builtin" and choices.loss == "chunked" else len(tokens) * max(tokens)

    return made if weight(made) > weight(known) else known
