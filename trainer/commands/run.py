"""One training run from a plan file: data, model, loop, adapter, observation. Reads top to bottom."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.choices import TrainingChoices
from planner.contract.errors import RunFailed
from planner.contract.events import FinishedEvent, PhaseEvent, StartedEvent, stopped_at_once
from planner.contract.records import Plan
from trainer.commands import ending, start
from trainer.commands.accounts import Accounts, largest
from trainer.commands.start import Start
from trainer.distributed import environment
from trainer.distributed import world as distributed
from trainer.distributed.launch import Launch
from trainer.loop import prepare
from trainer.recovery import lastwords, limits
from trainer.wire import files, folder
from trainer.wire.control import Control, StopRequested
from trainer.wire.events import EventStream, quiet_transformers
from trainer.wire.request import (
    Request,
    choose_run_dir,
    replan,
    require_reporter,
    resumes_in,
    run_arguments,
    write_plan,
)

if TYPE_CHECKING:
    import torch
    from transformers import TrainerState

    from trainer.loop.inputs import Material
    from trainer.loop.trainer import LoopTrainer
    from trainer.measure.instants import StepMeter
    from trainer.recovery.pieces import Recovery


def main(request: Request, events: EventStream) -> int:
    """Runs the plan and returns the exit code; every failure ends as one line and one `failed` event.

    A plan for several devices starts a process on each, unless this is one of them.
    """
    accounts: Accounts | None = None
    control = Control(events)
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(events.close)
        at_the_end.callback(control.restore_signals)
        at_the_end.callback(control.close)
        at_the_end.callback(gc.enable)
        gc.disable()  # libraries and data all stay: looking for cycles among them is an eighth of the start
        try:
            control.install_signals()
            plan, choices = start.read(request)
            if choices.num_gpus > 1 and environment.size() == 1:
                return launch_all(request, plan, choices, events)
            if request.control_stdin and environment.rank() == 0:
                control.listen(with_parent=request.with_parent)
            world = distributed.start(cpu=plan.gpu == "cpu" or request.device == "cpu")
            events.emit(PhaseEvent(name="load", detail="libraries"))
            # A device that the plan isn't for, or that isn't here, is refused before anything is written.
            device = prepare.choose_device(plan, choices, request.device)
            run_dir = start.claim(request, plan, world, events, at_the_end)
            if world.main:
                control.follow(run_dir)
            accounts = Accounts(
                Start(
                    request=request,
                    plan=plan,
                    choices=choices,
                    run_dir=run_dir,
                    events=events,
                    control=control,
                    world=world,
                    device=device,
                )
            )
            at_the_end.callback(accounts.until_its_end.close)
            at_the_end.callback(accounts.last_words.end)
            execute(accounts)
            return 0
        except StopRequested:
            events.emit(stopped_at_once())
            return 0
        except BaseException as error:
            raise ending.failed(error, accounts, events) from None


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


# ---- the stages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """Everything is there: the steps may begin."""

    model: Any
    loop: LoopTrainer
    meter: StepMeter
    resumed: Path | None
    """Checkpoint that the run goes on from."""
    state: TrainerState | None
    """Where that stood."""
    total_steps: int


def execute(accounts: Accounts) -> None:
    """The whole run."""
    began = time.perf_counter()
    make_ready(accounts)
    # Data are cheap, and the likeliest thing to be wrong, so they go before the model.
    material = read_material(accounts)
    resumed = find_checkpoint(accounts.start, material)
    built = build(accounts, material, resumed)
    tell_started(accounts, built)
    train(accounts, built)
    finish(accounts, built, material, began)


def make_ready(accounts: Accounts) -> None:
    """Libraries and device, as far as the run needs them otherwise than they come."""
    begun = accounts.start
    begun.control.check()
    import transformers

    quiet_transformers(logging.WARNING)
    transformers.logging.enable_propagation()
    transformers.logging.disable_default_handler()
    from trainer.loop.arguments import data_workers
    from trainer.recovery import room

    for name in begun.plan.hyperparameters.report_to:
        require_reporter(name)
    if elsewhere := prepare.device_warning(begun.plan, begun.device):
        begun.events.warn("another device", elsewhere, "peak and speed of the plan don't hold here")
    asked, workers = begun.plan.hyperparameters.dataloader_workers, data_workers(begun.plan.hyperparameters)
    if workers < asked:
        begun.events.warn(
            "data workers",
            f"{asked} data workers were asked for; {workers} start, one for each processor",
            "more would wait for each other",
        )
    if begun.device.type == "cpu":
        room.make_ready()
        # What a memory cgroup would answer with SIGKILL becomes an exception.
        accounts.until_its_end.enter_context(limits.fenced(begun.world.size))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(begun.run_dir / "tensorboard")


def read_material(accounts: Accounts) -> Material:
    """The data as sequences, the tokenizer and the task."""
    plan, choices = accounts.start.plan, accounts.start.choices
    accounts.enter("data", plan.data.path or "")
    material = prepare.read_material(plan, choices, accounts.start.events)
    accounts.config = material.config
    identity = prepare.identity(plan, choices, material)
    material.task.base_weights = identity["weights"]
    return replace(material, identity=identity)


def find_checkpoint(begun: Start, material: Material) -> Path | None:
    """The checkpoint that is asked for, or an older one where that is damaged; None for a new run."""
    from trainer.recovery import checkpoints

    if begun.request.resume is None:
        return None
    found, passed_over = checkpoints.find(begun.run_dir, begun.request.resume)
    for message in passed_over:
        begun.events.warn("damaged checkpoint", message, "an older one is taken")
    checkpoints.check_identity(found, material.identity)
    checkpoints.check_progress(found)
    wrote = checkpoints.processes(found)
    if wrote != begun.world.size and begun.choices.lora_dropout:
        begun.events.warn(
            "other devices",
            f"{found} was written by {wrote} process(es) and goes on in {begun.world.size}",
            "the data and their order are the same; dropout draws other numbers from here on",
        )
    return found


def build(accounts: Accounts, material: Material, resumed: Path | None) -> Built:
    """Model and loop, as far as a checkpoint or an earlier process had come."""
    import transformers

    from trainer.commands.generate import complete
    from trainer.loop.callbacks import Reporter
    from trainer.loop.inputs import Job, Listeners
    from trainer.loop.trainer import LoopTrainer
    from trainer.measure.instants import StepMeter
    from trainer.recovery import checkpoints

    gc.enable()
    gc.freeze()  # what is there by now is walked no more, neither in training nor after a shortage
    begun, h = accounts.start, accounts.start.plan.hyperparameters
    device = begun.device
    accounts.enter("load", begun.plan.model)
    meter = StepMeter(device)
    model = prepare.load(
        begun.plan,
        begun.choices,
        material,
        meter,
        loss_begins=lambda instant: accounts.loss_begins(meter, instant),
        adapter=begun.request.adapter,
    )

    def sample() -> str | None:
        if material.asked is None:
            return None
        return complete(model, material.tokenizer, material.asked.rendered, max_new_tokens=h.sample_max_new_tokens)

    reporter = accounts.reporter = Reporter(begun.events, begun.control, device, h)
    loop = accounts.loop = LoopTrainer(
        model,
        Job(run_dir=begun.run_dir, choices=begun.choices, hyperparameters=h, device=device, world=begun.world),
        material,
        meter,
        listeners=Listeners(
            announce=accounts.announce,
            out_of_memory=accounts.out_of_memory,
            stop_asked=begun.control.stop.is_set,
            pause_asked=begun.control.pause.is_set,
            wanted=begun.control.wanted,
            waits=reporter.waits,
            sample=sample if material.validation is not None else None,
        ),
        callbacks=[reporter],
    )
    reporter.trainer, reporter.asked = loop, material.asked
    state: TrainerState | None = None
    if resumed is not None:
        loop.recovery.restore(checkpoints.recovery_state(resumed))
        state = transformers.TrainerState.load_from_json(str(resumed / "trainer_state.json"))
        state.best_model_checkpoint = checkpoints.best(begun.run_dir, resumed, state.best_model_checkpoint)
        reporter.recall(state)
    loop.recovery.restore(environment.rows())
    remember_a_crash(begun, loop.recovery)
    total_steps = h.max_steps or max(1, math.ceil(h.epochs * loop.steps_per_epoch))
    return Built(model=model, loop=loop, meter=meter, resumed=resumed, state=state, total_steps=total_steps)


def remember_a_crash(begun: Start, recovery: Recovery) -> None:
    """Takes half the rows where an earlier process of this run died of them without a word."""
    # One process reads the notes for all: each removes its own soon after.
    fewer = begun.world.share(lastwords.fewer(begun.run_dir) if begun.world.main else None)
    if fewer is None:
        return
    before = recovery.rows
    recovery.restore(fewer)
    recovery.notes.append(f"an earlier process was ended for want of memory with micro-batch {2 * fewer['rows']}")
    if begun.world.main:
        begun.events.warn(
            "killed for want of memory",
            f"the process that ran here before was ended by the system, with micro-batch {before}",
            f"this one passes {recovery.rows} rows at a time, of the same effective batch",
        )


def tell_started(accounts: Accounts, built: Built) -> None:
    """The `started` event."""
    from trainer.measure import devices

    begun, device = accounts.start, accounts.start.device
    parameters = [(p.numel(), p.requires_grad) for p in built.model.parameters()]
    told = StartedEvent(
        run_dir=str(begun.run_dir),
        pid=os.getpid(),
        device=str(device) if begun.world.size == 1 else f"{begun.world.size} × {device.type}",
        total_steps=built.total_steps,
        epochs=begun.plan.hyperparameters.epochs,
        trainable_parameters=sum(count for count, trained in parameters if trained),
        parameters=sum(count for count, _ in parameters),
        versions=devices.versions(),
        predicted=begun.plan.predicted.model_dump(mode="json") if begun.plan.predicted else None,
        resumed_from=str(built.resumed) if built.resumed else None,
    )
    begun.events.emit(told)


def train(accounts: Accounts, built: Built) -> None:
    """The steps that are left."""
    from trainer.measure import sensors

    loop, resumed, begun = built.loop, built.resumed, accounts.start
    if accounts.reporter is not None and begun.world.main:
        accounts.reporter.sensors = sensors.of(begun.device, begun.world.size)
        accounts.until_its_end.callback(accounts.reporter.sensors.close)
        accounts.reporter.replan = lambda new: write_plan(replan(begun.plan, new), begun.run_dir)
    accounts.enter("train", f"{built.total_steps} steps")
    accounts.start.control.stepping = True
    loop.args.eval_on_start = loop.validates and resumed is None
    accounts.last_words.begin(loop.recovery.rows, loop.recovery.eval_rows)
    if resumed is not None and built.state is not None and built.state.global_step >= built.total_steps:
        # Only the results were missing; transformers would make one more step before it looks at the count.
        loop.state = built.state
        loop._load_from_checkpoint(str(resumed), built.model)
    else:
        loop.train(resume_from_checkpoint=str(resumed) if resumed else None)
    built.meter.close()


def finish(accounts: Accounts, built: Built, material: Material, began: float) -> None:
    """Result and observation: the best weights where there was a validation set, else the last."""
    begun, loop, reporter = accounts.start, built.loop, accounts.reporter
    assert reporter is not None
    accounts.announce("finish")
    weights = loop.whole_weights()
    measured = largest(begun.world.objects(built.meter.measured()))
    if not begun.world.main:
        return
    destination = keep_result(begun, built, material, weights)
    seconds = time.perf_counter() - began
    observation, path = accounts.observe(measured=measured)
    predicted = begun.plan.predicted
    told = FinishedEvent(
        reason=reporter.reason,
        adapter_path=str(destination),
        steps=loop.state.global_step,
        seconds=seconds,
        eval_loss=reporter.eval_loss,
        eval_loss_before=reporter.eval_loss_before,
        predicted_bytes=predicted.allocated_peak_bytes if predicted is not None else None,
        measured_bytes=observation.allocated_peak_bytes,
        planned_length=begun.choices.max_length,
        longest_length=loop.heaviest.padded[1],
        as_predicted=accounts.as_predicted(),
        observation_path=str(path),
    )
    energy = None if reporter.sensors is None else reporter.sensors.watt_hours()
    begun.events.emit(told if energy is None else told.model_copy(update={"device_watt_hours": energy}))


def keep_result(begun: Start, built: Built, material: Material, weights: dict[str, torch.Tensor] | None) -> Path:
    """Writes the result: the best checkpoint's weights if there is one, else the last ones."""
    from trainer.loop.saving import copy_trained, save_trained
    from trainer.recovery import checkpoints

    loop, run_dir = built.loop, begun.run_dir
    # By its step: the path that a checkpoint notes is that of another folder once a run was moved or copied.
    places = [run_dir] if built.resumed is None else [run_dir, built.resumed.parent]
    best = checkpoints.of_step(loop.state.best_global_step, *places)
    destination = run_dir / ("model" if begun.choices.method == "full" else "adapter")
    damage = files.manifest_problem(best) if best else None
    if damage:
        begun.events.warn(
            "damaged checkpoint",
            f"{best}, the best one, is damaged ({damage})",
            "the last weights become the result",
        )
    if best and not damage:
        copy_trained(best, destination)
    else:
        with files.whole_folder(destination) as target:
            save_trained(loop.model, material.tokenizer, target, material.task, weights)
    return destination
