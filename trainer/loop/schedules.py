"""Learning-rate schedules as multipliers of the peak rate."""

from __future__ import annotations

import math

from planner.contract.run_settings import Hyperparameters


def warmup_steps(hyperparameters: Hyperparameters, total_steps: int) -> int:
    """Optimizer steps of linear warm-up; explicit steps take precedence over the ratio."""
    if hyperparameters.warmup_steps is not None:
        return min(hyperparameters.warmup_steps, total_steps)
    return math.ceil(hyperparameters.warmup_ratio * total_steps)


def multiplier(step: int, *, hyperparameters: Hyperparameters, total_steps: int, steps_per_epoch: int) -> float:
    """Share of the peak learning rate used by optimizer step `step` (0-based) out of `total_steps`.

    Warm-up rises linearly and reaches 1 with its last step. Afterwards, with progress p in [0, 1] and minimum ratio m:
    cosine m + (1 - m)(1 + cos(pi p)) / 2; cosine-restarts the same over each of `scheduler_cycles` equal parts of
    p; linear 1 - (1 - m) p; polynomial m + (1 - m)(1 - p)^power; constant 1;
    step max(m, gamma^floor(epochs / scheduler_step_epochs)), counted from the start of the run.
    """
    warmup = warmup_steps(hyperparameters, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    kind, minimum = hyperparameters.scheduler, hyperparameters.min_learning_rate_ratio
    if kind == "constant":
        return 1.0
    if kind == "step":
        epochs_done = step / max(steps_per_epoch, 1)
        return max(
            minimum, hyperparameters.scheduler_gamma ** math.floor(epochs_done / hyperparameters.scheduler_step_epochs)
        )
    # The last step (total_steps - 1) runs at the minimum, as the plan says.
    progress = min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))
    if kind == "linear":
        return 1 - (1 - minimum) * progress
    if kind == "polynomial":
        return minimum + (1 - minimum) * math.pow(1 - progress, hyperparameters.polynomial_power)
    if kind == "cosine-restarts" and progress < 1:
        progress = (progress * hyperparameters.scheduler_cycles) % 1.0
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * progress)) / 2
