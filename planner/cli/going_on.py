"""`plan … --train`: from the question to the run in one command."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.asked import Training
from planner.cli.children import require_train_extra, run_train
from planner.cli.talk import say
from planner.contract.errors import InvalidInput
from planner.contract.run_folder import PLAN
from planner.decide import given_up

if TYPE_CHECKING:
    from planner.decide.given_up import Changed

EXIT_DOES_NOT_FIT = 3


def require(data: str | None, *, as_json: bool) -> None:
    """Refuses what can't be trained before anything is computed."""
    if data is None:
        raise InvalidInput("--train needs something to learn from: add --data FILE")
    if as_json:
        raise InvalidInput("--train and --json are two answers on one stdout; use --save FILE, then plan train FILE")
    require_train_extra("… --train")


def plan_file(model: str, now: datetime | None = None) -> str:
    """Where the plan of a run that begins now is written: into its folder, `runs/<time>-<model>`."""
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-")[:80] or "model"
    return str(Path("runs") / f"{now or datetime.now():%Y%m%d-%H%M%S}-{short}" / PLAN)


def run(plan: str, changed: Sequence[Changed]) -> int:
    """Trains the plan; one that had to be changed against what was named is not begun unasked."""
    named = [change for change in changed if change.named]
    if named:
        say(f"not started, since it differs from what was asked: {' '.join(given_up.notes(named))}")
        say(f"plan train {plan} trains it all the same")
        return EXIT_DOES_NOT_FIT
    sys.stdout.flush()
    folder = str(Path(plan).parent) if Path(plan).name == PLAN and Path(plan).parent.parent.name == "runs" else None
    return run_train(plan, Training(output=folder))
