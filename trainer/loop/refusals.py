"""A loss or a gradient that is no number ends the run while the weights are still good."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NoReturn

import torch

from planner.contract.errors import InvalidInput, RunFailed
from trainer.recovery import checkpoints


def no_number(model: torch.nn.Module, run_dir: Path, steps: int, loss: float, norm: float) -> NoReturn:
    """Raises the one line for it, after so many updates.

    Where no update was made yet, the weights may have come without numbers in them: then they are named.
    """
    if steps == 0:
        refuse_broken_weights(model)
    what, shown = ("loss", loss) if not math.isfinite(loss) else ("gradient norm", norm)
    good = checkpoints.last_good(run_dir)
    kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"
    raise RunFailed(
        f"step {steps + 1}: the {what} became {shown}; {kept}. "
        "Lower the learning rate or lengthen the warm-up, and look for damaged examples"
    )


def refuse_broken_weights(model: torch.nn.Module) -> None:
    """Raises InvalidInput where a parameter holds values that aren't numbers."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter.detach()).all()):
            where = getattr(model.config, "_name_or_path", "") or "the model"
            raise InvalidInput(
                f"{where}: {name} holds values that aren't numbers; these weights can't be trained: fetch or "
                "convert them again"
            )
