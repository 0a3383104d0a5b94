"""Commands that need torch: it runs in a child process, `plan` reads what the child prints."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.contract.errors import Interrupted, InvalidInput
from planner.contract.words import shown

if TYPE_CHECKING:
    from planner.cli.asked import Training

EXTRA = "pip install 'tuneplan[train]'"


def require_train_extra(command: str) -> None:
    """Refuses in one line where torch, transformers or peft is not installed. Looks for them, imports nothing."""
    missing = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(f"plan {command} needs {', '.join(missing)}: {EXTRA}")


def run_train(plan_file: str, training: Training, extra: Sequence[str] = ()) -> int:
    """Starts the trainer on a plan file and shows it to its end; `extra` are words that go to it as they are."""
    from planner.cli.progress import Follower, kept_line, summary_lines
    from planner.handover import plans, trainer_process

    plan = plans.load(plan_file)
    if training.data is None and plan.data.path is None:
        raise InvalidInput(f"{plan_file} names no data; give it with --data")
    if training.resume and training.output is None:
        raise InvalidInput("--resume needs --output, the run folder to go on in")
    require_train_extra("train")
    run = trainer_process.start(
        plan_file,
        data=training.data,
        output=training.output,
        resume="auto" if training.resume else None,
        device=training.device,
        adapter=training.adapter,
        with_parent=True,
        extra=extra,
    )
    follower = Follower(raw=training.as_json)
    code = follower.follow(run)
    if follower.finished is not None and not training.as_json:
        for line in summary_lines(follower.finished):
            print(shown(line))
    if follower.stopped:
        sys.stdout.flush()
        raise Interrupted(kept_line(follower.started.run_dir or training.output, training.device))
    return code
