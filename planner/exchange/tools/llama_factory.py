"""LLaMA-Factory's YAML. Keys and defaults: llamafactory 0.9.5, `hparams/` (pypi.org/project/llamafactory, 2026-11)."""

from __future__ import annotations

import json

from planner.contract.choices import LIGER_KERNELS, TrainingChoices
from planner.exchange.keys import Keys
from planner.exchange.tools import hf, hf_file, launch
from planner.exchange.writing import Written, WrittenRun, launcher, unsaid

NAME = "llama-factory"
STACK = "transformers' Trainer on PEFT (stack peft), which LLaMA-Factory builds on"
RECOGNISED_BY = (
    frozenset({"model_name_or_path"}),
    frozenset({"finetuning_type", "cutoff_len", "stage", "lora_rank", "template"}),
)

NOT_MODELLED = {
    "use_unsloth": "Unsloth's own kernels; name its script instead",
    "use_galore": "GaLore's low-rank states",
    "use_apollo": "APOLLO's low-rank states",
    "use_badam": "blocks that are trained in turn",
    "use_adam_mini": "Adam-mini's states",
    "use_muon": "Muon's states",
    "use_llama_pro": "added blocks",
    "use_mca": "Megatron's trainer",
    "use_distributed_optimizer": "Megatron's trainer",
    "use_kt": "experts in host memory",
    "use_hyper_parallel": "tensors divided over devices",
    "mixture_of_depths": "layers that skip tokens",
    "shift_attn": "shifted sparse attention",
    "fp8": "the buffers of 8-bit arithmetic",
    "neftune_noise_alpha": "noise on the embeddings keeps another copy of them",
    "freeze_language_model": "training of other parts than the language model",
    "use_dft_loss": "another loss",
    "use_asft_loss": "another loss",
    "use_eaft_loss": "another loss",
    "enable_torch_profiler": "the profiler's own memory",
}
IDLE = frozenset(
    (
        *(
            "adapter_name_or_path",
            "adapter_folder",
            "cache_dir",
            "use_fast_tokenizer",
            "split_special_tokens",
            "template",
        ),
        *("dataset_dir", "media_dir", "dataset", "eval_dataset", "val_size", "max_samples", "overwrite_cache"),
        *("preprocessing_num_workers", "preprocessing_batch_size", "streaming", "buffer_size", "mix_strategy"),
        *("interleave_probs", "mask_history", "ignore_pad_token_for_loss", "tool_format", "default_system"),
        *(
            "enable_thinking",
            "preserve_thinking",
            "tokenized_path",
            "low_cpu_mem_usage",
            "offload_folder",
            "use_kv_cache",
        ),
        *("infer_backend", "infer_dtype", "print_param_status", "quantization_device_map", "pissa_init", "pissa_iter"),
        *("pissa_convert", "create_new_adapter", "loraplus_lr_ratio", "loraplus_lr_embedding", "freeze_vision_tower"),
        *("freeze_multi_modal_projector", "compute_accuracy", "disable_shuffling"),
        *("include_effective_tokens_per_second", "ray_num_workers", "ray_init_kwargs", "hf_hub_token", "ms_hub_token"),
        *("eval_num_beams", "predict_with_generate", "eval_on_each_dataset", "data_shared_file_system", "resize_vocab"),
        *("image_min_pixels", "video_min_pixels", "video_fps", "video_maxlen"),
        *(
            "fp8_backend",
            "fp8_enable_fsdp_float8_all_gather",
            "early_stopping_steps",
            "moe_aux_loss_coef",
            "use_swanlab",
        ),
        *("use_cache", "upcast_lmhead_output", "add_tokens", "add_special_tokens", "new_special_tokens_config"),
        *("export_dir", "rope_scaling"),
    )
)


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model, data and the key that divides the run, of a LLaMA-Factory file; all else into `keys`."""
    model = keys.text("model_name_or_path")
    if model is not None:
        keys.note("model_name_or_path", "read", f"model {model}")
    keys.values["stack"] = "peft"
    _trains(keys)
    stage = (keys.text("stage") or "sft").lower()
    if stage not in ("sft", "pt"):
        raise keys.refuse("stage", "modelled are sft and pt: other stages keep a second model or forward pass")
    keys.note("stage", "read", stage) if keys.has("stage") else None
    keys.refuse_where_set(NOT_MODELLED)
    _images(keys)
    _method(keys)
    keys.put("max_length", keys.whole("cutoff_len") or 2048, "cutoff_len")
    packed = keys.flag("packing") or keys.flag("neat_packing")
    if keys.raw("packing") is None and stage == "pt":
        packed = True
    keys.put("padding", "packed" if packed else "longest", ("packing", "neat_packing"))
    hf.arguments(keys)
    _checkpointing(keys)
    _formats(keys)
    keys.put("attention", _attention(keys), "flash_attn")
    fused = hf.liger(keys, "enable_liger_kernel")
    fused = hf.liger(keys, "use_liger_kernel") or fused
    keys.put("loss", "full", "enable_liger_kernel", why="" if fused else "stock loss over whole logits")
    keys.put("train_on_prompt", bool(keys.flag("train_on_prompt")) or stage == "pt", "train_on_prompt")
    several = None
    named = keys.raw("deepspeed")
    if isinstance(named, str) and named.strip():
        several = "deepspeed"
        launch.deepspeed_at(keys, "deepspeed", named)
        _with_zero3(keys)
    elif named:
        raise keys.refuse("deepspeed", "a mapping in its place; name a file")
    if keys.has("fsdp"):
        several = "fsdp"
        words = (keys.text("fsdp") or "").split()
        if "offload" in words:
            raise keys.refuse("fsdp", "weights in host memory")
        keys.put("strategy", "fsdp", "fsdp")
    launch.fully_sharded(keys.sub("fsdp_config")) if isinstance(keys.content.get("fsdp_config"), dict) else None
    keys.idle("fsdp_config", "fsdp_transformer_layer_cls_to_wrap")
    data = keys.text("dataset")
    if data is not None:
        keys.note("dataset", "assumed", "every row of full length; --data FILE counts your own")
    keys.finish(IDLE | hf.IDLE, (*hf.PREFIXES, "vllm_", "sglang_", "export_", "profiler_", "generation_", "kt_"))
    return model, data, several


def _images(keys: Keys) -> None:
    """A frozen tower of images is left out of the figure, which is said; a trained one is refused."""
    if keys.flag("freeze_vision_tower") is False:
        raise keys.refuse("freeze_vision_tower", "training of the tower of images")
    for name in ("image_max_pixels", "video_max_pixels"):
        if keys.has(name):
            keys.note(name, "assumed", "the text alone: neither weights nor forward of the tower of images are counted")


def _trains(keys: Keys) -> None:
    """Files of its other commands have the same keys and describe no training."""
    others = [name for name in ("do_predict", "export_dir", "infer_backend") if keys.content.get(name)]
    if others and not keys.flag("do_train"):
        raise keys.wrong(others[0], "says that nothing is trained here (do_train is not set)")


def _method(keys: Keys) -> None:
    kind = (keys.text("finetuning_type") or "lora").lower()
    bits = keys.whole("quantization_bit")
    if kind == "full":
        keys.put("method", "full", "finetuning_type")
        return
    if kind != "lora":
        raise keys.refuse("finetuning_type", "modelled are lora and full")
    if bits is not None:
        _quantized(keys, bits)
    keys.put("method", "lora" if bits is None else "qlora", "finetuning_type")
    hf.adapters(
        keys,
        {"lora_r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"},
        rank=8,
        alpha=None,
        dropout=0.0,
    )
    hf.targets(keys, "lora_target", default=("all-linear",), every=("all", "all-linear"))
    if (saved := keys.names("additional_target")) is not None:
        keys.put("modules_to_save", saved, "additional_target")
    hf.variant(keys, "use_dora", "use_rslora")
    keys.put("adapter_dtype", "bf16" if keys.flag("pure_bf16") else "fp32", "pure_bf16")


def _quantized(keys: Keys, bits: int) -> None:
    method = (keys.text("quantization_method") or "bnb").lower()
    if method not in ("bnb", "bitsandbytes"):
        raise keys.refuse("quantization_method", "modelled is bnb (bitsandbytes)")
    keys.note("quantization_method", "read", "bitsandbytes") if keys.has("quantization_method") else None
    if bits not in (4, 8):
        raise keys.refuse("quantization_bit", "modelled are 4 and 8")
    if (keys.text("quantization_type") or "nf4").lower() != "nf4":
        raise keys.refuse("quantization_type", "modelled is nf4")
    keys.idle("quantization_type")
    double = keys.flag("double_quantization")
    if bits == 4:
        keys.put(
            "quantization", "nf4" if double is False else "nf4-double", ("quantization_bit", "double_quantization")
        )
    else:
        keys.put("quantization", "int8", "quantization_bit")
        keys.idle("double_quantization")
    raised = keys.flag("upcast_layernorm")
    keys.put("kbit_preparation", "norms" if raised else "none", "upcast_layernorm")


def _checkpointing(keys: Keys) -> None:
    """Its own switch, on unless it is switched off; transformers' is overridden by it."""
    off = keys.flag("disable_gradient_checkpointing")
    reentrant = keys.flag("use_reentrant_gc")
    keys.put("gradient_checkpointing", not off, "disable_gradient_checkpointing")
    if not off:
        keys.put("checkpoint_reentrant", reentrant is not False, "use_reentrant_gc")
    else:
        keys.idle("use_reentrant_gc")
    if keys.flag("use_unsloth_gc"):
        keys.put("checkpoint_offload", True, "use_unsloth_gc")


def _formats(keys: Keys) -> None:
    full, quantized = keys.values["method"] == "full", keys.values["method"] == "qlora"
    names = ("pure_bf16", "bf16", "fp16")
    on = {name: bool(keys.flag(name)) for name in names}
    for name in names:
        if keys.has(name) and not on[name]:
            keys.note(name, "read", "off")
    if on["pure_bf16"]:
        keys.put("precision", "bf16", "pure_bf16")
        keys.idle("bf16", "fp16")
        return
    kind = "bf16" if on["bf16"] else "fp16" if on["fp16"] else None
    if kind is None:
        keys.put("precision", "fp32" if full else "bf16", ("bf16", "fp16"), why="no number format in the file")
        return
    # What is trained is raised to fp32, all of it in full training.
    hf.number_format(keys, weights="fp32" if full else kind, autocast=kind, by=(kind,), quantized=quantized)
    if full:
        keys.note(kind, "assumed", "trained weights are raised to fp32, unless pure_bf16")


def _with_zero3(keys: Keys) -> None:
    """Under ZeRO-3 nothing is raised: DeepSpeed keeps the fp32 copy itself."""
    if keys.values.get("strategy") == "zero3" and keys.values["precision"].endswith("-mixed"):
        kind = keys.values["precision"].removesuffix("-mixed")
        keys.put("precision", kind, kind, why="under ZeRO-3 the weights stay as they were loaded")


def _attention(keys: Keys) -> str:
    table = {"auto": "sdpa", "sdpa": "sdpa", "disabled": "eager", "eager": "eager", "fa2": "flash", "fa3": "flash"}
    word = keys.text("flash_attn")
    if word is not None and word.lower() not in table:
        raise keys.refuse("flash_attn", f"modelled are {', '.join(table)}")
    return table[(word or "auto").lower()]


# ---- writing ---------------------------------------------------------------------------------------------------------

_COLUMNS: dict[str, dict[str, object]] = {
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "sharegpt": {"formatting": "sharegpt"},
    "alpaca": {"formatting": "alpaca"},
    "prompt-completion": {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}},
    "text": {"formatting": "alpaca", "columns": {"prompt": "text"}},
}


def write(run: WrittenRun) -> Written:
    """The plan as a LLaMA-Factory file, with the entry of its data set beside it."""
    choices, h = run.choices, run.hyperparameters
    found, said = hf_file.written_arguments(choices, h)
    content: dict[str, object] = {
        "model_name_or_path": run.model,
        "stage": "pt" if run.shape == "text" else "sft",
        "do_train": True,
        "dataset": "plan",
        "dataset_dir": ".",
        "template": "default",
        "cutoff_len": choices.max_length,
        "packing": choices.padding == "packed",
        "train_on_prompt": h.train_on_prompt and run.shape != "text",
        "val_size": run.data.validation_split,
        "output_dir": "./out",
    }
    out = Written(
        main="llama-factory.yaml", content=content, start="llamafactory-cli train llama-factory.yaml", not_said=said
    )
    if not content["val_size"]:
        del content["val_size"]
    out.drop("template default: name the chat template of the model (qwen3, llama3, …)")
    _written_method(run, content, out)
    for name in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
        found.pop(name, None)
    content |= found
    content["disable_gradient_checkpointing"] = not choices.gradient_checkpointing
    if choices.gradient_checkpointing:
        content["use_reentrant_gc"] = choices.checkpoint_reentrant
    if choices.checkpoint_offload and choices.gradient_checkpointing:
        content["use_unsloth_gc"] = True
    content["flash_attn"] = {"flash": "fa2", "eager": "disabled"}.get(choices.attention, choices.attention)
    _written_formats(choices, content, out)
    if choices.loss == "chunked":
        out.drop("loss chunked: whole logits there")
    if choices.liger:
        content["enable_liger_kernel"] = True
        if choices.liger_kernels != LIGER_KERNELS:
            out.drop(f"liger_kernels {', '.join(choices.liger_kernels)}: all of them run there")
    if choices.padding == "max":
        out.drop("padding max: rows are padded to the longest of a batch")
    further = {"file_name": run.data.path or "data.jsonl", **_COLUMNS.get(run.shape, _COLUMNS["messages"])}
    out.further["dataset_info.json"] = json.dumps({"plan": further}, indent=2) + "\n"
    launcher(run, out)
    if out.launcher is not None:
        out.start = "accelerate launch --config_file accelerate.yaml -m llamafactory.train llama-factory.yaml"
    unsaid(run, out, validates=True, liger=True)
    return out


def _written_method(run: WrittenRun, content: dict[str, object], out: Written) -> None:
    choices = run.choices
    if choices.method == "full":
        content["finetuning_type"] = "full"
        return
    content |= {
        "finetuning_type": "lora",
        "lora_rank": choices.lora_r,
        "lora_alpha": max(1, round(choices.lora_alpha)),
        "lora_dropout": choices.lora_dropout,
        "lora_target": "all" if run.every_linear else ",".join(run.targets()),
    }
    if choices.lora_alpha % 1:
        out.drop(f"lora_alpha {choices.lora_alpha:g}: a whole number there")
    if choices.modules_to_save:
        content["additional_target"] = ",".join(choices.modules_to_save)
    if choices.lora_variant != "lora":
        content["use_dora" if choices.lora_variant == "dora" else "use_rslora"] = True
    if choices.method == "qlora":
        content["quantization_method"] = "bnb"
        content["quantization_bit"] = 8 if choices.quantization == "int8" else 4
        if choices.quantization != "int8":
            content["double_quantization"] = choices.quantization == "nf4-double"
        if choices.kbit_prepared == "norms":
            content["upcast_layernorm"] = True


def _written_formats(choices: TrainingChoices, content: dict[str, object], out: Written) -> None:
    if choices.precision == "fp32":
        if choices.method != "full":
            out.drop("precision fp32: the base is loaded in the format it was published in")
    elif (choices.precision == "bf16" and choices.method == "full") or choices.adapter_dtype == "bf16":
        content["pure_bf16"] = True
    else:
        content["fp16" if choices.precision.startswith("fp16") else "bf16"] = True
