"""TRL's `sft` command: `SFTConfig`, `ModelConfig` and `ScriptArguments` as YAML, JSON, or words of a command line.

Keys and defaults: trl 1.16.0, `trainer/sft_config.py`, `trainer/model_config.py`, `scripts/utils.py`
(pypi.org/project/trl, 2026-11).
"""

from __future__ import annotations

from planner.contract.choices import LIGER_KERNELS, TrainingChoices
from planner.exchange import script
from planner.exchange.keys import Keys
from planner.exchange.tools import hf, hf_file, launch
from planner.exchange.writing import Written, WrittenRun, launcher, unsaid

NAME = "trl"
STACK = "transformers' Trainer on PEFT (stack peft), which TRL builds on"
RECOGNISED_BY = (
    frozenset({"model_name_or_path"}),
    frozenset({"per_device_train_batch_size", "use_peft", "max_length", "dtype", "dataset_name", "learning_rate"}),
)

NOT_MODELLED = {
    "activation_offloading": "every activation goes to the host",
    "lora_target_parameters": "adapters on fused expert tensors",
    "lora_layers_to_transform": "adapters on some of the layers",
    "max_grad_value": "clipping by value",
    "beta": "a preference's or a reward's training, with further forward passes",
    "max_prompt_length": "a preference's or a reward's training, with further forward passes",
    "num_generations": "training on generated answers",
    "precompute_ref_log_probs": "a preference's training",
    "spectrum_config_path": "full training of chosen parameters",
}
IDLE = frozenset(
    (
        *(
            "chat_template_path",
            "chat_template",
            "dataset_text_field",
            "dataset_kwargs",
            "dataset_num_proc",
            "eos_token",
        ),
        *("pad_token", "truncation_mode", "shuffle_dataset", "pad_to_multiple_of", "eval_packing", "dataset_config"),
        *("dataset_train_split", "dataset_test_split", "dataset_streaming", "ignore_bias_buffers", "dataset_mixture"),
        *("datasets", "streaming", "test_split_size", "lora_task_type", "model_revision", "bnb_4bit_quant_storage"),
        *(
            "packing_strategy",
            "benchmarks",
            "callbacks",
            "system_prompt",
            "overwrite_hub_revision",
            "push_to_hub_revision",
        ),
        *("wandb_entity", "wandb_project", "wandb_run_group", "token", "config", "subset", "split", "dataset_splits"),
        *(
            "dataset_configs",
            "dataset_weights",
            "dataset_id_or_path",
            "preprocessing_num_workers",
            "completion_only_loss",
        ),
        *("assistant_only_loss", "dataset_name", "tokenizer_name_or_path"),
    )
)
_PEFT_CHOOSES = (
    "peft's choice for Llama, Mistral, Qwen, Gemma; Phi and Nemotron-H get more, other networks must name them"
)
"""peft 0.21 `utils/constants.py`, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING (2026-11)."""


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model, data and the key that divides the run, of TRL's arguments; all else into `keys`."""
    script.literal(keys, IDLE | hf.IDLE)
    model = keys.text("model_name_or_path")
    if model is not None:
        keys.note("model_name_or_path", "read", f"model {model}")
    keys.values["stack"] = "peft"
    older = _before_1(keys)
    keys.refuse_where_set(NOT_MODELLED)
    _method(keys, older)
    length = keys.whole("max_length") or keys.whole("max_seq_length")
    keys.put("max_length", length or 1024, ("max_length", "max_seq_length"))
    packed = keys.flag("packing") or keys.flag("padding_free")
    keys.put("padding", "packed" if packed else "longest", ("packing", "padding_free"))
    hf.arguments(keys, rate=2e-5, checkpointing=not older)
    _formats(keys, older)
    word = keys.text("attn_implementation")
    if word is not None and word.strip().lower() not in hf.ATTENTIONS:
        raise keys.refuse("attn_implementation", f"modelled are {', '.join(sorted(hf.ATTENTIONS))}")
    keys.put("attention", "sdpa" if word is None else hf.ATTENTIONS[word.strip().lower()], "attn_implementation")
    _loss(keys, older)
    hf.what_is_learned(keys)
    if (devices := keys.whole("num_processes")) is not None:
        keys.put("num_gpus", devices, "num_processes")
    several = _several(keys)
    mixture = keys.content.get("dataset_mixer")
    data = keys.text("dataset_name") or (next(iter(mixture), None) if isinstance(mixture, dict) else None)
    if data is not None:
        keys.note(
            "dataset_name" if keys.has("dataset_name") else "dataset_mixer", "assumed", "every row of full length"
        )
    keys.finish(IDLE | hf.IDLE, hf.PREFIXES)
    return model, data, several


def _before_1(keys: Keys) -> bool:
    """Whether names stand there that went away before TRL 1: its defaults were others."""
    gone = [
        name
        for name in ("max_seq_length", "torch_dtype", "dataset_mixer", "preprocessing_num_workers", "use_liger")
        if keys.has(name)
    ]
    if gone:
        keys.note(gone[0], "assumed", "a name of TRL before 1.0, so its defaults of then")
    return bool(gone)


def _method(keys: Keys, older: bool) -> None:
    double = keys.flag("use_bnb_nested_quant")
    found = hf.quantization(keys, double=bool(double))
    if keys.has("use_bnb_nested_quant"):
        keys.note("use_bnb_nested_quant", "read", "on" if double else "off")
    if (kind := keys.text("bnb_4bit_quant_type")) is not None and kind.lower() != "nf4":
        raise keys.refuse("bnb_4bit_quant_type", "modelled is nf4")
    keys.idle("bnb_4bit_quant_type")
    if not keys.flag("use_peft"):
        if found is not None:
            raise keys.refuse(
                "load_in_4bit" if found != "int8" else "load_in_8bit", "quantised weights without adapters"
            )
        keys.put("method", "full", "use_peft")
        keys.idle("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_modules_to_save", "use_dora")
        keys.idle("use_rslora")
        return
    keys.put("method", "lora" if found is None else "qlora", "use_peft")
    hf.adapters(
        keys, {name: name for name in ("lora_r", "lora_alpha", "lora_dropout")}, rank=16, alpha=32, dropout=0.05
    )
    hf.targets(keys, "lora_target_modules", default=("q_proj", "v_proj"), why=_PEFT_CHOOSES)
    if (saved := keys.names("lora_modules_to_save")) is not None:
        keys.put("modules_to_save", saved, "lora_modules_to_save")
    hf.variant(keys, "use_dora", "use_rslora")
    # Over quantised weights TRL takes the adapters to bf16.
    keys.put("adapter_dtype", "fp32" if found is None else "bf16", "use_peft", why="as TRL's trainer makes them")
    if found is not None:
        keys.put("kbit_preparation", "norms" if older else "none", "use_peft", why="as TRL's trainer prepares them")


def _formats(keys: Keys, older: bool) -> None:
    names = ("dtype", "torch_dtype")
    word = keys.text("dtype") or keys.text("torch_dtype")
    if word is not None and word.lower() not in hf.DTYPES:
        raise keys.refuse("dtype" if keys.has("dtype") else "torch_dtype", f"modelled are {', '.join(hf.DTYPES)}")
    weights = "fp32" if word is None else hf.DTYPES[word.lower()]
    if word is not None and word.lower() == "auto":
        keys.note(
            "dtype" if keys.has("dtype") else "torch_dtype", "assumed", "auto: weights in bf16, as most are published"
        )
    half, brain = keys.flag("fp16"), keys.flag("bf16")
    if brain is None:
        brain = not half and not older
    autocast = "bf16" if brain else "fp16" if half else None
    by = (*(name for name in names if keys.has(name)), *(name for name in ("bf16", "fp16") if keys.has(name)))
    hf.number_format(
        keys, weights=weights, autocast=autocast, by=by or ("dtype", "bf16"), quantized=keys.values["method"] == "qlora"
    )


def _loss(keys: Keys, older: bool) -> None:
    kind = (keys.text("loss_type") or "nll").lower()
    if kind not in ("nll", "chunked_nll"):
        raise keys.refuse("loss_type", "modelled is nll")
    switch = "use_liger" if keys.has("use_liger") and not keys.has("use_liger_kernel") else "use_liger_kernel"
    if hf.liger(keys, switch):
        keys.put("loss", "full", switch, why="Liger's own, which never holds the whole logits")
        keys.idle("loss_type")
        return
    why = "whole logits, before TRL 1.0" if older else "TRL 1 never holds the whole logits"
    keys.put("loss", "full" if older and kind == "nll" else "chunked", "loss_type", why=why)


def _several(keys: Keys) -> str | None:
    named: object = keys.raw("deepspeed")
    if isinstance(named, str) and named.strip():
        launch.deepspeed_at(keys, "deepspeed", named)
        return "deepspeed"
    if named:
        raise keys.refuse("deepspeed", "a mapping in its place; name a file")
    if keys.has("fsdp"):
        words = str(keys.raw("fsdp")).lower()
        if "offload" in words:
            raise keys.refuse("fsdp", "weights in host memory")
        keys.put("strategy", "fsdp", "fsdp")
        if isinstance(keys.content.get("fsdp_config"), dict):
            launch.fully_sharded(keys.sub("fsdp_config"))
        keys.idle("fsdp_config")
        return "fsdp"
    keys.idle("fsdp_config")
    return None


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(run: WrittenRun) -> Written:
    """The plan as the file of `trl sft`."""
    choices, h = run.choices, run.hyperparameters
    found, said = hf_file.written_arguments(choices, h)
    content: dict[str, object] = {"model_name_or_path": run.model, "output_dir": "./out"}
    out = Written(main="trl.yaml", content=content, start="trl sft --config trl.yaml", not_said=said)
    _written_data(run, content, out)
    content["max_length"] = choices.max_length
    content["packing"] = choices.padding == "packed"
    if choices.padding == "max":
        out.drop("padding max: rows are padded to the longest of a batch")
    # transformers 5 takes a share as `warmup_steps`.
    if (share := found.pop("warmup_ratio", None)) is not None:
        found["warmup_steps"] = share
    content |= found
    content |= _written_formats(choices)
    content["attn_implementation"] = {"flash": "flash_attention_2"}.get(choices.attention, choices.attention)
    if h.group_by_length:
        content["train_sampling_strategy"] = "group_by_length"
    content["use_peft"] = choices.method != "full"
    if choices.method != "full":
        content |= {
            "lora_r": choices.lora_r,
            "lora_alpha": max(1, round(choices.lora_alpha)),
            "lora_dropout": choices.lora_dropout,
            "lora_target_modules": list(run.targets()),
        }
        if choices.lora_alpha % 1:
            out.drop(f"lora_alpha {choices.lora_alpha:g}: a whole number there")
        if choices.modules_to_save:
            content["lora_modules_to_save"] = list(choices.modules_to_save)
        if choices.lora_variant != "lora":
            content["use_dora" if choices.lora_variant == "dora" else "use_rslora"] = True
    if choices.method == "qlora":
        content["load_in_8bit" if choices.quantization == "int8" else "load_in_4bit"] = True
        if choices.quantization == "nf4-double":
            content["use_bnb_nested_quant"] = True
    if choices.checkpoint_offload:
        out.drop("checkpoint_offload: saved inputs stay on the device")
    if choices.liger:
        content["use_liger_kernel"] = True
        if choices.liger_kernels != LIGER_KERNELS:
            content["liger_kernel_config"] = {name: name in choices.liger_kernels for name in LIGER_KERNELS}
    elif choices.loss == "full":
        out.drop("loss full: TRL never holds the whole logits")
    launcher(run, out)
    if out.launcher is not None:
        out.start = "trl sft --config trl.yaml --accelerate_config accelerate.yaml"
    unsaid(run, out, liger=True)
    return out


def _written_data(run: WrittenRun, content: dict[str, object], out: Written) -> None:
    kinds = {"csv": "csv", "parquet": "parquet", "tsv": "csv"}
    path = run.data.path or "data.jsonl"
    if "." in path.rpartition("/")[2]:
        content["datasets"] = [
            {"path": kinds.get(path.rpartition(".")[2], "json"), "data_files": path, "split": "train"}
        ]
    else:
        content["dataset_name"] = path
    learns_all = run.hyperparameters.train_on_prompt
    if run.shape == "text":
        out.drop("data of shape text: its column must be called text") if run.data.columns else None
    elif run.shape == "prompt-completion":
        content["completion_only_loss"] = not learns_all
        out.drop("a chat template around plain prompts and completions: TRL joins them as they are, tuneplan as turns")
    elif run.shape == "messages":
        content["assistant_only_loss"] = not learns_all
    else:
        content["assistant_only_loss"] = not learns_all
        out.drop(f"data of shape {run.shape}: TRL reads messages or prompt and completion; rename the columns first")


def _written_formats(choices: TrainingChoices) -> dict[str, object]:
    precision = choices.precision
    if precision == "fp32":
        return {"dtype": "float32", "bf16": False}
    if precision.startswith("fp16"):
        weights = "float32" if precision == "fp16-mixed" else "float16"
        return {"dtype": weights, "bf16": False, "fp16": True}
    if precision == "bf16-mixed":
        return {"dtype": "float32", "bf16": True}
    plain = precision == "bf16" and choices.method == "full"
    return {"dtype": "bfloat16", "bf16": not plain}
