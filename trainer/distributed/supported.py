"""What several devices can train, told before torch is imported."""

from __future__ import annotations

import importlib.util

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled


def check_kernels(choices: TrainingChoices) -> None:
    """Refuses kernels of others that a plan may have, and no run here has."""
    if choices.liger:
        raise NotModelled(
            "--liger is planned for the stock Trainer and not trained here: hand the plan on with plan export --to trl "
            "(axolotl, llama-factory), or plan with --stack builtin, which has functions of its own"
        )


def check(choices: TrainingChoices) -> None:
    """Refuses by name what the strategy can't run; needs no process group."""
    c = choices
    check_kernels(c)
    if c.strategy == "zero3":
        raise NotModelled(
            "--strategy zero3 is planned for but not trained here; --strategy fsdp divides the same tensors among the "
            "devices, --strategy zero2 all but the weights"
        )
    if c.strategy == "ddp":
        return
    fsdp = c.strategy == "fsdp"
    for wrong, what in (
        (c.method == "qlora", "quantised weights"),
        (c.precision.startswith("fp16"), f"--precision {c.precision} (the loss scale isn't shared)"),
        (c.optimizer not in ("adamw", "sgd"), f"--optimizer {c.optimizer}"),
        (c.checkpoint_reentrant and c.gradient_checkpointing, "reentrant checkpointing"),
        (fsdp and c.checkpoint_offload, "--checkpoint-offload"),
        (fsdp and c.lora_variant == "dora", "DoRA"),
        (fsdp and bool(c.modules_to_save), "--modules-to-save"),
    ):
        if wrong:
            raise NotModelled(f"--strategy {c.strategy} with {what} isn't trained; use --strategy ddp")
    if not fsdp and importlib.util.find_spec("deepspeed") is None:
        raise InvalidInput("--strategy zero2 needs DeepSpeed: pip install 'tuneplan[deepspeed]'")
