"""torchtune's YAML for its LoRA, QLoRA and full recipes.

Keys and defaults: torchtune 0.6.1, `recipes/configs/`, `recipes/lora_finetune_single_device.py`
(pypi.org/project/torchtune, 2026-11). Its models are its own; the figure is that of transformers' on stack peft.
"""

from __future__ import annotations

import re

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from planner.exchange.keys import Keys
from planner.exchange.targets import ALIKE
from planner.exchange.writing import Written, WrittenRun, one_device, unsaid

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
    "mistral": "mistral",
    "phi4": "phi-4",
    "phi3": "phi-3",
}
_EXACT = {"mistral_7b": "mistral-7b-v0.1", "phi4_14b": "phi-4"}
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
    if (steps := keys.whole("max_steps_per_epoch")) is not None:
        keys.put("max_steps", steps, "max_steps_per_epoch", why="with one epoch")
    keys.finish(IDLE, ("profile", "ref_", "generation"))
    return model, name, None


def _model(keys: Keys) -> str:
    """The catalogue's name of the model that the builder makes; its method goes into `keys`."""
    below = keys.sub("model")
    component = below.text("_component_") or ""
    found = _BUILDER.fullmatch(component.rpartition(".")[2])
    model = _named(found[2]) if found else None
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


def _named(builder: str) -> str | None:
    """`llama3_1_8b` is llama-3.1-8b."""
    for family in sorted(MODELS, key=len, reverse=True):
        rest = builder.removeprefix(family + "_")
        found = _SIZE.fullmatch(rest) if rest != builder else None
        if found is not None:
            size = found[1]
            return _EXACT.get(f"{family}_{size}") or f"{MODELS[family]}-{size.replace('_', '.')}"
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
    below = keys.sub("lr_scheduler")
    if not below.content:
        keys.put("scheduler", "constant", "lr_scheduler")
        keys.hyperparameters["warmup_steps"] = 0
        return
    word = (below.text("_component_") or "").rpartition(".")[2]
    if word == "get_cosine_schedule_with_warmup":
        below.put("scheduler", "cosine", "_component_")
        below.hyperparameters["min_learning_rate_ratio"] = 0.0
    else:
        below.note("_component_", "ignored", "no schedule of tuneplan's")
    warm = below.whole("num_warmup_steps", least=0)
    below.put("warmup_steps", 0 if warm is None else warm, "num_warmup_steps")
    below.finish()


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(run: WrittenRun) -> Written:
    """The plan as a config of torchtune's single-device recipes.

    Long because a file is: key after key, in the order in which it is read.
    """
    one_device(run, NAME)
    choices, h = run.choices, run.hyperparameters
    family, builder = _builder(run)
    full = choices.method == "full"
    recipe = "full_finetune_single_device" if full else "lora_finetune_single_device"
    model: dict[str, object] = {"_component_": f"torchtune.models.{family}.{builder}"}
    content: dict[str, object] = {"output_dir": "./out", "model": model}
    out = Written(main="torchtune.yaml", content=content, start=f"tune run {recipe} --config torchtune.yaml")
    if not full:
        model |= _written_adapters(run, out)
        if choices.method == "qlora":
            model["_component_"] = f"torchtune.models.{family}.q{builder}"
            if choices.quantization != "nf4-double":
                out.drop(f"quantization {choices.quantization}: torchtune's NF4 quantises its constants again")
    content["tokenizer"] = {
        "_component_": f"torchtune.models.{_tokenizer(family)}",
        "path": "checkpoint/tokenizer.model",
        "max_seq_len": choices.max_length,
    }
    content["checkpointer"] = {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": "checkpoint",
        "checkpoint_files": ["model.safetensors"],
        "model_type": _model_type(family),
        "output_dir": "./out",
    }
    out.drop(f"weights and tokenizer: tune download {run.model} --output-dir checkpoint, and name its files")
    shape = "chat_dataset" if run.shape in ("messages", "sharegpt") else "instruct_dataset"
    if run.shape == "text":
        shape = "text_completion_dataset"
    data: dict[str, object] = {"_component_": f"torchtune.datasets.{shape}", "source": "json"}
    data |= {"data_files": run.data.path or "data.jsonl", "split": "train", "packed": choices.padding == "packed"}
    if shape != "text_completion_dataset":
        data["train_on_input"] = h.train_on_prompt
    if shape == "chat_dataset":
        sharegpt = run.shape == "sharegpt"
        data["conversation_column"] = "conversations" if sharegpt else "messages"
        data["conversation_style"] = "sharegpt" if sharegpt else "openai"
    elif shape == "instruct_dataset":
        names = ("prompt", "completion") if run.shape == "prompt-completion" else ("instruction", "output")
        data["column_map"] = {"input": names[0], "output": names[1]}
    content["dataset"] = data
    content |= {"seed": h.seed, "shuffle": True, "batch_size": choices.batch_size}
    content |= {"gradient_accumulation_steps": choices.gradient_accumulation_steps, "epochs": max(1, round(h.epochs))}
    content["max_steps_per_epoch"] = h.max_steps
    content["optimizer"] = _written_optimizer(choices, h, out)
    _written_schedule(h, content, out)
    kind = "CEWithChunkedOutputLoss" if choices.loss == "chunked" else "CrossEntropyLoss"
    module = "torchtune.modules.loss" if choices.loss == "chunked" else "torch.nn"
    content["loss"] = {"_component_": f"{module}.{kind}"}
    content["clip_grad_norm"] = choices.max_grad_norm or None
    content["enable_activation_checkpointing"] = choices.gradient_checkpointing
    content["enable_activation_offloading"] = choices.checkpoint_offload and choices.gradient_checkpointing
    storage = choices.precision.removesuffix("-amp").removesuffix("-mixed")
    content |= {
        "device": "cuda",
        "dtype": "fp32" if choices.precision.endswith("-mixed") else storage,
        "compile": False,
    }
    if storage != choices.precision:
        out.drop(f"precision {choices.precision}: {content['dtype']} throughout there")
    content["metric_logger"] = {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": "./out/logs"}
    content |= {"log_every_n_steps": h.logging_steps, "log_peak_memory_stats": True, "resume_from_checkpoint": False}
    if h.epochs % 1:
        out.drop(f"epochs {h.epochs:g}: a whole number there")
    if choices.padding == "max":
        out.drop("padding max: rows are padded to the longest of a batch")
    unsaid(run, out)
    return out


def _builder(run: WrittenRun) -> tuple[str, str]:
    """Module and function that make the model: `llama3_1`, `lora_llama3_1_8b`."""
    from planner.models import catalogue

    found = catalogue.look_up(run.model)
    name = (found.name if found else run.model.rpartition("/")[2]).lower()
    prefix = "" if run.choices.method == "full" else "lora_"
    for short, entry in _EXACT.items():
        if entry == name:
            return short.rpartition("_")[0], prefix + short
    for family, begins in sorted(MODELS.items(), key=lambda item: -len(item[1])):
        size = name.removeprefix(begins + "-")
        if size != name and _SIZE.fullmatch(size.replace(".", "_")):
            return family, f"{prefix}{family}_{size.replace('.', '_')}"
    raise InvalidInput(f"--to torchtune: it has no builder for {run.model}; known families: {', '.join(MODELS)}")


def _tokenizer(family: str) -> str:
    names = {
        "llama3_1": "llama3",
        "llama3_2": "llama3",
        "llama3_3": "llama3",
        "gemma2": "gemma",
        "code_llama2": "llama2",
    }
    base = names.get(family, family)
    function = {"phi3": "phi3_mini_tokenizer", "phi4": "phi4_tokenizer"}.get(base, f"{base}_tokenizer")
    return f"{base}.{function}"


def _model_type(family: str) -> str:
    names = {
        "llama3_1": "LLAMA3",
        "llama3_2": "LLAMA3_2",
        "llama3_3": "LLAMA3",
        "code_llama2": "LLAMA2",
        "phi3": "PHI3_MINI",
    }
    return names.get(family, family.upper().replace("QWEN2_5", "QWEN2"))


def _written_adapters(run: WrittenRun, out: Written) -> dict[str, object]:
    choices = run.choices
    if choices.lora_variant == "rslora":
        raise InvalidInput("--to torchtune: it has no rslora; plan lora_variant lora with alpha scaled")
    if choices.modules_to_save:
        raise InvalidInput("--to torchtune: it trains no modules in full beside adapters; plan without modules_to_save")
    parts = (
        set(ALIKE) - {"lm_head"}
        if run.every_linear
        else {part for part, names in ALIKE.items() if any(leaf in names for leaf in run.targets())}
    )
    mlp = {"gate_proj", "up_proj", "down_proj"}
    unknown = (
        set() if run.every_linear else {leaf for leaf in run.targets() if not any(leaf in n for n in ALIKE.values())}
    )
    if unknown or (parts & mlp and not mlp <= parts):
        raise InvalidInput(f"--to torchtune: it has no switch for targets {', '.join(run.targets())}")
    back = {value: name for name, value in TARGETS.items()}
    if choices.lora_alpha % 1:
        out.drop(f"lora_alpha {choices.lora_alpha:g}: written as it is, though the recipes use whole numbers")
    return {
        "lora_attn_modules": [back[part] for part in TARGETS.values() if part in parts],
        "apply_lora_to_mlp": mlp <= parts,
        "apply_lora_to_output": "lm_head" in parts,
        "lora_rank": choices.lora_r,
        "lora_alpha": choices.lora_alpha,
        "lora_dropout": choices.lora_dropout,
        **({"use_dora": True} if choices.lora_variant == "dora" else {}),
    }


def _written_optimizer(choices: TrainingChoices, h: Hyperparameters, out: Written) -> dict[str, object]:
    names = {
        "adamw": "torch.optim.AdamW",
        "sgd": "torch.optim.SGD",
        "adamw-8bit": "bitsandbytes.optim.AdamW8bit",
        "paged-adamw-8bit": "bitsandbytes.optim.PagedAdamW8bit",
        "adafactor": "torch.optim.Adafactor",
    }
    found: dict[str, object] = {
        "_component_": names[choices.optimizer],
        "lr": h.learning_rate,
        "weight_decay": h.weight_decay,
    }
    if choices.optimizer.endswith(("adamw", "8bit")):
        found |= {"betas": [h.beta1, h.beta2], "eps": h.epsilon}
    if choices.optimizer in ("adamw", "sgd"):
        found["fused"] = choices.optimizer_implementation == "fused"
    return found


def _written_schedule(h: Hyperparameters, content: dict[str, object], out: Written) -> None:
    if h.scheduler == "constant":
        return
    steps = h.warmup_steps
    if steps is None:
        steps = 0
        if h.warmup_ratio:
            out.drop(f"warmup_ratio {h.warmup_ratio:g}: set num_warmup_steps to that share of the steps")
    content["lr_scheduler"] = {
        "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
        "num_warmup_steps": steps,
    }
    if h.scheduler != "cosine":
        out.drop(f"scheduler {h.scheduler}: cosine there")
    if h.min_learning_rate_ratio:
        out.drop(f"min_learning_rate_ratio {h.min_learning_rate_ratio:g}: the schedule falls to 0")
