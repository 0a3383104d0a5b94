"""torchtune's YAML for its LoRA, QLoRA and full recipes.

Keys and defaults: torchtune 0.6.1, `recipes/configs/`, `recipes/lora_finetune_single_device.py`
(pypi.org/project/torchtune, 2026-11). Its models are its own; the figure is that of transformers' on stack peft.
"""

from __future__ import annotations

import re

from planner.exchange.keys import Keys

NAME = "torchtune"
STACK = "the nearest that is modelled for torchtune's own network: stack peft with bf16 adapters"
RECOGNISED_BY = (frozenset({"model", "checkpointer"}), frozenset({"tokenizer", "optimizer", "loss"}))

_BUILDER = re.compile(r"(?:(q?lora)_)?(.+)")
_SIZE = re.compile(r"([0-9]+(?:_[0-9]+)?b|mini)(?:_instruct|_base|_text|_v[0-9])*")
MODELS = {
    "llama2": "llama-2",
    "llama3": "llama-3",
    "llama3_1": "llama-3.1",
    "llama3_2": "llama-3.2",
    "llama3_3": "llama-3.3",
    "code_llama2": "codellama",
    "gemma": "gemma",
    "gemma2": "gemma-2",
    "qwen2": "qwen2",
    "qwen2_5": "qwen2.5",
    "qwen3": "qwen3",
    "mistral": "mistral",
    "phi4": "phi-4",
    "phi3": "phi-3",
}
EXACT = {"mistral_7b": "mistral-7b-v0.1", "phi4_14b": "phi-4"}
OPTIMIZERS = {
    "torch.optim.AdamW": ("adamw", "foreach"),
    "torch.optim.SGD": ("sgd", "foreach"),
    "bitsandbytes.optim.PagedAdamW8bit": ("paged-adamw-8bit", "foreach"),
    "bitsandbytes.optim.AdamW8bit": ("adamw-8bit", "foreach"),
    "torchao.optim.AdamW8bit": ("adamw-8bit", "foreach"),
    "torch.optim.Adafactor": ("adafactor", "foreach"),
}
LOSSES = {
    "CEWithChunkedOutputLoss": "chunked",
    "LinearCrossEntropyLoss": "chunked",
    "CrossEntropyLoss": "full",
}
TARGETS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}
IDLE = (
    *(
        "output_dir",
        "tokenizer",
        "checkpointer",
        "resume_from_checkpoint",
        "save_adapter_weights_only",
        "seed",
        "shuffle",
    ),
    *("metric_logger", "log_every_n_steps", "log_peak_memory_stats", "log_level", "device", "profiler", "low_cpu_ram"),
    *(
        "max_steps_per_epoch",
        "custom_sharded_layers",
        "fsdp_cpu_offload",
        "fsdp_reshard_after_forward",
        "checkpoint_dir",
    ),
    *("dataset_val", "run_val_every_n_steps", "batch_size_val", "log_grad_norm", "model_type", "stop_tokens"),
)


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model, data and nothing that divides the run, of a torchtune file; all else into `keys`."""
    keys.values["stack"] = "peft"
    if not keys.has("optimizer"):
        raise keys.wrong("optimizer", "is missing, so nothing is trained here (a file of generation or evaluation)")
    model = _model(keys)
    keys.refuse_where_set(
        {
            "optimizer_in_bwd": "updates within backward",
            "compile": "a compiled step keeps other tensors; switch it off to ask about the plain one",
            "tensor_parallel_dim": "tensors divided over devices",
            "fsdp_cpu_offload": "weights in host memory",
            "enable_fp8_training": "the buffers of 8-bit arithmetic",
            "quantizer": "fake quantisation",
            "teacher_model": "a second model",
        }
    )
    keys.put("batch_size", keys.whole("batch_size") or 1, "batch_size")
    keys.put(
        "gradient_accumulation_steps", keys.whole("gradient_accumulation_steps") or 1, "gradient_accumulation_steps"
    )
    below = keys.sub("tokenizer")
    length = below.whole("max_seq_len")
    below.put("max_length", length or 1024, "max_seq_len", why="" if length else "the file has none: the data's decide")
    data = keys.sub("dataset")
    packed = data.flag("packed")
    keys.put("padding", "packed" if packed else "longest", "dataset")
    on = keys.flag("enable_activation_checkpointing")
    keys.put("gradient_checkpointing", bool(on), "enable_activation_checkpointing")
    if keys.flag("enable_activation_offloading"):
        keys.put("checkpoint_offload", True, "enable_activation_offloading")
    else:
        keys.idle("enable_activation_offloading")
    precision = keys.pick(
        "dtype", {"bf16": "bf16", "fp32": "fp32", "fp16": "fp16"}, default="bf16", what="modelled are"
    )
    keys.put("precision", precision, "dtype")
    if keys.values["method"] != "full":
        keys.put("adapter_dtype", "bf16" if precision == "bf16" else "fp32", "dtype")
    _optimizer(keys)
    loss = keys.sub("loss")
    word = (loss.text("_component_") or "CEWithChunkedOutputLoss").rpartition(".")[2]
    if word not in LOSSES:
        raise loss.refuse("_component_", f"modelled are {', '.join(LOSSES)}")
    loss.put("loss", LOSSES[word], "_component_")
    loss.idle(*loss.content)
    clip = keys.number("clip_grad_norm")
    keys.put("max_grad_norm", clip or 0.0, "clip_grad_norm")
    keys.put("attention", "sdpa", "attention", why="its network uses PyTorch's")
    _schedule(keys)
    name = data.text("source") or data.text("_component_")
    masked = data.flag("train_on_input")
    if masked is not None:
        keys.hyperparameters["train_on_prompt"] = masked
    if (seed := keys.whole("seed", least=0)) is not None and seed < 2**32:
        keys.put("seed", seed, "seed")
    keys.finish(IDLE, ("profile", "ref_", "generation"))
    return model, name, None


def _model(keys: Keys) -> str:
    """The catalogue's name of the model that the builder makes; its method goes into `keys`."""
    below = keys.sub("model")
    component = below.text("_component_") or ""
    found = _BUILDER.fullmatch(component.rpartition(".")[2])
    model = named(found[2]) if found else None
    if found is None or model is None:
        raise below.refuse("_component_", "no builder of a language model that is known by its name")
    kind = found[1]
    below.note("_component_", "read", f"model {model}, method {kind or 'full'}")
    below.values["method"] = kind or "full"
    if below.flag("quantize_base"):
        below.put("method", "qlora", "quantize_base")
    elif below.has("quantize_base"):
        below.note("quantize_base", "read", "off")
    if below.values["method"] == "qlora":
        below.values.update(quantization="nf4-double", kbit_preparation="none")
    if below.values["method"] != "full":
        _adapters(below)
    below.finish()
    return model


def named(builder: str) -> str | None:
    """The catalogue's name of what a builder makes: `llama3_1_8b` is llama-3.1-8b."""
    for family in sorted(MODELS, key=len, reverse=True):
        rest = builder.removeprefix(family + "_")
        found = _SIZE.fullmatch(rest) if rest != builder else None
        if found is not None:
            size = found[1]
            return EXACT.get(f"{family}_{size}") or f"{MODELS[family]}-{size.replace('_', '.')}"
    return None


def _adapters(below: Keys) -> None:
    below.put("lora_r", below.whole("lora_rank") or 8, "lora_rank")
    alpha = below.number("lora_alpha")
    below.put("lora_alpha", 16.0 if alpha is None else alpha, "lora_alpha")
    below.put("lora_dropout", below.number("lora_dropout") or 0.0, "lora_dropout")
    named = below.names("lora_attn_modules") or ()
    unknown = [name for name in named if name not in TARGETS]
    if unknown:
        raise below.refuse("lora_attn_modules", f"known are {', '.join(TARGETS)}")
    mlp, output = below.flag("apply_lora_to_mlp"), below.flag("apply_lora_to_output")
    targets = [TARGETS[name] for name in named]
    targets += ["gate_proj", "up_proj", "down_proj"] if mlp else []
    targets += ["lm_head"] if output else []
    if not targets:
        raise below.wrong("lora_attn_modules", "is empty, and no other part has adapters: there is nothing to train")
    every = mlp and not output and len(set(named)) == 4
    found = ("all-linear",) if every else tuple(targets)
    below.put("lora_targets", found, ("lora_attn_modules", "apply_lora_to_mlp", "apply_lora_to_output"))
    below.put("lora_variant", "dora" if below.flag("use_dora") else "lora", "use_dora")


def _optimizer(keys: Keys) -> None:
    below = keys.sub("optimizer")
    word = below.text("_component_") or "torch.optim.AdamW"
    if word not in OPTIMIZERS:
        raise below.refuse("_component_", f"modelled are {', '.join(OPTIMIZERS)}")
    kind, way = OPTIMIZERS[word]
    if below.flag("fused") and kind in ("adamw", "sgd"):
        way = "fused"
    below.put("optimizer", kind, "_component_")
    below.put("optimizer_implementation", way, "fused")
    if (rate := below.number("lr")) is not None and 0 < rate <= 1e3:
        below.put("learning_rate", rate, "lr")
    if (decay := below.number("weight_decay")) is not None:
        below.put("weight_decay", decay, "weight_decay")
    betas: object = below.raw("betas")
    if isinstance(betas, list) and len(betas) == 2:
        below.note("betas", "read", "beta1, beta2")
        below.hyperparameters.update(beta1=betas[0], beta2=betas[1])
    if (least := below.number("eps")) is not None:
        below.put("epsilon", least, "eps")
    below.finish()


def _schedule(keys: Keys) -> None:
    if (epochs := keys.number("epochs")) is not None and epochs > 0:
        keys.put("epochs", epochs, "epochs")
    if (steps := keys.whole("max_steps_per_epoch")) is not None:
        keys.put(
            "max_steps", max(1, round(steps * (epochs or 1))), "max_steps_per_epoch", why="at most, over all epochs"
        )
    below = keys.sub("lr_scheduler")
    if not below.content:
        keys.put("scheduler", "constant", "lr_scheduler")
        keys.hyperparameters["warmup_steps"] = 0
        return
    word = (below.text("_component_") or "").rpartition(".")[2]
    if word == "get_cosine_schedule_with_warmup":
        cycles = below.number("num_cycles")
        below.put("scheduler", "constant" if cycles == 0 else "cosine", ("_component_", "num_cycles"))
        below.hyperparameters["min_learning_rate_ratio"] = 0.0
    else:
        below.note("_component_", "ignored", "no schedule of tuneplan's")
    warm = below.whole("num_warmup_steps", least=0)
    below.put("warmup_steps", 0 if warm is None else warm, "num_warmup_steps")
    below.finish()
