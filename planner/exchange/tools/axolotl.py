"""Axolotl's YAML. Keys and defaults: axolotl 0.19.0, `utils/schemas/` (pypi.org/project/axolotl, 2026-11)."""

from __future__ import annotations

from planner.exchange.keys import Keys
from planner.exchange.tools import hf, launch

NAME = "axolotl"
STACK = "transformers' Trainer on PEFT (stack peft), which Axolotl builds on; its own fused LoRA kernels are not in it"
RECOGNISED_BY = (frozenset({"base_model"}), frozenset({"micro_batch_size", "sequence_len", "datasets", "adapter"}))

NOT_MODELLED = {
    "rl": "preference training keeps a second forward pass; plan its supervised part without the key",
    "reward_model": "a reward model's loss",
    "process_reward_model": "a reward model's loss",
    "relora": "adapters that are merged while training",
    "gptq": "GPTQ weights",
    "qat": "fake quantisation keeps further copies of the weights",
    "torch_compile": "a compiled step keeps other tensors; switch it off to ask about the plain one",
    "deepcompile": "a compiled step keeps other tensors; switch it off to ask about the plain one",
    "fp8": "the buffers of 8-bit arithmetic",
    "neftune_noise_alpha": "noise on the embeddings keeps another copy of them",
    "noisy_embedding_alpha": "noise on the embeddings keeps another copy of them",
    "unfrozen_parameters": "full training of chosen parameters",
    "lora_target_parameters": "adapters on fused expert tensors",
    "quantize_moe_experts": "quantised expert tensors",
    "peft_layers_to_transform": "adapters on some of the layers",
    "lora_rank_pattern": "ranks that differ by module",
    "peft_layer_replication": "layers that are repeated",
    "peft_trainable_token_indices": "single rows of the embeddings",
    "lisa_n_layers": "layers that are trained in turn",
    "tiled_mlp": "a feed-forward layer in tiles",
    "layer_offloading": "weights in host memory",
    "lora_on_cpu": "adapters in host memory",
    "selective_checkpointing": "recomputing some operators only",
    "tensor_parallel_size": "tensors divided over devices",
    "context_parallel_size": "sequences divided over devices",
    "sequence_parallel_degree": "sequences divided over devices",
    "expert_parallel_size": "experts divided over devices",
    "fsdp_offload": "weights in host memory",
    "model_quantization_config": "weights in another quantised format",
    "use_onebitllms": "1-bit weights",
    "diffusion": "another loss",
    "ebft": "another loss",
    "use_eaft": "another loss",
    "llmcompressor": "sparse weights",
    "use_pose": "positions that are skipped",
    "s2_attention": "shifted sparse attention",
    "auto_find_batch_size": "the batch is then found by trying",
}
IDLE = frozenset(
    (
        *("base_model_config", "model_type", "tokenizer_type", "tokenizer_config", "tokenizer_use_fast", "strict"),
        *("tokenizer_legacy", "tokenizer_use_mistral_common", "processor_type", "dataset_prepared_path", "plugins"),
        *("chat_template", "chat_template_jinja", "chat_template_kwargs", "eot_tokens", "special_tokens", "tokens"),
        *("default_system_message", "lora_model_dir", "hf_use_auth_token", "revision_of_model", "push_dataset_to_hub"),
        *("saves_per_epoch", "evals_per_epoch", "eval_table_size", "eval_max_new_tokens", "loss_watchdog_threshold"),
        *("loss_watchdog_patience", "debug", "shuffle_merged_datasets", "local_rank", "low_cpu_mem_usage", "ddp"),
        *("auto_resume_from_checkpoints", "is_llama_derived_model", "is_mistral_derived_model", "torchdistx_path"),
        *("is_falcon_derived_model", "is_qwen_derived_model", "lora_fan_in_fan_out", "val_set_size", "test_datasets"),
        *("skip_prepare_dataset", "dataset_processes", "min_sample_len", "sample_packing_eff_est", "total_num_tokens"),
        *("dataset_exact_deduplication", "eval_sample_packing", "train_on_inputs", "resize_token_embeddings_to_32x"),
        *(
            "embeddings_skip_upcast",
            "experimental_skip_move_to_device",
            "gptq_groupsize",
            "gptq_model_v1",
            "device_map",
        ),
        *(
            "use_tensorboard",
            "use_wandb",
            "use_mlflow",
            "use_otel_metrics",
            "lr_quadratic_warmup",
            "excess_length_strategy",
        ),
        *("cosine_constant_lr_ratio", "adam_eps", "curriculum_sampling", "sample_packing_sequentially", "hub_model_id"),
        *("sample_packing_bin_size", "sample_packing_group_size", "sample_packing_seq_len_multiplier", "flash_optimum"),
        *("freeze_mm_modules", "reinit_weights", "merge_lora", "eta_min", "early_stopping_patience"),
        *("model_config", "overrides_of_model_config", "save_first_step", "save_strategy", "datasets", "num_labels"),
        *("gc_steps", "gc_collect_steps", "peft_init_lora_weights", "loraplus_lr_ratio", "loraplus_lr_embedding"),
        *("flex_attn_compile_kwargs", "remove_unused_columns", "dataset_num_proc", "streaming", "use_kernels"),
        *(
            "pretraining_dataset",
            "streaming_multipack_buffer_size",
            "base_model_ignore_patterns",
            "use_ray",
            "use_swanlab",
            "do_causal_lm_eval",
            "eval_causal_lm_metrics",
            "llama4_linearized_experts",
        ),
    )
)
_OF_ADAPTERS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_linear", "lora_modules_to_save"),
    *("peft_use_dora", "peft_use_rslora", "peft_autocast_adapter_dtype", "peft"),
)
_LIGER = {
    "liger_rope": "rope",
    "liger_rms_norm": "rms_norm",
    "liger_glu_activation": "swiglu",
    "liger_swiglu": "swiglu",
    "liger_fused_linear_cross_entropy": "fused_linear_cross_entropy",
}
"""Switch -> Liger's own name (integrations/liger/plugin.py, read 2026-11)."""
_FURTHER_LIGER = ("liger_layer_norm", "liger_rms_norm_gated", "liger_cross_entropy", "liger_use_token_scaling")
_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "flash_attn_fuse_mlp")
_FURTHER_KERNELS = (
    *("flash_attn_rms_norm", "flash_attn_cross_entropy", "fused_attn_kernel", "use_scattermoe", "use_sonicmoe"),
    *("experts_implementation", "gemma4_hybrid_attn_impl"),
)


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model, data and the key that divides the run, of an Axolotl file; all else into `keys`."""
    model = keys.text("base_model")
    if model is not None:
        keys.note("base_model", "read", f"model {model}")
    keys.values["stack"] = "peft"
    keys.refuse_where_set(NOT_MODELLED)
    _method(keys)
    keys.put("batch_size", keys.whole("micro_batch_size") or 1, "micro_batch_size")
    keys.put("gradient_accumulation_steps", _accumulation(keys), ("gradient_accumulation_steps", "batch_size"))
    if (evaluated := keys.whole("eval_batch_size")) is not None:
        keys.put("eval_batch_size", evaluated, "eval_batch_size")
    length = keys.whole("sequence_len")
    keys.put("max_length", length or 512, "sequence_len")
    _padding(keys)
    _checkpointing(keys)
    _formats(keys)
    _attention(keys)
    _loss(keys)
    hf.optimizer(keys, "optimizer")
    clip = keys.number("max_grad_norm")
    keys.put("max_grad_norm", 1.0 if clip is None else max(0.0, clip), "max_grad_norm")
    hf.schedule(keys, "learning_rate", "lr_scheduler", default_rate=2e-4, default_kind="cosine")
    if (least := keys.number("cosine_min_lr_ratio")) is not None:
        keys.put("min_learning_rate_ratio", min(1.0, max(0.0, least)), "cosine_min_lr_ratio")
    hf.run_length(keys, epochs="num_epochs", default=1.0)
    hf.pace(keys)
    train_on_inputs = keys.flag("train_on_inputs")
    keys.put("train_on_prompt", bool(train_on_inputs), "train_on_inputs")
    several = _several(keys)
    data = _data(keys)
    keys.finish(IDLE | hf.IDLE, (*hf.PREFIXES, "mlflow_", "gradio_", "ray_", "otel_", "bench_", "dsv4_", "nvfp4_"))
    return model, data, several


def _accumulation(keys: Keys) -> int:
    steps = keys.whole("gradient_accumulation_steps")
    whole = keys.whole("batch_size")
    if steps is None and whole is not None:
        return max(1, whole // int(keys.values["batch_size"]))
    return steps or 1


def _method(keys: Keys) -> None:
    adapter = keys.text("adapter")
    bits = keys.sub("bnb_config_kwargs")
    double = bits.flag("bnb_4bit_use_double_quant")
    bits.finish(idle=bits.content)
    found = hf.quantization(keys, double=True if double is None else double)
    if adapter is None or not adapter.strip():
        if found is not None:
            raise keys.refuse(
                "load_in_4bit" if found != "int8" else "load_in_8bit", "quantised weights without adapters"
            )
        keys.put("method", "full", "adapter", why="no adapter in the file")
        keys.idle(*_OF_ADAPTERS)
        return
    if adapter not in ("lora", "qlora"):
        raise keys.refuse("adapter", "modelled are lora and qlora")
    if adapter == "qlora" and found is None:
        found = "nf4-double"
        keys.put("quantization", found, "load_in_4bit", why="adapter qlora")
    keys.put("method", "lora" if found is None else "qlora", "adapter")
    hf.adapters(
        keys,
        {"lora_r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"},
        rank=8,
        alpha=16,
        dropout=0.0,
    )
    if keys.flag("lora_target_linear"):
        keys.put("lora_targets", ("all-linear",), "lora_target_linear")
        keys.idle("lora_target_modules")
    else:
        keys.idle("lora_target_linear")
        hf.targets(keys, "lora_target_modules", default=("all-linear",), every=("all-linear", "all_linear"))
    if (saved := keys.names("lora_modules_to_save")) is not None:
        keys.put(
            "modules_to_save", tuple(dict.fromkeys(name.rpartition(".")[2] for name in saved)), "lora_modules_to_save"
        )
    hf.variant(keys, "peft_use_dora", "peft_use_rslora")
    lower = keys.flag("peft_autocast_adapter_dtype") is False
    keys.put("adapter_dtype", "bf16" if lower else "fp32", "peft_autocast_adapter_dtype")
    if found is not None:
        # Its loader calls peft's preparation, then takes norms and embeddings back for flash attention.
        keys.put(
            "kbit_preparation", "norms" if keys.flag("embeddings_skip_upcast") else "stock", "embeddings_skip_upcast"
        )


def _padding(keys: Keys) -> None:
    packed, whole = keys.flag("sample_packing"), keys.flag("pad_to_sequence_len")
    flat = keys.raw("batch_flattening")
    if packed or flat:
        keys.put("padding", "packed", ("sample_packing", "batch_flattening"))
        keys.idle("pad_to_sequence_len")
        return
    keys.put("padding", "max" if whole else "longest", ("pad_to_sequence_len", "sample_packing"))


def _checkpointing(keys: Keys) -> None:
    way = keys.raw("gradient_checkpointing")
    offload = keys.raw("activation_offloading")
    if isinstance(way, str) and way.startswith("offload"):
        keys.put("gradient_checkpointing", True, "gradient_checkpointing")
        keys.put("checkpoint_offload", True, "gradient_checkpointing")
        keys.idle("gradient_checkpointing_kwargs")
    else:
        hf.recompute(keys, default=False)
    if offload in (None, False, "false"):
        keys.idle("activation_offloading")
    elif (keys.values["gradient_checkpointing"] and keys.values["method"] == "full") or offload == "hidden_states":
        keys.put("checkpoint_offload", True, "activation_offloading")
    else:
        raise keys.refuse(
            "activation_offloading", "with adapters every activation goes to the host, without recomputing"
        )


def _formats(keys: Keys) -> None:
    quantized = keys.values["method"] == "qlora"
    names = ("bf16", "fp16", "bfloat16", "float16", "float32")
    given = {name: (True if keys.content.get(name) == "auto" else keys.flag(name)) for name in names}
    by = tuple(name for name in names if given[name]) or ("bf16",)
    for name in names:
        if keys.has(name) and name not in by:
            keys.note(name, "read", "off")
    if given["bf16"] or given["bfloat16"]:
        hf.number_format(keys, weights="bf16", autocast="bf16" if given["bf16"] else None, by=by, quantized=quantized)
    elif given["fp16"] or given["float16"]:
        hf.number_format(keys, weights="fp16", autocast="fp16", by=by, quantized=quantized)
    elif given["float32"] or keys.has("bf16"):
        hf.number_format(keys, weights="fp32", autocast=None, by=by, quantized=quantized)
    else:
        keys.put("precision", "bf16-amp", "bf16", why="auto where the file is silent")


def _attention(keys: Keys) -> None:
    word = keys.text("attn_implementation")
    switches = {
        "flash_attention": "flash",
        "sdp_attention": "sdpa",
        "xformers_attention": "sdpa",
        "eager_attention": "eager",
    }
    for name, found in switches.items():
        if keys.flag(name):
            keys.put("attention", found, name)
            keys.idle("attn_implementation")
            return
        keys.idle(name)
    keys.refuse_where_set(
        {
            "flex_attention": "FlexAttention is compiled",
            "sage_attention": "SageAttention",
        }
    )
    if word is not None and word.strip().lower() not in hf.ATTENTIONS:
        raise keys.refuse("attn_implementation", f"modelled are {', '.join(sorted(hf.ATTENTIONS))}")
    packed = keys.values["padding"] == "packed"
    default = "flash" if packed else "sdpa"
    found = default if word is None else hf.ATTENTIONS[word.strip().lower()]
    keys.put("attention", found, "attn_implementation", why="packed rows need it" if word is None and packed else "")


def _loss(keys: Keys) -> None:
    fused = ("cut_cross_entropy", "chunked_cross_entropy")
    on = [name for name in fused if keys.flag(name)]
    kernels = {kernel for name, kernel in _LIGER.items() if keys.flag(name)}
    hf.with_liger(keys, kernels)
    for name in _LIGER:
        if keys.has(name):
            keys.note(name, "read", "on" if keys.flag(name) else "off")
    if "fused_linear_cross_entropy" in kernels:
        keys.put("loss", "full", "liger_fused_linear_cross_entropy", why="Liger's own, in pieces that are never kept")
    elif on:
        keys.put("loss", "chunked", on, why="in pieces that are never kept; the size of a piece is the tool's")
    else:
        keys.put("loss", "full", fused)
    for name in _FURTHER_LIGER:
        if keys.has(name):
            keys.note(name, "assumed" if keys.flag(name) else "read", "plain kernels, which keep no less")
    for name in (*_KERNELS, *_FURTHER_KERNELS):
        if keys.has(name):
            value = keys.raw(name)
            off = value in (False, "false", "eager", "")
            keys.note(name, "read" if off else "assumed", "off" if off else "plain kernels, which keep no less")
    keys.idle("chunked_cross_entropy_num_chunks")


def _several(keys: Keys) -> str | None:
    several = None
    if keys.has("fsdp") or keys.has("fsdp_config"):
        several = "fsdp" if keys.has("fsdp") else "fsdp_config"
        if keys.has("fsdp"):
            words = keys.names("fsdp") or ()
            if "offload" in words:
                raise keys.refuse("fsdp", "weights in host memory")
            keys.note("fsdp", "read", "strategy fsdp")
        launch.fully_sharded(keys.sub("fsdp_config"))
        keys.values["strategy"] = "fsdp"
    keys.idle("fsdp_version", "fsdp_final_state_dict_type")
    named = keys.raw("deepspeed")
    if isinstance(named, str) and named.strip():
        several = "deepspeed"
        launch.deepspeed_at(keys, "deepspeed", named)
    elif named:
        raise keys.refuse("deepspeed", "a mapping in its place; name a file")
    if (shards := keys.whole("dp_shard_size")) is not None and shards > 1:
        keys.put("num_gpus", shards, "dp_shard_size")
    keys.refuse_where_set({"dp_replicate_size": "shards in several groups"} if _more(keys, "dp_replicate_size") else {})
    keys.idle("dp_replicate_size")
    return several


def _more(keys: Keys, name: str) -> bool:
    value = keys.whole(name)
    return value is not None and value > 1


def _data(keys: Keys) -> str | None:
    sets: object = keys.raw("datasets")
    first = sets[0] if isinstance(sets, list) and sets and isinstance(sets[0], dict) else {}
    path = first.get("path")
    if not isinstance(path, str):
        return None
    keys.note("datasets", "assumed", "every row of full length; --data FILE counts your own")
    return path
