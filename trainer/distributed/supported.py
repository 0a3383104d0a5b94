"""What several devices can train, told before torch is imported."""

from __future__ import annotations

from planner.errors import NotModelled
from planner.spec import TrainingChoices


def check(choices: TrainingChoices) -> None:
    """Refuses by name what the strategy can't run; needs no process group."""
    c = choices
    if c.strategy in ("zero2", "zero3"):
        raise NotModelled(
            f"--strategy {c.strategy} is planned for but not trained here: DeepSpeed owns the optimizer step and the "
            "gradients, so an overflow couldn't be undone. --strategy fsdp divides the same tensors among the devices"
        )
    if c.strategy != "fsdp":
        return
    for wrong, what in (
        (c.method == "qlora", "4-bit weights"),
        (c.precision.startswith("fp16"), f"--precision {c.precision} (the loss scale isn't shared)"),
        (c.optimizer not in ("adamw", "sgd"), f"--optimizer {c.optimizer}"),
        (c.checkpoint_reentrant and c.gradient_checkpointing, "reentrant checkpointing"),
        (c.checkpoint_offload, "--checkpoint-offload"),
        (c.lora_variant == "dora", "DoRA"),
        (bool(c.modules_to_save), "--modules-to-save"),
    ):
        if wrong:
            raise NotModelled(f"--strategy fsdp with {what} isn't trained; use --strategy ddp")
