"""What a run was asked to do, and everything that can be refused before torch is imported."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.files import write_whole
from planner.contract.records import Hyperparameters, Plan, parse_plan
from planner.contract.spec import TrainingChoices

REPORTERS = ("tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "clearml", "swanlab", "dvclive", "neptune")
"""Names that `report_to` passes on to transformers."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line asked for."""

    plan: Path
    data: str | None = None
    output: Path | None = None
    resume: str | None = None
    """None starts anew; `auto` takes the newest good checkpoint of the run folder; else a checkpoint or run folder."""
    control_stdin: bool = False
    device: str = "auto"
    adapter: str | None = None
    """An adapter in PEFT's format that the training starts from; None starts from a new one."""
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Hyperparameters given on the command line, as text; they take precedence over the plan's."""


def read_plan(request: Request) -> Plan:
    """The plan file with `--data` put in."""
    try:
        text = request.plan.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{request.plan}: not a plan file: not UTF-8 text") from None
    except OSError as error:
        raise InvalidInput(f"{request.plan}: plan file can't be read: {error.strerror or error}") from None
    plan = parse_plan(text, str(request.plan))
    if request.data is not None:
        if not request.data.strip():
            raise InvalidInput("--data is empty; name a file, or a folder of them")
        # Whole, so that the copy in the run folder finds it from anywhere.
        path = str(Path(request.data).resolve()) if Path(request.data).exists() else request.data
        plan = plan.model_copy(update={"data": plan.data.model_copy(update={"path": path})})
    if request.overrides:
        plan = _overridden(plan, request.overrides)
    h = plan.hyperparameters
    _check_hyperparameters(plan.hyperparameters, str(request.plan), request.overrides)
    if not 0 <= plan.data.validation_split < 1:
        raise InvalidInput(
            f"{request.plan}: data.validation_split must lie in [0, 1), not {plan.data.validation_split}"
        )
    for name in h.report_to:
        if name not in REPORTERS:
            raise InvalidInput(f"{request.plan}: report_to {name!r} is unknown; choose among {', '.join(REPORTERS)}")
    return plan


def _check_hyperparameters(h: Hyperparameters, where: str, given: Mapping[str, Any]) -> None:
    """Refuses values that no training could take, by the option or the plan's key that holds them."""

    def refuse(key: str, right: str) -> NoReturn:
        name = f"--{key.replace('_', '-')}" if key in given else f"{where}: hyperparameters.{key}"
        raise InvalidInput(f"{name} must be {right}, not {getattr(h, key)}")

    for key, value in h.model_dump().items():
        if isinstance(value, float) and not math.isfinite(value):
            refuse(key, "a number")
    for key, valid, right in (
        ("learning_rate", h.learning_rate > 0, "above 0"),
        ("epochs", h.epochs > 0, "above 0"),
        ("max_steps", h.max_steps is None or h.max_steps >= 1, "at least 1"),
        ("eval_steps", h.eval_steps is None or h.eval_steps >= 1, "at least 1"),
        ("save_steps", h.save_steps is None or h.save_steps >= 1, "at least 1"),
        ("save_epochs", h.save_epochs is None or h.save_epochs > 0, "above 0"),
        ("scheduler_cycles", h.scheduler_cycles >= 1, "at least 1"),
        ("logging_steps", h.logging_steps >= 1, "at least 1"),
        ("save_total_limit", h.save_total_limit >= 1, "at least 1"),
        ("warmup_ratio", 0 <= h.warmup_ratio <= 1, "between 0 and 1"),
        ("warmup_steps", h.warmup_steps is None or h.warmup_steps >= 0, "at least 0"),
        ("min_learning_rate_ratio", 0 <= h.min_learning_rate_ratio <= 1, "between 0 and 1"),
        ("scheduler_step_epochs", h.scheduler_step_epochs > 0, "above 0"),
        ("scheduler_gamma", 0 < h.scheduler_gamma <= 1, "above 0 and at most 1"),
        ("polynomial_power", h.polynomial_power > 0, "above 0"),
        ("weight_decay", h.weight_decay >= 0, "at least 0"),
        ("beta1", 0 <= h.beta1 < 1, "at least 0 and below 1"),
        ("beta2", 0 <= h.beta2 < 1, "at least 0 and below 1"),
        ("epsilon", h.epsilon > 0, "above 0"),
        ("early_stopping_patience", h.early_stopping_patience >= 0, "at least 0"),
        ("seed", 0 <= h.seed < 2**32, "between 0 and 4294967295"),
        ("dataloader_workers", h.dataloader_workers >= 0, "at least 0"),
        ("sample_max_new_tokens", h.sample_max_new_tokens >= 1, "at least 1"),
    ):
        if not valid:
            refuse(key, right)


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
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise InvalidInput(f"{flag} {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def read_choices(plan: Plan, where: str) -> TrainingChoices:
    """The plan's settings as `TrainingChoices`."""
    known = {field.name for field in dataclasses.fields(TrainingChoices)}
    for key in plan.settings:
        if key not in known:
            raise InvalidInput(f"{where}: settings.{key}: this key is unknown")
    values: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in plan.settings.items()}
    try:
        return TrainingChoices(**values)
    except TypeError as error:
        raise InvalidInput(f"{where}: settings: {error}") from None


def run_arguments(request: Request, run_dir: Path) -> list[str]:
    """The request as arguments of `python -m trainer`, with the run folder that was chosen."""
    words = ["run", str(request.plan), "--output", str(run_dir), "--device", request.device]
    for option, value in (("--data", request.data), ("--adapter", request.adapter)):
        words += [option, value] if value is not None else []
    if request.resume is not None:
        words += ["--resume", request.resume]
    if request.control_stdin:
        words += ["--control", "stdin"]
    for name, value in request.overrides.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def choose_run_dir(request: Request, plan: Plan) -> Path:
    """`--output`, else the folder that is resumed, else `runs/<time>-<model>`."""
    if request.output is not None:
        return request.output.expanduser().resolve()
    if request.resume is not None:
        if request.resume == "auto":
            raise InvalidInput("--resume needs the run's folder: add --output DIR, or name a checkpoint")
        path = Path(request.resume).expanduser().resolve()
        return path.parent if path.name.startswith("checkpoint-") else path
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plan.model.rstrip("/").rsplit("/", 1)[-1]).strip("-") or "model"
    return (Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}").resolve()


def refuse_overwriting(request: Request, run_dir: Path) -> None:
    """A folder that already holds a run is only touched by a resume."""
    if request.resume is None and any(
        next(run_dir.glob(pattern), None) is not None for pattern in ("checkpoint-*", "adapter", "model")
    ):
        raise InvalidInput(f"{run_dir} already holds a run: go on with --resume, or choose another --output")


def changes_since(run_dir: Path, plan: Plan) -> list[str]:
    """What the plan says otherwise than when the run in this folder was last started."""
    try:
        old = parse_plan((run_dir / "plan.yaml").read_text(encoding="utf-8"), "plan.yaml")
    except (OSError, ValueError, InvalidInput):
        return []
    was = {**old.settings, **old.hyperparameters.model_dump(mode="json")}
    now = {**plan.settings, **plan.hyperparameters.model_dump(mode="json")}
    return [f"{name} was {was[name]} and is {now[name]} now" for name in now if name in was and was[name] != now[name]]


def write_plan(plan: Plan, run_dir: Path) -> None:
    """The plan as it is run, beside its results."""
    import yaml

    text = yaml.safe_dump(plan.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
    write_whole(run_dir / "plan.yaml", text.encode())


def require_reporter(name: str) -> None:
    """A tracker that isn't installed is named before anything is loaded."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise NotModelled(f"report_to {name!r}: the package isn't installed; pip install {name}, or leave it out")
