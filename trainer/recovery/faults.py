"""Failures on demand, so that recovery is tested in the code that ships and not in a patched copy of it.

`TUNEPLAN_FAULTS="forward@3,backward@4*2,optimizer@5,eval@8,nan@9"` makes memory run out at the named place of the named
optimizer steps (`*2`: twice in a row), or a loss no number; `1:forward@3` only in the process of rank 1. Without the
variable nothing is armed and nothing is asked.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import torch

from planner.contract.errors import InvalidInput
from trainer.distributed.environment import ROWS

PLACES = ("forward", "loss", "backward", "optimizer", "eval", "nan")
VARIABLE = "TUNEPLAN_FAULTS"


class Faults:
    """What is armed: (place, step) -> how many times it still strikes."""

    def __init__(self, text: str = "", rank: int = 0) -> None:
        self.armed: dict[tuple[str, int], int] = {}
        for part in filter(None, re.split(r"[,\s]+", text)):
            found = re.fullmatch(r"(?:(\d+):)?(\w+)@(\d+)(?:\*(\d+))?", part)
            if found is None or found[2] not in PLACES:
                raise InvalidInput(f"{VARIABLE}: {part!r} isn't PLACE@STEP or PLACE@STEP*TIMES ({', '.join(PLACES)})")
            if found[1] is None or int(found[1]) == rank:
                self.armed[found[2], int(found[3])] = int(found[4] or 1)

    @classmethod
    def from_environment(cls, rank: int = 0) -> Faults:
        """What the environment variable asks of the process of this rank; nothing where it isn't set."""
        again = ROWS in os.environ  # started again after an overflow, which mustn't strike the same way twice
        return cls("" if again else os.environ.get(VARIABLE, ""), rank)

    def take(self, place: str, step: int) -> bool:
        """Whether the place fails now; counts the failure."""
        left = self.armed.get((place, step), 0) if self.armed else 0
        if left:
            self.armed[place, step] = left - 1
        return bool(left)

    def strike(self, place: str, step: int) -> None:
        """Raises out-of-memory where that is armed."""
        if self.armed and self.take(place, step):
            raise torch.OutOfMemoryError(f"out of memory on demand in {place} of step {step}")

    @contextlib.contextmanager
    def within_backward(self, parameters: list[Any], step: int) -> Iterator[None]:
        """Strikes in the middle of backward: when some gradients have been added to and others haven't."""
        if not self.armed or not self.armed.get(("backward", step), 0) or not parameters:
            yield
            return
        middle = parameters[len(parameters) // 2]
        handle = middle.register_post_accumulate_grad_hook(lambda _: self.strike("backward", step))
        try:
            yield
        finally:
            handle.remove()
