"""One training run from a plan file: data, model, loop, adapter, observation. Reads top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from planner.errors import InvalidInput, RunFailed, TuneplanError
from planner.records import Plan
from planner.spec import TrainingChoices
from trainer import files
from trainer.control import Control, StopRequested
from trainer.events import EventStream, log_to
from trainer.request import (
    Request,
    choose_run_dir,
    read_choices,
    read_plan,
    refuse_overwriting,
    require_reporter,
    write_plan,
)

log = logging.getLogger("trainer")


def main(request: Request, events: EventStream) -> int:
    """Runs the plan and returns the exit code; every failure ends as one line and one `failed` event."""
    run: Run | None = None
    control = Control(events)
    control.install_signals()
    if request.control_stdin:
        control.listen()
    lock: files.FolderLock | None = None
    try:
        plan = read_plan(request)
        choices = read_choices(plan, str(request.plan))
        run_dir = choose_run_dir(request, plan)
        lock = files.FolderLock(run_dir)
        half_written = files.tidy(run_dir)
        refuse_overwriting(request, run_dir)
        log_to(run_dir)
        events.attach(run_dir)
        for name in half_written:
            events.warn(
                "half-written folder",
                f"{run_dir / name} was being written when the run ended; what there was is removed",
            )
        write_plan(plan, run_dir)
        run = Run(request=request, plan=plan, choices=choices, run_dir=run_dir, events=events, control=control)
        run.execute()
        return 0
    except StopRequested:
        unknown = ("adapter_path", "eval_loss", "eval_loss_before", "predicted_bytes", "measured_bytes")
        nothing = dict.fromkeys((*unknown, "observation_path"))
        events.emit("finished", reason="stopped", steps=0, seconds=0.0, **nothing)
        return 0
    except BaseException as error:
        message, code = explain(error, run)
        log.info("failed: %s", message, exc_info=error)
        if run is not None:
            run.observe_failure(message)
        events.emit("failed", message=message, exit_code=code)
        raise Failed(message, code) from None
    finally:
        control.restore_signals()
        events.close()
        if lock is not None:
            lock.release()


class Failed(Exception):
    """A failure that was already reported as an event; carries the line for stderr and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def explain(error: BaseException, run: Run | None) -> tuple[str, int]:
    """One line and the exit code for whatever ended the run."""
    if isinstance(error, TuneplanError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before the step was finished; resume from the last checkpoint", RunFailed.exit_code
    folder = run.run_dir if run is not None else Path(".")
    problem = files.disk_problem(error, folder)
    if problem is not None and not isinstance(error, ImportError):
        return f"{problem}; free some space or choose another --output, then --resume", RunFailed.exit_code
    from trainer.devices import is_out_of_memory

    if is_out_of_memory(error):
        if run is not None:
            return run.report_out_of_memory(error), RunFailed.exit_code
        return "out of memory", RunFailed.exit_code
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first:.300} (details in {folder / 'log.txt'})", RunFailed.exit_code


# --------------------------------------------------------------------------------------------------------------------


class Run:
    """One run and what is known of it so far, so that a failure can still leave an observation."""

    def __init__(
        self,
        *,
        request: Request,
        plan: Plan,
        choices: TrainingChoices,
        run_dir: Path,
        events: EventStream,
        control: Control,
    ) -> None:
        self.request = request
        self.plan = plan
        self.choices = choices
        self.run_dir = run_dir
        self.events = events
        self.control = control
        self.config: dict[str, Any] = {}
        self.task: Any = None
        self.device: Any = None
        self.trainer: Any = None
        self.reporter: Any = None
        self.phase = "load"

    def enter(self, phase: str, detail: str = "") -> None:
        """Announces the stage; a stop that came meanwhile takes effect here while no step has run."""
        self.phase = phase
        self.events.emit("phase", name=phase, detail=detail)
        if self.trainer is None or not self.control.stepping:
            self.control.check()

    def announce(self, phase: str) -> None:
        """Tells of a stage within the training (`eval`, `save`, and `train` again)."""
        self.phase = phase
        self.events.emit("phase", name=phase, detail="")

    def execute(self) -> None:
        """The whole run."""
        started = time.perf_counter()
        h = self.plan.hyperparameters
        self.enter("load", "libraries")
        import torch
        import transformers

        transformers.logging.set_verbosity_warning()
        transformers.logging.enable_propagation()
        transformers.logging.disable_default_handler()
        transformers.logging.disable_progress_bar()
        from trainer import checkpoints, devices, loading, modeling, tasks
        from trainer.callbacks import Reporter
        from trainer.generate import complete
        from trainer.instants import StepMeter
        from trainer.loop import LoopTrainer, copy_trained, save_trained

        for name in h.report_to:
            require_reporter(name)
        self.device = devices.choose("cpu" if self.plan.gpu == "cpu" else self.request.device)
        devices.check_precision(self.device, self.choices.precision, self.choices.method, self.choices.adapter_dtype)
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.run_dir / "tensorboard")

        # -- data: cheap, and the likeliest thing to be wrong, so it goes first
        self.enter("data", self.plan.data.path or "")
        self.config = loading.read_config(self.plan.model)
        loading.check_config(self.plan, self.config)
        tokenizer = loading.load_tokenizer(self.plan.model)
        self.task = tasks.choose(self.config, self.plan.data)
        self.task.check(self.choices)
        train, validation, prompt = self.prepare_data(tokenizer)
        identity = self.identity(train)
        checkpoint: Path | None = None
        if self.request.resume is not None:
            checkpoint, passed_over = checkpoints.find(self.run_dir, self.request.resume)
            for message in passed_over:
                self.events.warn("damaged checkpoint", message, "an older one is taken")
            checkpoints.check_identity(checkpoint, identity)

        # -- model
        self.enter("load", self.plan.model)
        transformers.set_seed(h.seed)
        meter = StepMeter(self.device)
        meter.begin("load")
        model = loading.load_model(
            self.plan, self.choices, self.config, device=str(self.device), seed=h.seed, task=self.task
        )
        self.check_positions(model)
        if self.choices.method == "qlora":
            model = modeling.quantize(model, self.choices)
            modeling.prepare_kbit(model, self.choices)
            for module in model.modules():
                # On a cpu, bitsandbytes would repack the weights in place for an evaluation; they stay as trained on.
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
        model = modeling.attach_adapters(model, self.choices)
        if self.request.adapter is not None:
            loading.load_adapter(model, Path(self.request.adapter), self.choices)
        if self.choices.method == "qlora":
            # transformers would ask the quantizer that loaded the weights whether they can be trained; they were
            # quantized here and there is none. Adapters are attached, which is what it wants to know.
            model.get_base_model().is_quantized = False
        modeling.apply_checkpointing(model, self.choices)
        modeling.use_loss_version(model, self.choices)
        modeling.watch_loss(model, lambda instant: self.loss_begins(meter, instant))
        meter.end()

        # -- loop
        reporter = self.reporter = Reporter(self.events, self.control, self.device, h)

        def sample() -> str | None:
            if prompt is None:
                return None
            return complete(model, tokenizer, prompt, max_new_tokens=h.sample_max_new_tokens)

        trainer = self.trainer = LoopTrainer(
            model=model,
            tokenizer=tokenizer,
            run_dir=self.run_dir,
            choices=self.choices,
            hyperparameters=h,
            train=train,
            validation=validation,
            device=self.device,
            meter=meter,
            identity=identity,
            sample=sample if validation is not None else None,
            announce=self.announce,
            out_of_memory=self.out_of_memory,
            callbacks=[reporter],
            task=self.task,
        )
        reporter.trainer = trainer
        if checkpoint is not None:
            trainer.recovery.restore(checkpoints.recovery_state(checkpoint))
            state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            reporter.recall(state)
        total_steps = h.max_steps or max(1, math.ceil(h.epochs * trainer.steps_per_epoch))
        parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
        self.events.emit(
            "started",
            run_dir=str(self.run_dir),
            pid=os.getpid(),
            device=str(self.device),
            total_steps=total_steps,
            epochs=h.epochs,
            trainable_parameters=sum(count for count, trained in parameters if trained),
            parameters=sum(count for count, _ in parameters),
            versions=devices.versions(),
            predicted=self.plan.predicted,
            resumed_from=str(checkpoint) if checkpoint else None,
        )
        self.enter("train", f"{total_steps} steps")
        self.control.stepping = True
        trainer.args.eval_on_start = validation is not None and checkpoint is None
        if checkpoint is not None and state.global_step >= total_steps:
            # Only the results were missing; transformers would make one more step before it looks at the count.
            trainer.state = state
            trainer._load_from_checkpoint(str(checkpoint), model)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        meter.close()

        # -- results: the best weights where there was a validation set, else the last
        self.phase = "finish"
        self.events.emit("phase", name="finish", detail="")
        best = trainer.state.best_model_checkpoint
        destination = self.run_dir / ("model" if self.choices.method == "full" else "adapter")
        damage = files.manifest_problem(Path(best)) if best and Path(best).is_dir() else None
        if damage:
            self.events.warn(
                "damaged checkpoint",
                f"{best}, the best one, is damaged ({damage})",
                "the last weights become the result",
            )
        if best and Path(best).is_dir() and not damage:
            copy_trained(Path(best), destination)
        else:
            with files.whole_folder(destination) as folder:
                save_trained(trainer.model, tokenizer, folder, self.task)
        seconds = time.perf_counter() - started
        observation, path = self.observe()
        self.events.emit(
            "finished",
            reason=reporter.reason,
            adapter_path=str(destination),
            steps=trainer.state.global_step,
            seconds=seconds,
            eval_loss=reporter.eval_loss,
            eval_loss_before=reporter.eval_loss_before,
            predicted_bytes=self.predicted_bytes(),
            measured_bytes=self.measured_bytes(observation),
            planned_length=self.choices.max_length,
            longest_length=trainer.longest_batch[1],
            observation_path=str(path),
        )
        del torch

    # ---- parts -----------------------------------------------------------------------------------------------------

    def prepare_data(self, tokenizer: Any) -> tuple[Any, Any, str | None]:
        """(training data, validation data or None, rendered prompt of the sample or None)."""
        from trainer.data.batches import split_validation
        from trainer.data.formats import read_examples, read_path

        h, settings = self.plan.hyperparameters, self.task.data_settings(self.plan.data)
        examples = read_examples(settings)
        if settings.validation_path:
            held_out = read_path(settings.validation_path, settings)
        else:
            kept, chosen = split_validation(len(examples), settings.validation_split, h.seed)
            held_out = [examples[index] for index in chosen]
            examples = [examples[index] for index in kept]
        options: Any = {"max_length": self.choices.max_length, "train_on_prompt": h.train_on_prompt}
        self.task.prepare(examples, tokenizer)
        train = self.task.tokenize(examples, tokenizer, **options)
        validation = self.task.tokenize(held_out, tokenizer, **options) if held_out else None
        if not train.sequences:
            raise InvalidInput(
                f"{settings.path}: none of the {len(examples)} training examples leaves a token to learn within "
                f"--max-length {self.choices.max_length}; raise it or check the completions"
            )
        if validation is not None and not validation.sequences:
            validation = None
        both = [train] if validation is None else [train, validation]
        truncated, skipped = sum(data.truncated for data in both), sum(data.skipped for data in both)
        lengths = sorted(train.lengths)
        self.events.emit(
            "data",
            examples=len(train.sequences),
            validation_examples=len(validation.sequences) if validation else 0,
            tokens=train.tokens,
            truncated=truncated,
            lengths=histogram(lengths, self.choices.max_length),
            skipped=skipped,
            split=sum(data.split for data in both),
            shape=examples[0].shape,
            longest=lengths[-1],
            median=lengths[len(lengths) // 2],
        )
        if truncated:
            self.events.warn(
                "truncated",
                f"{truncated} examples are longer than --max-length {self.choices.max_length} and were cut",
                "raise --max-length if their ends matter",
            )
        if skipped:
            self.events.warn("skipped", f"{skipped} examples have nothing to learn and were left out", "")
        shown = (held_out or examples)[0]
        prompt = self.task.sample_prompt(shown, tokenizer, h.sample_prompt) if held_out else None
        return train, validation, prompt

    def identity(self, train: Any) -> dict[str, Any]:
        """What a checkpoint must share with a run that goes on from it."""
        c, h = self.choices, self.plan.hyperparameters
        return {
            "batch_size": c.batch_size,
            "gradient_accumulation_steps": c.gradient_accumulation_steps,
            "max_length": c.max_length,
            "padding": c.padding,
            "seed": h.seed,
            "group_by_length": h.group_by_length,
            "method": c.method,
            "lora_r": c.lora_r,
            "lora_targets": list(c.lora_targets),
            "optimizer": c.optimizer,
            "data": train.fingerprint(),
            "model": self.plan.model,
        }

    def check_positions(self, model: Any) -> None:
        """Lengths past the model's positions would train on garbage or crash."""
        positions = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
        if positions and self.choices.max_length > positions:
            raise InvalidInput(
                f"--max-length {self.choices.max_length} is longer than the {positions} positions of {self.plan.model}"
            )

    # ---- observation -----------------------------------------------------------------------------------------------

    def observe(self, notes: tuple[str, ...] = ()) -> tuple[Any, Path]:
        """Builds and saves the observation."""
        from trainer import observe

        trainer = self.trainer
        trainer.meter.close()
        observation = self._observation(list(notes), choices=trainer.recovery.choices_now())
        return observation, observe.save(observation, self.run_dir)

    def _observation(self, notes: list[str], *, choices: TrainingChoices, outcome: str = "ran") -> Any:
        from trainer import observe

        trainer, reporter = self.trainer, self.reporter
        remarks = [*notes, *trainer.recovery.notes]
        rows, longest = trainer.longest_batch
        if longest and longest < choices.max_length and choices.padding == "longest":
            remarks.append(f"planned max_length {choices.max_length}; the longest batch was {rows} x {longest} tokens")
            choices = dataclasses.replace(choices, max_length=longest)
        # The first step pays for start-up work that no later one repeats.
        steady = reporter.step_seconds[1:] or reporter.step_seconds
        spent = sum(reporter.step_seconds)
        return observe.build(
            plan=self.plan,
            choices=choices,
            config=self.config,
            device=self.device,
            measured=trainer.meter.measured(),
            step_seconds=steady[:200],
            tokens_per_second=trainer.real_tokens / spent if spent else None,
            notes=remarks,
            outcome=outcome,
        )

    def observe_failure(self, message: str) -> None:
        """What is known of a failed run is kept too."""
        if self.trainer is None or self.reporter is None:
            return
        with contextlib.suppress(Exception):
            self.observe((f"failed: {message}",))

    def out_of_memory(self, fields: dict[str, Any]) -> None:
        """An `oom` event, and an observation of the settings that did not fit, for the calibration."""
        from trainer import observe

        self.events.emit("oom", **fields)
        if fields["phase"] == "eval":
            tried = dataclasses.replace(self.trainer.recovery.choices_now(), eval_batch_size=fields["batch_size"])
        else:
            planned = self.choices
            pieces = -(-planned.batch_size // fields["batch_size"])
            tried = dataclasses.replace(
                planned,
                batch_size=fields["batch_size"],
                gradient_accumulation_steps=planned.gradient_accumulation_steps * pieces,
            )
        # A full disk or a driver that doesn't answer must not cost the run that is being saved here.
        with contextlib.suppress(Exception):
            observation = self._observation([], choices=tried, outcome="out_of_memory")
            observe.save(
                observation,
                self.run_dir,
                name=f"observation-oom-{fields['step']}-{fields['phase']}-{fields['batch_size']}.json",
            )

    def loss_begins(self, meter: Any, instant: str) -> None:
        """Called at the vocabulary head."""
        within = meter.current == "forward"
        meter.loss_begins(instant)
        if within and self.trainer is not None:
            self.trainer.recovery.faults.strike("loss", self.trainer.recovery.step)

    def predicted_bytes(self) -> int | None:
        """Predicted counterpart of `measured_bytes`."""
        if self.plan.predicted is None:
            return None
        return self.plan.predicted.allocated_peak_bytes

    def measured_bytes(self, observation: Any) -> int | None:
        """Measured allocated peak."""
        return observation.allocated_peak_bytes

    def report_out_of_memory(self, error: BaseException) -> str:
        """Emits the `oom` event and returns the line for it."""
        step = self.trainer.state.global_step + 1 if self.trainer is not None else 0
        phase = self.trainer.meter.current or self.phase if self.trainer is not None else self.phase
        c = self.choices
        self.events.emit(
            "oom",
            phase=phase,
            step=step,
            batch_size=c.batch_size,
            new_batch_size=None,
            gradient_accumulation_steps=c.gradient_accumulation_steps,
        )
        half = max(1, c.batch_size // 2)
        way_out = (
            f"--batch-size {half} --gradient-accumulation-steps {c.gradient_accumulation_steps * 2}"
            if c.batch_size > 1
            else "a smaller --max-length, --gradient-checkpointing or --loss chunked"
        )
        return f"out of memory on {self.device} at step {step} ({phase}); start anew with {way_out}"


def histogram(lengths: list[int], max_length: int, bins: int = 32) -> dict[str, Any]:
    """Counts of sequence lengths in `bins` equal bins up to `max_length`; edges in tokens."""
    width = max(1, -(-max_length // bins))
    counts = [0] * (-(-max_length // width))
    for length in lengths:
        counts[min(len(counts) - 1, (length - 1) // width)] += 1
    return {"bin_width": width, "counts": counts, "min": lengths[0], "max": lengths[-1]}
