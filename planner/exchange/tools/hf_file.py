"""A plan in transformers' `TrainingArguments`, for the tools that take them; the keys are those of `hf`."""

from __future__ import annotations

from planner.contract.choices import TrainingChoices
from planner.contract.run_settings import Hyperparameters
from planner.exchange.tools.hf import WRITTEN_OPTIMIZERS


def written_schedule(h: Hyperparameters) -> tuple[str, dict[str, object] | None, list[str]]:
    """`lr_scheduler_type`, its keywords, and what they can't say."""
    ratio = h.min_learning_rate_ratio
    said: list[str] = []
    if h.scheduler == "cosine":
        return ("cosine_with_min_lr", {"min_lr_rate": ratio}, said) if ratio else ("cosine", None, said)
    if h.scheduler == "cosine-restarts":
        if ratio:
            said.append(f"min_learning_rate_ratio {ratio:g}: this schedule falls to 0")
        return "cosine_with_restarts", {"num_cycles": h.scheduler_cycles}, said
    if h.scheduler == "linear" and ratio:
        return "polynomial", {"power": 1.0, "lr_end": ratio * h.learning_rate}, said
    if h.scheduler == "linear":
        return "linear", None, said
    if h.scheduler == "polynomial":
        return "polynomial", {"power": h.polynomial_power, "lr_end": ratio * h.learning_rate}, said
    if h.scheduler == "step":
        said.append(
            f"scheduler step (x {h.scheduler_gamma:g} every {h.scheduler_step_epochs:g} epochs): not there; constant"
        )
    return "constant_with_warmup", None, said


def written_arguments(choices: TrainingChoices, h: Hyperparameters) -> tuple[dict[str, object], list[str]]:
    """The plan in transformers' `TrainingArguments`, and what they can't say."""
    kind, further, said = written_schedule(h)
    way = choices.optimizer_implementation
    optim = WRITTEN_OPTIMIZERS.get((choices.optimizer, way))
    if optim is None:
        optim = WRITTEN_OPTIMIZERS[choices.optimizer, "foreach"]
        said.append(f"optimizer_implementation {way}: foreach there")
    found: dict[str, object] = {
        "per_device_train_batch_size": choices.batch_size,
        "per_device_eval_batch_size": choices.eval_batch_size or choices.batch_size,
        "gradient_accumulation_steps": choices.gradient_accumulation_steps,
        "gradient_checkpointing": choices.gradient_checkpointing,
        "optim": optim,
        "learning_rate": h.learning_rate,
        "lr_scheduler_type": kind,
        "num_train_epochs": h.epochs,
        "weight_decay": h.weight_decay,
        "adam_beta1": h.beta1,
        "adam_beta2": h.beta2,
        "adam_epsilon": h.epsilon,
        "max_grad_norm": choices.max_grad_norm,
        "seed": h.seed,
        "logging_steps": h.logging_steps,
    }
    if choices.gradient_checkpointing:
        found["gradient_checkpointing_kwargs"] = {"use_reentrant": choices.checkpoint_reentrant}
    if further is not None:
        found["lr_scheduler_kwargs"] = further
    if h.max_steps is not None:
        found["max_steps"] = h.max_steps
    if h.warmup_steps is not None:
        found["warmup_steps"] = h.warmup_steps
    elif h.warmup_ratio:
        found["warmup_ratio"] = h.warmup_ratio
    return found, said
