"""A plan as Axolotl's YAML; the keys are those of `axolotl`, which reads them."""

from __future__ import annotations

from planner.contract.choices import TrainingChoices
from planner.exchange.tools import hf_file
from planner.exchange.writing import Written, WrittenRun, launcher, unsaid

WRITTEN_LIGER = {
    "rope": "liger_rope",
    "rms_norm": "liger_rms_norm",
    "swiglu": "liger_glu_activation",
    "fused_linear_cross_entropy": "liger_fused_linear_cross_entropy",
}
RENAMED = {
    "per_device_train_batch_size": "micro_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "optim": "optimizer",
    "lr_scheduler_type": "lr_scheduler",
    "num_train_epochs": "num_epochs",
}
"""transformers' `TrainingArguments` that have another name there."""
_DATA: dict[str, dict[str, object]] = {
    "messages": {"type": "chat_template", "field_messages": "messages"},
    "sharegpt": {
        "type": "chat_template",
        "field_messages": "conversations",
        "message_property_mappings": {"role": "from", "content": "value"},
    },
    "alpaca": {"type": "alpaca"},
    "text": {"type": "completion", "field": "text"},
    "prompt-completion": {
        "type": {
            "field_instruction": "prompt",
            "field_output": "completion",
            "format": "{instruction}",
            "no_input_format": "{instruction}",
        }
    },
}


def write(run: WrittenRun) -> Written:
    """The plan as an Axolotl file."""
    choices, h = run.choices, run.hyperparameters
    found, said = hf_file.written_arguments(choices, h)
    content: dict[str, object] = {"base_model": run.model, "strict": False, "output_dir": "./out"}
    out = Written(main="axolotl.yaml", content=content, start="axolotl train axolotl.yaml", not_said=said)
    path = run.data.path or "data.jsonl"
    data = {"path": path, **_DATA.get(run.shape, _DATA["messages"])}
    if run.data.path is None or "." in path.rpartition("/")[2]:
        data["ds_type"] = {"csv": "csv", "parquet": "parquet"}.get(path.rpartition(".")[2], "json")
    content |= {"datasets": [data], "val_set_size": run.data.validation_split, "train_on_inputs": h.train_on_prompt}
    content |= {
        "sequence_len": choices.max_length,
        "sample_packing": choices.padding == "packed",
        "pad_to_sequence_len": choices.padding == "max",
        **{RENAMED.get(name, name): value for name, value in found.items()},
        "group_by_length": h.group_by_length and choices.padding != "packed",
        "attn_implementation": {"flash": "flash_attention_2"}.get(choices.attention, choices.attention),
    }
    if choices.checkpoint_offload and choices.gradient_checkpointing:
        content["gradient_checkpointing"] = "offload"
        content.pop("gradient_checkpointing_kwargs", None)
    if choices.loss == "chunked":
        content["chunked_cross_entropy"] = True
    if choices.liger:
        content["plugins"] = ["axolotl.integrations.liger.LigerPlugin"]
        content |= {WRITTEN_LIGER[name]: True for name in choices.liger_kernels}
    content |= _written_formats(choices, out)
    if choices.method != "full":
        content |= _written_adapters(run, out)
    if choices.padding == "packed" and choices.attention != "flash":
        out.drop(f"attention {choices.attention}: packed rows need flash attention there")
        content["attn_implementation"] = "flash_attention_2"
    launcher(run, out)
    if out.launcher is not None:
        out.start = "accelerate launch --config_file accelerate.yaml -m axolotl.cli.train axolotl.yaml"
    unsaid(run, out, validates=True, liger=True)
    return out


def _written_formats(choices: TrainingChoices, out: Written) -> dict[str, object]:
    precision = choices.precision
    if precision == "fp32":
        return {"bf16": False, "float32": True}
    if precision.startswith("fp16"):
        return {"bf16": False, "fp16": True}
    if precision == "bf16" and choices.method == "full":
        return {"bf16": False, "bfloat16": True}
    if precision == "bf16-mixed":
        out.drop("precision bf16-mixed: weights are in bf16 there, under autocast")
    return {"bf16": True}


def _written_adapters(run: WrittenRun, out: Written) -> dict[str, object]:
    choices = run.choices
    content: dict[str, object] = {
        "adapter": "qlora" if choices.method == "qlora" and choices.quantization != "int8" else "lora",
        "lora_r": choices.lora_r,
        "lora_alpha": choices.lora_alpha if choices.lora_alpha % 1 else int(choices.lora_alpha),
        "lora_dropout": choices.lora_dropout,
    }
    if choices.lora_alpha % 1:
        content["lora_alpha"] = max(1, round(choices.lora_alpha))
        out.drop(f"lora_alpha {choices.lora_alpha:g}: a whole number there")
    if run.every_linear:
        content["lora_target_linear"] = True
    else:
        content["lora_target_modules"] = list(run.targets())
    if choices.modules_to_save:
        content["lora_modules_to_save"] = list(choices.modules_to_save)
    if choices.lora_variant != "lora":
        content["peft_use_dora" if choices.lora_variant == "dora" else "peft_use_rslora"] = True
    if choices.adapter_dtype == "bf16":
        content["peft_autocast_adapter_dtype"] = False
    if choices.method == "qlora":
        content["load_in_8bit" if choices.quantization == "int8" else "load_in_4bit"] = True
        if choices.quantization == "nf4":
            content["bnb_config_kwargs"] = {"bnb_4bit_use_double_quant": False}
    return content
