"""A plan as torchtune's YAML; the keys are those of `torchtune`, which reads them."""

from __future__ import annotations

import re

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from planner.exchange.targets import ALIKE
from planner.exchange.tools.torchtune import NAME, TARGETS, named
from planner.exchange.writing import Written, WrittenRun, one_device, unsaid

BUILDERS = {
    "code_llama2": ("code_llama2_7b", "code_llama2_13b", "code_llama2_70b"),
    "gemma": ("gemma_2b", "gemma_7b"),
    "gemma2": ("gemma2_2b", "gemma2_9b", "gemma2_27b"),
    "llama2": ("llama2_7b", "llama2_13b", "llama2_70b"),
    "llama3": ("llama3_8b", "llama3_70b"),
    "llama3_1": ("llama3_1_8b", "llama3_1_70b", "llama3_1_405b"),
    "llama3_2": ("llama3_2_1b", "llama3_2_3b"),
    "llama3_3": ("llama3_3_70b",),
    "mistral": ("mistral_7b",),
    "phi3": ("phi3_mini",),
    "phi4": ("phi4_14b",),
    "qwen2": ("qwen2_0_5b", "qwen2_1_5b", "qwen2_7b"),
    "qwen2_5": (
        *("qwen2_5_0_5b", "qwen2_5_1_5b_base", "qwen2_5_1_5b_instruct", "qwen2_5_3b", "qwen2_5_7b_base"),
        *("qwen2_5_7b_instruct", "qwen2_5_14b_base", "qwen2_5_14b_instruct", "qwen2_5_32b_base"),
        *("qwen2_5_32b_instruct", "qwen2_5_72b_base", "qwen2_5_72b_instruct"),
    ),
}
"""Builders of torchtune 0.6.1 (`torchtune/models/*/__init__.py`); each has one with adapters, `lora_…`, beside it."""


def write(run: WrittenRun) -> Written:
    """The plan as a config of torchtune's single-device recipes: key after key, in the order in which it is read."""
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
            model["quantize_base"] = True
            if choices.quantization != "nf4-double":
                out.drop(f"quantization {choices.quantization}: torchtune's NF4 quantises its constants again")
    content |= _written_files(run, family)
    out.drop(f"weights and tokenizer: tune download {run.model} --output-dir checkpoint, and name its files")
    content["dataset"] = _written_data(run)
    content |= {"seed": h.seed, "shuffle": True, "batch_size": choices.batch_size}
    epochs = max(1, round(h.epochs)) if h.max_steps is None else 1
    content |= {"gradient_accumulation_steps": choices.gradient_accumulation_steps, "epochs": epochs}
    content["max_steps_per_epoch"] = h.max_steps
    content["optimizer"] = _written_optimizer(choices, h, out)
    if full:
        content["optimizer_in_bwd"] = False
    _written_schedule(h, content, out)
    content |= _written_step(choices, out)
    content["metric_logger"] = {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": "./out/logs"}
    content |= {"log_every_n_steps": h.logging_steps, "log_peak_memory_stats": True, "resume_from_checkpoint": False}
    if h.max_steps is not None:
        out.drop(f"max_steps {h.max_steps}: of one epoch there; set epochs where the data are shorter than that")
    elif h.epochs % 1:
        out.drop(f"epochs {h.epochs:g}: a whole number there")
    if choices.padding == "max":
        out.drop("padding max: rows are padded to the longest of a batch")
    unsaid(run, out)
    return out


def _written_files(run: WrittenRun, family: str) -> dict[str, object]:
    """Tokenizer and checkpoint, which stand in a folder of their own."""
    checkpointer = {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": "checkpoint",
        "checkpoint_files": ["model.safetensors"],
        "model_type": _model_type(family),
        "output_dir": "./out",
    }
    return {"tokenizer": _tokenizer(run, family), "checkpointer": checkpointer}


def _written_data(run: WrittenRun) -> dict[str, object]:
    kinds = {"text": "text_completion", "alpaca": "alpaca", "prompt-completion": "instruct"}
    shape = f"{kinds.get(run.shape, 'chat')}_dataset"
    path = run.data.path or "data.jsonl"
    kind = {"csv": "csv", "parquet": "parquet"}.get(path.rpartition(".")[2], "json")
    data: dict[str, object] = {"_component_": f"torchtune.datasets.{shape}", "source": kind}
    packed = run.choices.padding == "packed"
    data |= {"data_files": path, "split": "train", "packed": packed}
    if shape != "text_completion_dataset":
        data["train_on_input"] = run.hyperparameters.train_on_prompt
    if shape == "chat_dataset":
        sharegpt = run.shape == "sharegpt"
        data["conversation_column"] = "conversations" if sharegpt else "messages"
        data["conversation_style"] = "sharegpt" if sharegpt else "openai"
    elif shape == "instruct_dataset":
        data["column_map"] = {"input": "prompt", "output": "completion"}
    return data


def _written_step(choices: TrainingChoices, out: Written) -> dict[str, object]:
    """Loss, clipping, recomputation and number format."""
    chunked = choices.loss == "chunked"
    kind = "torchtune.modules.loss.CEWithChunkedOutputLoss" if chunked else "torch.nn.CrossEntropyLoss"
    storage = choices.precision.removesuffix("-amp").removesuffix("-mixed")
    dtype = "fp32" if choices.precision.endswith("-mixed") else storage
    if dtype == "fp16":
        raise InvalidInput("--to torchtune: its recipes refuse fp16; plan precision bf16 or fp32")
    if storage != choices.precision:
        out.drop(f"precision {choices.precision}: {dtype} throughout there")
    return {
        "loss": {"_component_": kind},
        "clip_grad_norm": choices.max_grad_norm or None,
        "enable_activation_checkpointing": choices.gradient_checkpointing,
        "enable_activation_offloading": choices.checkpoint_offload and choices.gradient_checkpointing,
        "device": "cuda",
        "dtype": dtype,
        "compile": False,
    }


def _builder(run: WrittenRun) -> tuple[str, str]:
    """Module and function that make the model: `llama3_1`, `lora_llama3_1_8b`."""
    from planner.models import catalogue

    found = catalogue.look_up(run.model)
    name = (found.name if found else run.model.rpartition("/")[2]).lower()
    known = [(family, builder) for family, sizes in BUILDERS.items() for builder in sizes]
    plain = re.sub("-(instruct|chat|it|base)$", "", name)  # tuned copies have their base's shape
    fitting = [(family, builder) for family, builder in known if named(builder) == plain]
    if not fitting:
        raise InvalidInput(f"--to torchtune: it has no builder for {run.model}; known families: {', '.join(BUILDERS)}")
    tuned = "instruct" in run.model.lower()
    family, builder = next((item for item in fitting if item[1].endswith("_instruct") is tuned), fitting[0])
    return family, builder if run.choices.method == "full" else f"lora_{builder}"


def _tokenizer(run: WrittenRun, family: str) -> dict[str, object]:
    """Builder and the files that it reads, as the hub has them."""
    base = {"gemma2": "gemma", "code_llama2": "llama2"}.get(family, family)
    if base in ("llama3_1", "llama3_2", "llama3_3"):
        base = "llama3"
    function = f"{base}_tokenizer" if base != "phi3" else "phi3_mini_tokenizer"
    files: dict[str, object] = {"path": "checkpoint/tokenizer.model"}
    if base == "llama3":
        files = {"path": "checkpoint/original/tokenizer.model"}
    elif base in ("qwen2", "qwen2_5"):
        files = {"path": "checkpoint/vocab.json", "merges_file": "checkpoint/merges.txt"}
    elif base == "phi4":
        files = {"vocab_path": "checkpoint/vocab.json", "merges_path": "checkpoint/merges.txt"}
    return {"_component_": f"torchtune.models.{base}.{function}", **files, "max_seq_len": run.choices.max_length}


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
    steps = h.warmup_steps
    if steps is None:
        steps = round(h.warmup_ratio * (h.max_steps or 0))
        if h.warmup_ratio and h.max_steps is None:
            out.drop(f"warmup_ratio {h.warmup_ratio:g}: set num_warmup_steps to that share of the steps")
    schedule: dict[str, object] = {
        "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
        "num_warmup_steps": steps,
    }
    content["lr_scheduler"] = schedule
    if h.scheduler == "constant":
        schedule["num_cycles"] = 0.0  # the recipes with adapters know no run without a schedule
        return
    if h.scheduler != "cosine":
        out.drop(f"scheduler {h.scheduler}: cosine there")
    if h.min_learning_rate_ratio:
        out.drop(f"min_learning_rate_ratio {h.min_learning_rate_ratio:g}: the schedule falls to 0")
