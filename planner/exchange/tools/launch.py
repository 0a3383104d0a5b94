"""Configs of the launchers beside a tool's file: accelerate's YAML and DeepSpeed's JSON.

They say how the run is divided over devices. Keys: accelerate 1.15 `commands/config`, DeepSpeed 0.19
`runtime/config.py` (2026-11).
"""

from __future__ import annotations

import re
from pathlib import Path

from planner.contract.errors import InvalidInput
from planner.contract.yaml_text import Document, parse
from planner.exchange.keys import Keys

MAX_BYTES = 1024**2
STRATEGIES = {1: None, 2: "zero2", 3: "zero3"}
_STAGE = re.compile(r"(?:zero|z|stage)[_-]?([0-3])(?!\d)", re.IGNORECASE)
_ACCELERATE_IDLE = frozenset(
    (
        *("compute_environment", "debug", "machine_rank", "main_training_function", "num_machines", "rdzv_backend"),
        *("same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo", "use_cpu", "main_process_ip", "gpu_ids"),
        *(
            "main_process_port",
            "enable_cpu_affinity",
            "fp8_config",
            "downcast_bf16",
            "deepspeed_hostfile",
        ),
    )
)
COMPILED = "a compiled step keeps other tensors; switch it off to ask about the plain one"
FSDP_IDLE = frozenset(
    (
        *("auto_wrap_policy", "transformer_layer_cls_to_wrap", "state_dict_type", "final_state_dict_type"),
        *("sync_module_states", "use_orig_params", "cpu_ram_efficient_loading", "backward_prefetch", "version"),
        *("forward_prefetch", "limit_all_gathers", "min_num_params", "cpu_offload_pin_memory", "xla", "sharded_ddp"),
        *("backward_prefetch_policy", "mixed_precision_policy"),
    )
)


def accelerate(document: Document, keys: Keys) -> str | None:
    """Takes an accelerate config into the account of `keys`; returns the mixed precision that it sets."""
    own = Keys(document, document.value, "accelerate")
    own.values, own.hyperparameters, own.notes = keys.values, keys.hyperparameters, keys.notes
    kind = (own.text("distributed_type") or "NO").upper()
    devices = own.whole("num_processes") or 1
    own.put("num_gpus", devices, "num_processes")
    own.note("distributed_type", "read", kind)
    if kind == "DEEPSPEED":
        _accelerate_deepspeed(own)
    elif kind == "FSDP":
        fully_sharded(own.sub("fsdp_config"))
        own.values["strategy"] = "fsdp"
    elif kind in ("NO", "MULTI_GPU"):
        own.idle("deepspeed_config", "fsdp_config")
        own.values["strategy"] = "ddp"
    else:
        raise own.refuse("distributed_type", "modelled are NO, MULTI_GPU, FSDP and DEEPSPEED")
    below = own.sub("parallelism_config")
    below.refuse_where_set(
        {name: "the run is divided in another way" for name in below.content if name.endswith("_size")}
    )
    below.finish(idle=below.content)
    mixed = (own.text("mixed_precision") or "no").lower()
    own.note("mixed_precision", "read", mixed)
    _no_compiling(own)
    own.finish(_ACCELERATE_IDLE)
    return mixed if mixed in ("bf16", "fp16") else None


def _no_compiling(own: Keys) -> None:
    """Refuses torch.compile, which accelerate's `dynamo_config` (older: `dynamo_backend`) may switch on."""
    below = own.sub("dynamo_config")
    for keys, name in ((own, "dynamo_backend"), (below, "dynamo_backend"), (below, "backend")):
        if str(keys.raw(name) or "no").lower() not in ("no", "none"):
            raise keys.refuse(name, COMPILED)
    below.finish(idle=below.content)


def _accelerate_deepspeed(own: Keys) -> None:
    below = own.sub("deepspeed_config")
    if (named := below.text("deepspeed_config_file")) is not None:
        deepspeed_at(below, "deepspeed_config_file", named)
    stage = below.whole("zero_stage", least=0)
    if stage is not None:
        _stage(below, "zero_stage", stage)
    _no_offload(below, "offload_optimizer_device")
    _no_offload(below, "offload_param_device")
    if (steps := below.raw("gradient_accumulation_steps")) not in (None, "auto"):
        below.put("gradient_accumulation_steps", steps, "gradient_accumulation_steps")
    below.idle("zero3_init_flag", "zero3_save_16bit_model", "gradient_clipping", "deepspeed_multinode_launcher")
    below.idle("deepspeed_moe_layer_cls_names", "gradient_accumulation_steps")
    below.finish()
    own.idle("fsdp_config")


def _stage(keys: Keys, name: str, stage: int) -> None:
    if stage not in STRATEGIES or (STRATEGIES[stage] is None and stage):
        raise keys.refuse(name, "modelled are ZeRO stages 2 and 3")
    keys.put("strategy", STRATEGIES.get(stage) or "ddp", name)


def _no_offload(keys: Keys, name: str) -> None:
    device = keys.raw(name)
    if isinstance(device, str) and device.lower() not in ("none", "null", ""):
        raise keys.refuse(name, "state in host memory or on a disk")
    if device is not None:
        keys.note(name, "read", "off")


def fully_sharded(keys: Keys) -> None:
    """An FSDP mapping, with or without the `fsdp_` before its keys."""
    for name in list(keys.content):
        short = name.removeprefix("fsdp_")
        value = keys.content[name]
        if value is None:
            continue
        if short in ("offload_params", "activation_cpu_offload"):
            keys.refuse_where_set({name: "weights in host memory"})
        elif short == "activation_checkpointing":
            if keys.flag(name):
                keys.put("gradient_checkpointing", True, name)
            else:
                keys.note(name, "read", "off")
        elif short == "sharding_strategy":
            if str(value).upper() not in ("FULL_SHARD", "1"):
                raise keys.refuse(name, "modelled is FULL_SHARD")
            keys.note(name, "read", "strategy fsdp")
        elif short == "reshard_after_forward":
            if str(value).lower() not in ("true", "full_shard"):
                raise keys.refuse(name, "modelled are shards that are given back after forward")
            keys.note(name, "read", "strategy fsdp")
        elif short in FSDP_IDLE:
            keys.idle(name)
    keys.finish()


def deepspeed_at(keys: Keys, name: str, named: str) -> None:
    """A DeepSpeed config that a tool's file names: read where it is there, else its stage by its name."""
    beside = Path(keys.document.where).parent
    for path in (beside / named, Path(named)):
        if path.is_file():
            deepspeed(_open(path), keys, name)
            return
    found = _STAGE.search(Path(named).name)
    if found is None:
        raise InvalidInput(f"{keys.place(name)}: {name}: there is no {named[:120]} here; name the file that it means")
    if "offload" in named.lower():
        raise keys.refuse(name, "state in host memory, by the file's name")
    _stage(keys, name, int(found[1]))
    keys.note(name, "assumed", f"ZeRO stage {found[1]} by the file's name, which is not here")


def _open(path: Path) -> Document:
    from planner.contract import text_file

    return parse(text_file.read(path, str(path), max_bytes=MAX_BYTES, links=False), str(path), kind="JSON")


def deepspeed(document: Document, keys: Keys, name: str) -> None:
    """Takes a DeepSpeed config into the account of `keys`."""
    if not isinstance(document.value, dict):
        raise InvalidInput(f"{document.where}: holds no mapping, but a DeepSpeed config is one")
    own = Keys(document, document.value, "DeepSpeed")
    own.values, own.hyperparameters, own.notes = keys.values, keys.hyperparameters, keys.notes
    zero = own.sub("zero_optimization")
    stage = zero.whole("stage", least=0) or 0
    _stage(zero, "stage", stage)
    for part in ("offload_optimizer", "offload_param"):
        below = zero.sub(part)
        _no_offload(below, "device")
        below.finish(below.content)
    zero.refuse_where_set({"cpu_offload": "state in host memory", "zero_quantized_weights": "quantised shards"})
    for size in ("reduce_bucket_size", "allgather_bucket_size", "stage3_max_live_parameters"):
        if zero.raw(size) not in (None, "auto"):
            zero.note(size, "assumed", "buckets of 50 M elements, as tuneplan's trainer sets them")
    zero.finish(idle=zero.content)
    if (size := own.raw("train_micro_batch_size_per_gpu")) not in (None, "auto"):
        own.put("batch_size", own.whole("train_micro_batch_size_per_gpu") or size, "train_micro_batch_size_per_gpu")
    if own.raw("gradient_accumulation_steps") not in (None, "auto"):
        own.put("gradient_accumulation_steps", own.whole("gradient_accumulation_steps"), "gradient_accumulation_steps")
    own.sub("activation_checkpointing").finish(idle=own.sub("activation_checkpointing").content)
    for part in ("tensor_parallel", "autotp"):
        if own.content.get(part):
            raise own.refuse(part, "tensors divided over devices")
    compiled = own.sub("compile")
    compiled.refuse_where_set({"deepcompile": COMPILED, "enabled": COMPILED})
    compiled.finish(idle=compiled.content)
    own.finish(idle=own.content)
    keys.note(name, "read", f"DeepSpeed config, ZeRO stage {stage}")


def beside(documents: list[Document], keys: Keys) -> str | None:
    """The launcher configs that were named beside the tool's file; returns the mixed precision that one sets."""
    mixed = None
    for document in documents:
        if "distributed_type" in document.value or "compute_environment" in document.value:
            mixed = accelerate(document, keys) or mixed
        else:
            deepspeed(document, keys, "zero_optimization")
    return mixed
