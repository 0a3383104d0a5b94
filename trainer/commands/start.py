"""Before a run: what was asked is read and checked, and its folder claimed. No torch yet."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planner.contract import allocator_conf
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.records import Plan
from trainer.distributed import environment
from trainer.distributed.world import World
from trainer.measure import allocator
from trainer.recovery import limits
from trainer.wire import files, folder
from trainer.wire.control import Control
from trainer.wire.events import EventStream, log_to
from trainer.wire.request import (
    Request,
    changes_since,
    choose_run_dir,
    read_plan,
    resumes_in,
    write_plan,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a run begins with."""

    request: Request
    plan: Plan
    choices: TrainingChoices
    run_dir: Path
    events: EventStream
    control: Control
    world: World
    device: torch.device


def read(request: Request) -> tuple[Plan, TrainingChoices]:
    """Plan and choices, checked as far as that needs no torch; the process is set up for them."""
    limits.prepare()
    plan = read_plan(request)
    choices = plan.settings
    if request.alone and plan.gpu == "cpu":
        leave_out_libraries(choices)
    environment.check(choices.num_gpus)
    allocator_conf.configure(choices, os.environ)
    allocator.stay_within_working_set()
    check_strategy(choices, plan.hyperparameters.torch_compile)
    return plan, choices


def leave_out_libraries(choices: TrainingChoices) -> None:
    """peft imports bitsandbytes wherever it is installed: a fifth of a start's time, and 50 MiB. On a GPU it stays,
    since what it holds there is in the planner's figures."""
    if choices.method != "qlora" and "8bit" not in choices.optimizer and "bitsandbytes" not in sys.modules:
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # counts as not installed


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


def claim(request: Request, plan: Plan, world: World, events: EventStream, ending: contextlib.ExitStack) -> Path:
    """The run's folder, which is this run's alone until `ending` is closed; events and log are written there."""
    run_dir = Path(world.share(str(choose_run_dir(request, plan))))
    if world.main:
        resumes = resumes_in(request, run_dir)
        lock = folder.claim(run_dir, resumes=resumes, plan_file=request.plan, plan=plan)
        ending.callback(lock.release)
        ending.callback(events.close)  # before the folder may be another run's
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
    return run_dir
