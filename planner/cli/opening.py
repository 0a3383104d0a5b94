"""`plan ui` and `plan … --ui`: the wizard, with what the options say chosen already."""

from __future__ import annotations

import sys
from pathlib import Path

from planner.cli.asked import Aim, Source, Target, TimeLimit
from planner.cli.resolve import parse_columns
from planner.contract.errors import InvalidInput
from planner.contract.settings import parse_duration, parse_size


def run(target: Target, source: Source, aim: Aim, limit: TimeLimit, plan: str | None = None) -> int:
    """Opens the wizard; `plan`: a plan file to open it with. Returns its exit code."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("plan ui needs a terminal; plan --gpu … prints the same answer without one")
    from planner.tui import app as wizard

    seconds = None if limit.time is None else parse_duration(limit.time, option="--time")
    settings = {name: value for name, value in target.settings.items() if value is not None}
    reading = {
        "format": source.format,
        "columns": parse_columns(source.columns),
        "skip_invalid": source.skip_invalid,
        "validation_split": source.validation_split,
    }
    given: dict[str, object] = {
        "gpu": target.gpu,
        "model": target.model,
        "data": source.data,
        "settings": settings,
        "reserve_bytes": None if target.reserve is None else parse_size(target.reserve, option="--reserve"),
        "effective_batch_size": aim.effective_batch_size,
        "reading": {name: value for name, value in reading.items() if value not in (None, "auto", {}, False)},
        "aim": {"goal": aim.goal, "tier": aim.tier, "scenario": aim.scenario, "seconds": seconds},
    }
    if plan is not None and Path(plan).is_dir():
        return _attached(Path(plan), [name for name, value in given.items() if value and name != "aim"])
    if plan is not None:
        if settings or target.model or aim.effective_batch_size:
            raise InvalidInput(f"{plan} says what is trained; beside it only --gpu and --data have a meaning")
        from planner.contract.records import Plan
        from planner.tui.importing import source_of

        said = source_of(plan)
        given["plan" if isinstance(said, Plan) else "foreign"] = said
    return int(wizard.run({name: value for name, value in given.items() if value}) or 0)


def _attached(folder: Path, beside: list[str]) -> int:
    """Shows a run by its folder alone: one that goes on is followed, one that is over shows its end."""
    from planner.tui import app as wizard
    from planner.tui import history

    if beside:
        raise InvalidInput(f"{folder} is a run, which has its plan; leave {', '.join(beside)} out")
    return int(wizard.run({"attach": history.at(folder), "output": folder.parent}) or 0)
