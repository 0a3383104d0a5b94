"""What the tools on transformers' Trainer have in common: its arguments, PEFT's words for adapters, number formats.

Names and defaults: transformers 5.23 `training_args.py`, peft 0.21 `tuners/lora/config.py` (2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from planner.contract.choices import LIGER_KERNELS
from planner.exchange.keys import Keys

OPTIMIZERS: dict[str, tuple[str, str]] = {
    "adamw_torch_fused": ("adamw", "fused"),
    "adamw_torch": ("adamw", "foreach"),
    "adamw_hf": ("adamw", "foreach"),
    "adamw": ("adamw", "foreach"),
    "adamw_8bit": ("adamw-8bit", "foreach"),
    "adamw_bnb_8bit": ("adamw-8bit", "foreach"),
    "paged_adamw_8bit": ("paged-adamw-8bit", "foreach"),
    "adafactor": ("adafactor", "foreach"),
    "sgd": ("sgd", "foreach"),
}
"""`optim` -> our optimizer and how its step runs."""
WRITTEN_OPTIMIZERS = {
    ("adamw", "fused"): "adamw_torch_fused",
    ("adamw", "foreach"): "adamw_torch",
    ("adamw-8bit", "foreach"): "adamw_bnb_8bit",
    ("paged-adamw-8bit", "foreach"): "paged_adamw_8bit",
    ("adafactor", "foreach"): "adafactor",
    ("sgd", "foreach"): "sgd",
}

ATTENTIONS = {
    "sdpa": "sdpa",
    "eager": "eager",
    **{f"flash_attention_{release}": "flash" for release in (2, 3, 4)},
    "xformers": "sdpa",
    "kernels-community/flash-attn": "flash",
    "kernels-community/flash-attn2": "flash",
    "kernels-community/flash-attn3": "flash",
    "kernels-community/vllm-flash-attn3": "flash",
}
DTYPES = {
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "fp16",
    "fp16": "fp16",
    "float32": "fp32",
    "fp32": "fp32",
    "auto": "bf16",
}
NOT_MODELLED = {
    "torch_compile": "a compiled step keeps other tensors; switch it off to ask about the plain one",
    "torch_compile_backend": "it switches torch_compile on, and a compiled step keeps other tensors",
    "torch_compile_mode": "it switches torch_compile on, and a compiled step keeps other tensors",
    "fp8": "the buffers of 8-bit arithmetic",
    "neftune_noise_alpha": "noise on the embeddings keeps another copy of them",
    "auto_find_batch_size": "the batch is then found by trying; plan find it with --batch-size",
    "use_lomo": "optimizers that update within backward",
}
IDLE = frozenset(
    (
        *(
            "output_dir",
            "overwrite_output_dir",
            "do_train",
            "do_eval",
            "do_predict",
            "run_name",
            "report_to",
            "project",
        ),
        *("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm", "trackio_space_id", "plot_loss"),
        *("logging_dir", "logging_strategy", "logging_first_step", "logging_nan_inf_filter", "logging_steps"),
        *("save_strategy", "save_safetensors", "save_only_model", "save_on_each_node", "resume_from_checkpoint"),
        *("evaluation_strategy", "eval_strategy", "eval_on_start", "eval_delay", "load_best_model_at_end"),
        *("metric_for_best_model", "greater_is_better", "ignore_data_skip", "remove_unused_columns", "label_names"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_drop_last", "dataloader_persistent_workers"),
        *("dataloader_prefetch_factor", "data_seed", "ddp_timeout", "ddp_find_unused_parameters", "ddp_backend"),
        *("ddp_broadcast_buffers", "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"),
        *("tf32", "prediction_loss_only", "include_num_input_tokens_seen", "include_tokens_per_second", "local_rank"),
        *("average_tokens_across_devices", "skip_memory_metrics", "train_sampling_strategy", "eval_accumulation_steps"),
        *("trust_remote_code", "model_revision", "full_determinism", "accelerator_config", "restore_callback_states"),
        *("use_cpu", "no_cuda", "length_column_name", "batch_eval_metrics", "torch_empty_cache_steps"),
        *("enable_jit_checkpoint", "hub_revision", "hub_always_push", "save_total_limit", "lr_scheduler_kwargs"),
        *("liger_kernel_config", "router_aux_loss_coef"),
    )
)
"""Arguments that move no memory of a training step."""

PREFIXES = ("logging_", "hub_", "push_to_hub", "wandb_", "save_", "dataloader_", "swanlab_", "trackio_", "comet_")


def optimizer(keys: Keys, name: str, *, default: str = "adamw_torch_fused") -> None:
    """The optimizer and how its step runs."""
    found = keys.pick(name, OPTIMIZERS, default=OPTIMIZERS[default], what="modelled are")
    keys.put("optimizer", found[0], name)
    keys.put("optimizer_implementation", found[1], name, why=f"of {default}" if not keys.has(name) else "")


def arguments(keys: Keys, *, batch: int = 8, rate: float = 5e-5, checkpointing: bool = False) -> None:
    """Batch, accumulation, optimizer, schedule, evaluation: transformers' own names."""
    size = keys.whole("per_device_train_batch_size") or batch
    keys.put("batch_size", size, "per_device_train_batch_size")
    keys.put(
        "gradient_accumulation_steps", keys.whole("gradient_accumulation_steps") or 1, "gradient_accumulation_steps"
    )
    if (evaluated := keys.whole("per_device_eval_batch_size")) is not None:
        keys.put("eval_batch_size", evaluated, "per_device_eval_batch_size")
    optimizer(keys, "optim")
    clip = keys.number("max_grad_norm")
    keys.put("max_grad_norm", 1.0 if clip is None else max(0.0, clip), "max_grad_norm")
    recompute(keys, default=checkpointing)
    keys.refuse_where_set(NOT_MODELLED)
    schedule(keys, "learning_rate", "lr_scheduler_type", default_rate=rate)
    run_length(keys)
    pace(keys)


def recompute(keys: Keys, *, default: bool) -> None:
    """`gradient_checkpointing` and its variant."""
    on = keys.flag("gradient_checkpointing")
    keys.put("gradient_checkpointing", default if on is None else on, "gradient_checkpointing")
    below = keys.sub("gradient_checkpointing_kwargs")
    if below.content:
        reentrant = below.flag("use_reentrant")
        if reentrant is not None:
            below.put("checkpoint_reentrant", reentrant and keys.values["gradient_checkpointing"], "use_reentrant")
        below.finish()
    keys.values.setdefault("checkpoint_reentrant", False)


_OF_LIGER = {**{name: name for name in LIGER_KERNELS}, "geglu": "swiglu"}
"""Keys of `liger_kernel_config` whose kernels are modelled."""


def liger(keys: Keys, switch: str) -> bool:
    """Liger's kernels under one switch, all of them or as `liger_kernel_config` has them; whether its loss is one."""
    if not keys.flag(switch):
        if keys.has(switch):
            keys.note(switch, "read", "off")
        return False
    keys.put("liger", True, switch)
    kernels = set(LIGER_KERNELS)
    below = keys.sub("liger_kernel_config")
    for name in below.content:
        on = below.flag(name)
        if name in _OF_LIGER:
            (kernels.add if on else kernels.discard)(_OF_LIGER[name])
            below.note(name, "read", "on" if on else "off")
        else:
            below.note(name, "assumed" if on else "read", "the model's own code, which keeps no less" if on else "off")
    below.finish()
    with_liger(keys, kernels)
    return "fused_linear_cross_entropy" in kernels


def with_liger(keys: Keys, kernels: Collection[str]) -> None:
    """Those of Liger's kernels that run."""
    keys.values["liger"] = bool(kernels)
    if kernels and len(kernels) < len(LIGER_KERNELS):
        keys.values["liger_kernels"] = tuple(name for name in LIGER_KERNELS if name in kernels)


def schedule(keys: Keys, rate: str, kind: str, *, default_rate: float, default_kind: str = "linear") -> None:
    """Learning rate, warm-up and schedule; one that tuneplan doesn't have stays out of the plan and is said."""
    given = keys.number(rate)
    if given is not None and not 0 < given <= 1e3:
        raise keys.wrong(rate, f"must lie above 0, not {given:g}")
    keys.put("learning_rate", default_rate if given is None else given, rate)
    word = (keys.text(kind) or default_kind).lower()
    further = keys.raw("lr_scheduler_kwargs")
    further = further if isinstance(further, dict) else {}
    keys.idle("lr_scheduler_kwargs")
    minimum, known = 0.0, True
    if word in ("cosine", "linear"):
        keys.put("scheduler", word, kind)
    elif word in ("constant", "constant_with_warmup"):
        keys.put("scheduler", "constant", kind)
    elif word in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        keys.put("scheduler", "cosine", kind)
        minimum = _share(further.get("min_lr_rate"), further.get("min_lr"), keys.hyperparameters["learning_rate"])
    elif word == "cosine_with_restarts":
        keys.put("scheduler", "cosine-restarts", kind)
        cycles = further.get("num_cycles")
        whole = isinstance(cycles, int) and not isinstance(cycles, bool) and 1 <= cycles <= 10**9
        keys.hyperparameters["scheduler_cycles"] = cycles if whole else 1
    elif word == "polynomial":
        keys.put("scheduler", "polynomial", kind)
        power = further.get("power")
        fine = isinstance(power, int | float) and not isinstance(power, bool) and 0 < power <= 1000
        keys.hyperparameters["polynomial_power"] = power if fine else 1.0
        minimum = _share(None, further.get("lr_end", 1e-7), keys.hyperparameters["learning_rate"])
    else:
        keys.note(kind, "ignored", f"{word}: no schedule of tuneplan's")
        known = False
    if known:
        keys.hyperparameters["min_learning_rate_ratio"] = minimum
    _warm_up(keys, without=word == "constant")


def _share(ratio: object, rate: object, peak: float) -> float:
    """The lowest rate as a share of the highest."""
    for value, whole in ((ratio, 1.0), (rate, peak)):
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return min(1.0, max(0.0, float(value) / whole))
            except (ValueError, OverflowError, ZeroDivisionError):
                continue
    return 0.0


def _warm_up(keys: Keys, *, without: bool) -> None:
    steps, ratio = keys.number("warmup_steps"), keys.number("warmup_ratio")
    if without:
        keys.idle("warmup_steps", "warmup_ratio")
        keys.hyperparameters.update(warmup_steps=0)
    elif steps is not None and steps >= 1:
        keys.put("warmup_steps", int(steps), "warmup_steps")
    else:
        # transformers 5 takes a share as `warmup_steps` too.
        share = steps if steps else (ratio or 0.0)
        if not 0 <= share <= 1:
            raise keys.wrong("warmup_ratio", f"must lie in [0, 1], not {share:g}")
        keys.put("warmup_ratio", share, "warmup_steps" if steps else "warmup_ratio")
        keys.idle("warmup_steps", "warmup_ratio")


def run_length(keys: Keys, *, epochs: str = "num_train_epochs", default: float = 3.0) -> None:
    """Epochs and the most steps."""
    given = keys.number(epochs)
    if given is None or given > 0:
        keys.put("epochs", default if given is None else given, epochs)
    else:
        keys.idle(epochs)
    steps = keys.number("max_steps")
    if steps is not None and steps >= 1:
        keys.put("max_steps", int(steps), "max_steps")
    else:
        keys.idle("max_steps")


def pace(keys: Keys) -> None:
    """Optimizer's numbers, seed, and when things happen: hyperparameters that move no memory."""
    for name, field in (
        ("weight_decay", "weight_decay"),
        ("adam_beta1", "beta1"),
        ("adam_beta2", "beta2"),
        ("adam_epsilon", "epsilon"),
    ):
        if (value := keys.number(name)) is not None:
            keys.put(field, value, name)
    for name in ("eval_steps", "save_steps", "save_total_limit", "logging_steps", "early_stopping_patience"):
        value = keys.number(name)
        if value is not None and value >= 1 and value == int(value):
            keys.put(name, int(value), name)
        else:
            keys.idle(name)
    if (seed := keys.whole("seed", least=0)) is not None and seed < 2**32:
        keys.put("seed", seed, "seed")
    if (grouped := keys.flag("group_by_length")) is not None:
        keys.put("group_by_length", grouped, "group_by_length")


def number_format(keys: Keys, *, weights: str, autocast: str | None, by: tuple[str, ...], quantized: bool) -> None:
    """`precision` from the format of the weights and that of autocast; `by` names the keys that decided."""
    if autocast is None or (quantized and weights == "fp32" and autocast == "fp32"):
        found = weights
    elif weights == "fp32" and not quantized:
        found = f"{autocast}-mixed"
    elif autocast == "bf16":
        found = "bf16-amp"
    else:
        found = "fp16"
    why = "fp16 weights under fp32 adapters, with loss scaling" if found == "fp16" else ""
    keys.put("precision", found, by, why=why)


def adapters(keys: Keys, names: dict[str, str], *, rank: int, alpha: float | None, dropout: float) -> None:
    """Rank, scale, dropout; `names` gives the tool's key for each field."""
    found = keys.whole(names["lora_r"]) or rank
    keys.put("lora_r", found, names["lora_r"])
    scale = keys.number(names["lora_alpha"])
    keys.put(
        "lora_alpha", float(scale if scale is not None else 2 * found if alpha is None else alpha), names["lora_alpha"]
    )
    share = keys.number(names["lora_dropout"])
    if share is not None and not 0 <= share < 1:
        raise keys.wrong(names["lora_dropout"], f"must lie in [0, 1), not {share:g}")
    keys.put("lora_dropout", dropout if share is None else share, names["lora_dropout"])


def targets(
    keys: Keys, name: str, *, default: tuple[str, ...], every: tuple[str, ...] = ("all-linear",), why: str = ""
) -> None:
    """The modules with adapters; `every` are the words that mean all linear ones. A pattern is refused."""
    named = keys.names(name)
    if named is None:
        keys.put("lora_targets", default, name, why=why)
        return
    if any(word in every for word in named):
        keys.put("lora_targets", ("all-linear",), name)
        return
    leaves = tuple(dict.fromkeys(leaf for word in named for leaf in _leaves(word)))
    if not all(leaf.replace("_", "").replace("-", "").isalnum() for leaf in leaves):
        raise keys.refuse(name, "a pattern over module names; list their last parts")
    keys.put("lora_targets", leaves, name)


_ALTERNATIVES = re.compile(r"\(((?:[A-Za-z0-9_]+\|)*[A-Za-z0-9_]+)\)([A-Za-z0-9_]*)$")


def _leaves(word: str) -> list[str]:
    """The last parts that a path, or a pattern that ends in alternatives (`…(up|down|gate)_proj`), names."""
    found = _ALTERNATIVES.search(word.rstrip("$"))
    if found is None:
        return [word.rpartition(".")[2]]
    return [part + found[2] for part in found[1].split("|")]


def quantization(
    keys: Keys, *, four: str = "load_in_4bit", eight: str = "load_in_8bit", double: bool | None
) -> str | None:
    """Storage of the base weights, or None. `double`: whether the constants are quantised again."""
    if keys.flag(four):
        found = "nf4-double" if double else "nf4"
        keys.put("quantization", found, four)
        if keys.flag(eight):
            raise keys.wrong(eight, f"contradicts {four}: one of them")
        keys.idle(eight)
        return found
    if keys.flag(eight):
        keys.put("quantization", "int8", eight)
        keys.idle(four)
        return "int8"
    for name in (four, eight):
        if keys.has(name):
            keys.note(name, "read", "off")
    return None


def variant(keys: Keys, dora: str, rslora: str) -> None:
    """DoRA and rank-stabilised LoRA."""
    weights, stable = keys.flag(dora), keys.flag(rslora)
    if weights and stable:
        raise keys.refuse(rslora, "together with DoRA")
    keys.put("lora_variant", "dora" if weights else "rslora" if stable else "lora", (dora, rslora))


def what_is_learned(keys: Keys) -> None:
    """TRL's words for the loss on completions."""
    completions, assistant = keys.flag("completion_only_loss"), keys.flag("assistant_only_loss")
    if completions is None and not assistant:
        return
    keys.put("train_on_prompt", not (completions or assistant), ("completion_only_loss", "assistant_only_loss"))
