"""What a run was asked to do, and everything that can be refused before torch is imported."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
import re
from pathlib import Path
from typing import Any

from planner.contract import complaints, records, yaml_text
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.files import read_plain, write_whole
from planner.contract.records import Plan
from planner.contract.run_folder import PLAN
from planner.contract.run_settings import Hyperparameters
from planner.contract.settings import to_settings
from planner.contract.shown import clause
from trainer.wire.folder import earlier_plan


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line asked for."""

    plan: Path
    data: str | None = None
    output: Path | None = None
    resume: str | None = None
    """None starts anew; `auto` takes the newest good checkpoint of the run folder; else a checkpoint or run folder."""
    control_stdin: bool = False
    with_parent: bool = False
    """Stop when stdin ends, as it does with the process that holds its other end, unless that said `alone` before."""
    device: str = "auto"
    skip_invalid: bool = False
    """Leave invalid examples out, whatever the plan says."""
    adapter: str | None = None
    """An adapter in PEFT's format that the training starts from; None starts from a new one."""
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Hyperparameters given on the command line, as text; they take precedence over the plan's."""
    alone: bool = False
    """Whether the process does nothing else than this run, so that libraries it doesn't need can be left out."""


def read_plan(request: Request) -> Plan:
    """The plan file with `--data` put in."""
    plan = records.read_plan(request.plan)
    if request.data is not None:
        if not request.data.strip():
            raise InvalidInput("--data is empty; name a file, or a folder of them")
        # Whole, so that the copy in the run folder finds it from anywhere.
        path = str(Path(request.data).resolve()) if Path(request.data).exists() else request.data
        plan = plan.model_copy(update={"data": plan.data.model_copy(update={"path": path})})
    if request.skip_invalid:
        plan = plan.model_copy(update={"data": plan.data.model_copy(update={"skip_invalid": True})})
    if request.overrides:
        plan = _overridden(plan, request.overrides)
    return plan


def _overridden(plan: Plan, given: dict[str, Any]) -> Plan:
    """The plan with the hyperparameters of the command line; a wrong value is named by its option."""
    from pydantic import ValidationError

    values = plan.hyperparameters.model_dump()
    for key, value in given.items():
        if isinstance(values[key], (tuple, list)):
            value = tuple(part.strip() for part in value.split(",") if part.strip() and part.strip() != "none")
        values[key] = None if value == "none" else value
    try:
        return plan.model_copy(update={"hyperparameters": Hyperparameters.model_validate(values)})
    except ValidationError as error:
        flag = "--" + complaints.name(complaints.path(error)[:1]).replace("_", "-")
        raise InvalidInput(f"{flag}{complaints.problem(error)}") from None


def run_arguments(request: Request, run_dir: Path) -> list[str]:
    """The request as arguments of `python -m trainer`, with the run folder that was chosen."""
    words = ["run", str(request.plan), "--output", str(run_dir), "--device", request.device]
    for option, value in (("--data", request.data), ("--adapter", request.adapter)):
        words += [option, value] if value is not None else []
    words += ["--skip-invalid"] if request.skip_invalid else []
    if request.resume is not None:
        words += ["--resume", request.resume]
    if request.control_stdin:
        words += ["--control", "stdin", *(["--with-parent"] if request.with_parent else [])]
    for name, value in request.overrides.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def choose_run_dir(request: Request, plan: Plan) -> Path:
    """`--output`, else the folder that is resumed, else `runs/<time>-<model>`."""
    if request.output is not None:
        return _whole(request.output, "--output")
    if request.resume is not None:
        if request.resume == "auto":
            raise InvalidInput("--resume needs the run's folder: add --output DIR, or name a checkpoint")
        path = _whole(Path(request.resume), "--resume")
        return path.parent if path.name.startswith("checkpoint-") else path
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plan.model.rstrip("/").rsplit("/", 1)[-1]).strip("-")[:80] or "model"
    return (Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}").resolve()


def _whole(path: Path, option: str) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, an unknown user after ~
        raise InvalidInput(f"{option} {path} is no path: {clause(error)}") from None


def resumes_in(request: Request, run_dir: Path) -> bool:
    """Whether the run goes on in its own folder; one that begins from another run's checkpoint is a new one there."""
    if request.resume is None or request.resume == "auto":
        return request.resume is not None
    named = _whole(Path(request.resume), "--resume")
    return run_dir in (named, named.parent)


def changes_since(run_dir: Path, plan: Plan) -> list[str]:
    """What the plan says otherwise than when the run in this folder was last started."""
    old = earlier_plan(run_dir)
    if old is None:
        return []
    was = {**to_settings(old.settings), **old.hyperparameters.model_dump(mode="json")}
    now = {**to_settings(plan.settings), **plan.hyperparameters.model_dump(mode="json")}
    return [f"{name} was {was[name]} and is {now[name]} now" for name in now if name in was and was[name] != now[name]]


def replan(plan: Plan, hyperparameters: Hyperparameters) -> Plan:
    """The plan with what was changed within the run, and without what is no longer true of it."""
    return plan.model_copy(update={"hyperparameters": hyperparameters})


def write_plan(plan: Plan, run_dir: Path) -> None:
    """The plan as it is run, beside its results.

    A file that says the same stays as its writer left it, comments and all; another one is kept as `plan-1.yaml`.
    """
    path = run_dir / PLAN
    if os.path.lexists(path):
        if earlier_plan(run_dir) == plan:
            return
        numbered = (run_dir / f"plan-{number}.yaml" for number in itertools.count(1))
        write_whole(next(name for name in numbered if not os.path.lexists(name)), read_plain(path))
    write_whole(path, yaml_text.dumps(plan.model_dump(mode="json", by_alias=True)).encode())


def require_reporter(name: str) -> None:
    """A tracker that isn't installed is named before anything is loaded."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise NotModelled(f"report_to {name!r}: the package isn't installed; pip install {name}, or leave it out")
