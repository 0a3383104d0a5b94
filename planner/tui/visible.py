"""Which rows of the plan mean something under the choices that stand. UI-free."""

from __future__ import annotations

from planner.contract.choices import TrainingChoices
from planner.contract.run_settings import DataSettings

OF_SCHEDULER = {
    "scheduler_cycles": "cosine-restarts",
    "scheduler_step_epochs": "step",
    "scheduler_gamma": "step",
    "polynomial_power": "polynomial",
}
"""Rows that mean something to one schedule only."""
LORA_FIELDS = {
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "lora_variant",
    "adapter_dtype",
    "modules_to_save",
}


def hidden_rows(choices: TrainingChoices, scheduler: str, data: DataSettings, task: str) -> set[str]:
    """Names of the rows that mean nothing now; `task`: the model's, empty while none is chosen."""
    hidden: set[str] = set()
    if choices.method == "full":
        hidden |= LORA_FIELDS
    if choices.method != "qlora":
        hidden |= {"quantization", "kbit_preparation"}
    if not choices.gradient_checkpointing:
        hidden |= {"checkpoint_layers", "checkpoint_reentrant", "checkpoint_offload"}
    if scheduler == "constant":
        hidden.add("min_learning_rate_ratio")
    hidden |= {key for key, name in OF_SCHEDULER.items() if name != scheduler}
    if choices.stack != "peft":
        hidden |= {"transformers_version", "keep_logits", "keep_cache", "kbit_preparation", "liger"}
    else:
        hidden.add("made_again")
    if not choices.liger or choices.stack != "peft":
        hidden.add("liger_kernels")
    if choices.num_gpus == 1:
        hidden.add("strategy")
    if task != "seq2seq":
        hidden.add("max_target_length")
    if data.path is None:
        hidden.add("validation_path")
    if data.validation_path is not None:
        hidden.add("validation_split")
    return hidden
