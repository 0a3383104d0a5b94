"""One training run from a plan file: data, model, loop, adapter, observation. Reads top to bottom."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from planner.contract import edge
from planner.contract.errors import Interrupted, NotModelled, RunFailed, TuneplanError
from planner.contract.records import Plan
from planner.contract.shown import clause
from planner.contract.spec import TrainingChoices
from trainer.commands.accounts import Accounts, largest
from trainer.distributed import environment
from trainer.distributed import world as distributed
from trainer.distributed.launch import Launch, report_failure
from trainer.loop import prepare
from trainer.measure import allocator
from trainer.recovery import lastwords, limits
from trainer.recovery.lastwords import LastWords
from trainer.wire import files, folder
from trainer.wire.control import Control, StopRequested
from trainer.wire.events import EventStream, log_to
from trainer.wire.failed import Failed
from trainer.wire.request import (
    Request,
    changes_since,
    choose_run_dir,
    read_choices,
    read_plan,
    require_reporter,
    resumes_in,
    run_arguments,
    write_plan,
)

log = logging.getLogger("trainer")


def main(request: Request, events: EventStream) -> int:
    """Runs the plan and returns the exit code; every failure ends as one line and one `failed` event.

    A plan for several devices starts a process on each, unless this is one of them.
    """
    run: TrainingRun | None = None
    control = Control(events)
    control.install_signals()
    lock: folder.FolderLock | None = None
    try:
        limits.prepare()
        plan = read_plan(request)
        choices = read_choices(plan, str(request.plan))
        if request.alone and plan.gpu == "cpu":
            leave_out_libraries(choices)
        environment.check(choices.num_gpus)
        allocator.configure(choices.expandable_segments)
        check_strategy(choices, plan.hyperparameters.torch_compile)
        if choices.num_gpus > 1 and environment.size() == 1:
            return launch_all(request, plan, choices, events)
        if request.control_stdin and environment.rank() == 0:
            control.listen()
        world = distributed.start(cpu=plan.gpu == "cpu" or request.device == "cpu")
        events.emit("phase", name="load", detail="libraries")
        # A device that the plan isn't for, or that isn't here, is refused before anything is written.
        device = prepare.choose_device(plan, choices, request.device)
        run_dir = Path(world.share(str(choose_run_dir(request, plan))))
        if world.main:
            resumes = resumes_in(request, run_dir)
            lock = folder.claim(run_dir, resumes=resumes, plan_file=request.plan, plan=plan)
            half_written = files.tidy(run_dir)
            log_to(run_dir)
            events.attach(run_dir)
            for name in half_written:
                events.warn(
                    "half-written folder",
                    f"{run_dir / name} was being written when the run ended; what there was is removed",
                )
            for change in changes_since(run_dir, plan) if request.resume is not None else ():
                events.warn("changed plan", change, "it holds from the checkpoint on")
            write_plan(plan, run_dir)
        world.table([0.0])  # the folder is there and nobody else's
        if not world.main:
            log_to(run_dir, f"log-rank{world.rank}.txt")
        run = TrainingRun(
            request=request,
            plan=plan,
            choices=choices,
            run_dir=run_dir,
            events=events,
            control=control,
            world=world,
            device=device,
        )
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
        if run is not None and run.world.main:
            run.observe_failure(type(error).__name__)
        if environment.launched():
            from trainer.recovery.pieces import StartAgain

            # The launcher tells it: it knows which process failed first.
            lost = distributed.is_lost_connection(error)
            report_failure(message, code, secondary=lost, again=error if isinstance(error, StartAgain) else None)
        else:
            events.emit("failed", message=message, exit_code=code)
        raise Failed(message, code) from None
    finally:
        if run is not None:
            run.last_words.end()
            run.until_its_end.close()
        control.restore_signals()
        events.close()
        if lock is not None:
            lock.release()


def leave_out_libraries(choices: TrainingChoices) -> None:
    """peft imports bitsandbytes wherever it is installed: a fifth of a start's time, and 50 MiB. On a GPU it stays,
    since what it holds there is in the planner's figures."""
    if choices.method != "qlora" and "8bit" not in choices.optimizer and "bitsandbytes" not in sys.modules:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # counts as not installed


def launch_all(request: Request, plan: Plan, choices: TrainingChoices, events: EventStream) -> int:
    """Runs the plan in a process per device; a failure is appended to the run's events."""
    run_dir = choose_run_dir(request, plan)
    folder.check(run_dir, resumes=resumes_in(request, run_dir), plan_file=request.plan, plan=plan)
    try:
        return Launch(run_arguments(request, run_dir), choices.num_gpus, run_dir, events).run()
    except RunFailed:
        if run_dir.is_dir():
            events.attach(run_dir)
        raise


def check_strategy(choices: TrainingChoices, compiles: bool) -> None:
    """Refuses by name what several devices can't run, before torch is imported."""
    if choices.num_gpus == 1:
        return
    from trainer.distributed import supported

    supported.check(choices)
    if compiles:
        raise NotModelled(
            f"torch_compile with --num-gpus {choices.num_gpus} isn't trained: the passes run outside the wrapper that "
            "would be compiled; leave it out, or plan for one device"
        )


def explain(error: BaseException, run: TrainingRun | None) -> tuple[str, int]:
    """One line and the exit code for whatever ended the run."""
    if isinstance(error, TuneplanError):
        return str(error), error.exit_code
    if distributed.is_lost_connection(error):
        what = "another process of the run ended, or the connection to it broke; its own message says why"
        return f"{what} (details in {folder_of(run) / 'log.txt'})", RunFailed.exit_code
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted before the step was finished; {kept(run)}", Interrupted.exit_code
    folder = folder_of(run)
    problem = files.disk_problem(error, folder)
    if problem is not None and not isinstance(error, ImportError):
        return f"{problem}; free some space or choose another --output, then --resume", RunFailed.exit_code
    from trainer.measure.devices import is_out_of_memory

    if is_out_of_memory(error):
        if run is not None:
            return run.report_out_of_memory(error), RunFailed.exit_code
        return "out of memory", RunFailed.exit_code
    if run is None:  # there is no log yet
        return edge.account(error)
    return f"{type(error).__name__}: {clause(error, 300)} (details in {folder / 'log.txt'})", RunFailed.exit_code


def kept(run: TrainingRun | None) -> str:
    """What a run that ends now leaves to go on from."""
    from trainer.recovery.checkpoints import last_good

    good = last_good(run.run_dir) if run is not None else None
    return f"--resume goes on from {good}" if good else "no checkpoint had been written yet"


def folder_of(run: TrainingRun | None) -> Path:
    """The run's folder, as far as there is one."""
    return run.run_dir if run is not None else Path(".")


# --------------------------------------------------------------------------------------------------------------------


class TrainingRun(Accounts):
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
        world: distributed.World,
        device: Any,
    ) -> None:
        self.world = world
        self.request = request
        self.plan = plan
        self.choices = choices
        self.run_dir = run_dir
        self.events = events
        self.control = control
        self.config: dict[str, Any] = {}
        self.task: Any = None
        self.device = device
        self.trainer: Any = None
        self.reporter: Any = None
        self.phase = "load"
        self.last_words = LastWords(run_dir, world.rank)
        self.until_its_end = contextlib.ExitStack()

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
        h, world = self.plan.hyperparameters, self.world
        self.control.check()
        import transformers

        transformers.logging.set_verbosity_warning()
        transformers.logging.enable_propagation()
        transformers.logging.disable_default_handler()
        transformers.logging.disable_progress_bar()
        from trainer.commands.generate import complete
        from trainer.loop.callbacks import Reporter
        from trainer.loop.trainer import LoopTrainer
        from trainer.measure import devices
        from trainer.measure.instants import StepMeter
        from trainer.recovery import checkpoints, room

        for name in h.report_to:
            require_reporter(name)
        if elsewhere := prepare.device_warning(self.plan, self.device):
            self.events.warn("another device", elsewhere, "peak and speed of the plan don't hold here")
        if self.device.type == "cpu":
            room.make_ready()
            # What a memory cgroup would answer with SIGKILL becomes an exception.
            self.until_its_end.enter_context(limits.fenced(world.size))
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.run_dir / "tensorboard")

        # -- data: cheap, and the likeliest thing to be wrong, so it goes first
        self.enter("data", self.plan.data.path or "")
        self.config, tokenizer, self.task = prepare.read_model(self.plan, self.choices)
        train, validation, prompt = prepare.read_data(self.plan, self.choices, self.task, tokenizer, self.events)
        identity = prepare.identity(self.plan, self.choices, train, self.task, tokenizer)
        self.task.base_weights = identity["weights"]
        checkpoint: Path | None = None
        if self.request.resume is not None:
            checkpoint, passed_over = checkpoints.find(self.run_dir, self.request.resume)
            for message in passed_over:
                self.events.warn("damaged checkpoint", message, "an older one is taken")
            checkpoints.check_identity(checkpoint, identity)
            checkpoints.check_progress(checkpoint)
            wrote = checkpoints.processes(checkpoint)
            if wrote != world.size and self.choices.lora_dropout:
                self.events.warn(
                    "other devices",
                    f"{checkpoint} was written by {wrote} process(es) and goes on in {world.size}",
                    "the data and their order are the same; dropout draws other numbers from here on",
                )

        # -- model
        self.enter("load", self.plan.model)
        meter = StepMeter(self.device)
        model = prepare.load(
            self.plan,
            self.choices,
            self.config,
            self.task,
            self.device,
            meter,
            loss_begins=lambda instant: self.loss_begins(meter, instant),
            adapter=self.request.adapter,
        )

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
            world=world,
        )
        reporter.trainer = trainer
        trainer.stop_asked, trainer.pause_asked = self.control.stop.is_set, self.control.pause.is_set
        if checkpoint is not None:
            trainer.recovery.restore(checkpoints.recovery_state(checkpoint))
            state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            state.best_model_checkpoint = checkpoints.best(self.run_dir, checkpoint, state.best_model_checkpoint)
            reporter.recall(state)
        trainer.recovery.restore(environment.rows())
        self.remember_a_crash(trainer.recovery)
        total_steps = h.max_steps or max(1, math.ceil(h.epochs * trainer.steps_per_epoch))
        parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
        self.events.emit(
            "started",
            run_dir=str(self.run_dir),
            pid=os.getpid(),
            device=str(self.device) if world.size == 1 else f"{world.size} × {self.device.type}",
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
        self.last_words.begin(trainer.recovery.rows, trainer.recovery.eval_rows)
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
        weights = trainer.whole_weights()
        measured = largest(world.objects(meter.measured()))
        if not world.main:
            return
        destination = self.keep_result(tokenizer, weights, checkpoint)
        seconds = time.perf_counter() - started
        observation, path = self.observe(measured=measured)
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
            as_predicted=self.as_predicted(),
            observation_path=str(path),
        )

    def remember_a_crash(self, recovery: Any) -> None:
        """Takes half the rows where an earlier process of this run died of them without a word."""
        # One process reads the notes for all: each removes its own soon after.
        fewer = self.world.share(lastwords.fewer(self.run_dir) if self.world.main else None)
        if fewer is None:
            return
        before = recovery.rows
        recovery.restore(fewer)
        recovery.notes.append(f"an earlier process was ended for want of memory with micro-batch {2 * fewer['rows']}")
        if self.world.main:
            self.events.warn(
                "killed for want of memory",
                f"the process that ran here before was ended by the system, with micro-batch {before}",
                f"this one passes {recovery.rows} rows at a time, of the same effective batch",
            )

    def keep_result(self, tokenizer: Any, weights: Any, resumed: Path | None) -> Path:
        """Writes the result: the best checkpoint's weights if there is one, else the last ones."""
        from trainer.loop.saving import copy_trained, save_trained
        from trainer.recovery import checkpoints

        # By its step: the path that a checkpoint notes is that of another folder once a run was moved or copied.
        places = [self.run_dir] if resumed is None else [self.run_dir, resumed.parent]
        best = checkpoints.of_step(self.trainer.state.best_global_step, *places)
        destination = self.run_dir / ("model" if self.choices.method == "full" else "adapter")
        damage = files.manifest_problem(best) if best else None
        if damage:
            self.events.warn(
                "damaged checkpoint",
                f"{best}, the best one, is damaged ({damage})",
                "the last weights become the result",
            )
        if best and not damage:
            copy_trained(best, destination)
        else:
            with files.whole_folder(destination) as folder:
                save_trained(self.trainer.model, tokenizer, folder, self.task, weights)
        return destination
