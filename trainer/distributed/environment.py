"""What a process knows about the others from its environment, before torch is imported."""

from __future__ import annotations

import os

from planner.contract.errors import InvalidInput

LAUNCHER = "TUNEPLAN_LAUNCHER"
"""Process id of the launcher of this package that started this process."""
FAILURES = "TUNEPLAN_FAILURES"
"""Folder in which a process that fails leaves why, for the launcher."""
ROWS = "TUNEPLAN_ROWS"
"""`rows,eval_rows` after an overflow: what passes through the model at once from the start."""


def size() -> int:
    """Processes of this run, as torchrun, `accelerate launch` and our launcher tell; 1 where nobody tells."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def launched() -> bool:
    """Whether our launcher started this process and speaks for it."""
    return size() > 1 and LAUNCHER in os.environ


def launcher() -> int | None:
    """Process id of our launcher where there is one."""
    return int(os.environ[LAUNCHER]) if launched() else None


def check(num_gpus: int) -> None:
    """Refuses a number of processes that isn't the plan's, and settings of a launcher in place of the plan's."""
    for name in ("DEEPSPEED", "FSDP"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise InvalidInput(
                f"accelerate launch was given settings of its own (ACCELERATE_USE_{name}); the plan's --strategy holds "
                "them, so leave them out"
            )
    if size() > 1 and size() != num_gpus:
        raise InvalidInput(
            f"{size()} processes were started, but the plan is for --num-gpus {num_gpus}; start that many, or plan anew"
        )


def rows() -> dict[str, int]:
    """What passes through the model at once, where an earlier start of this run found the plan's rows too many."""
    given = os.environ.get(ROWS, "")
    return dict(zip(("rows", "eval_rows"), (int(part) for part in given.split(",") if part), strict=False))
