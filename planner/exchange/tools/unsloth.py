"""Unsloth's scripts and notebooks: the calls in their syntax tree are read, and nothing of them is run.

Names and defaults: unsloth 2026.10.9, `models/loader.py`, `models/llama.py` (pypi.org/project/unsloth, 2026-11). Its
kernels are its own; the figure is that of stack builtin with the loss in pieces, which keeps what Unsloth keeps: inputs
of layers (in host memory under its own checkpointing), no whole logits, fp32 adapters.
"""

from __future__ import annotations

import re

from planner.contract.errors import InvalidInput
from planner.exchange import script
from planner.exchange.keys import Keys
from planner.exchange.script import Unreadable
from planner.exchange.tools import hf, hf_file
from planner.exchange.writing import Written, WrittenRun, one_device, unsaid

NAME = "unsloth"
STACK = "the nearest that is modelled for Unsloth's own kernels: stack builtin with the loss in pieces"
RECOGNISED_BY = (frozenset({"from_pretrained"}), frozenset[str]())

DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_OF_MODEL_IDLE = (
    "token",
    "device_map",
    "trust_remote_code",
    "revision",
    "fix_tokenizer",
    "use_exact_model_name",
    "cache_dir",
    "unsloth_force_compile",
    "float32_mixed_precision",
)
_OF_TRAINING_IDLE = {"dataset_text_field", "dataset_num_proc", "dataset_kwargs", "embedding_learning_rate"}
_OF_ADAPTER_IDLE = ("bias", "random_state", "max_seq_length", "loftq_config", "init_lora_weights", "model", "task_type")


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model and nothing that divides the run, of a script's calls; all else into `keys`."""
    loading = _literal(keys.sub("from_pretrained"))
    attaching = _literal(keys.sub("get_peft_model"))
    training = _literal(keys.sub("SFTConfig"))
    trainer = keys.sub("SFTTrainer")
    _only_text(loading, attaching, trainer)
    trainer = _literal(trainer)
    keys.values["stack"] = "builtin"
    model = loading.text("model_name")
    if model is not None:
        loading.note("model_name", "read", f"model {model}")
    _method(keys, loading, attaching)
    length = training.whole("max_length") or training.whole("max_seq_length") or trainer.whole("max_seq_length")
    of_model = loading.whole("max_seq_length")
    holder = training if length else loading
    holder.put(
        "max_length", length or of_model or 2048, ("max_length", "max_seq_length") if length else "max_seq_length"
    )
    loading.idle("max_seq_length")
    trainer.idle("max_seq_length")
    packed = training.flag("packing") or trainer.flag("packing") or training.flag("padding_free")
    training.put("padding", "packed" if packed else "longest", ("packing", "padding_free"))
    training.idle("gradient_checkpointing", "bf16", "fp16")
    if (kind := training.text("loss_type")) is not None and kind != "nll":
        raise training.refuse("loss_type", "modelled is nll")
    training.idle("loss_type")
    hf.arguments(training)
    hf.what_is_learned(training)
    _checkpointing(keys, loading, attaching)
    _loaded_as(loading)
    word = loading.text("dtype")
    if word is not None and word.lower() not in hf.DTYPES:
        raise loading.refuse("dtype", f"modelled are {', '.join(hf.DTYPES)}")
    loading.put(
        "precision", hf.DTYPES[(word or "auto").lower()], "dtype", why="" if word else "bf16 where the card has it"
    )
    keys.put("loss", "chunked", "loss", why="Unsloth's fused loss never holds the whole logits")
    loading.refuse_where_set(
        {
            "load_in_fp8": "8-bit float weights",
            "fast_inference": "vLLM beside the training",
            "unsloth_tiled_mlp": "a feed-forward layer in tiles",
            "qat_scheme": "fake quantisation",
        }
    )
    loading.finish(_OF_MODEL_IDLE)
    attaching.finish(_OF_ADAPTER_IDLE)
    training.finish(hf.IDLE | _OF_TRAINING_IDLE, hf.PREFIXES)
    trainer.finish(trainer.content)
    keys.finish()
    return model, None, None


def _literal(below: Keys) -> Keys:
    return script.literal(below, _COMPUTED_IDLE)


_COMPUTED_IDLE = frozenset(
    {
        *("model", "tokenizer", "processing_class", "train_dataset", "eval_dataset", "args", "token"),
        *("data_collator", "formatting_func", "callbacks", "compute_metrics", "peft_config", "auto_model"),
    }
)
"""Arguments that are always computed and hold no setting."""


def _only_text(loading: Keys, attaching: Keys, trainer: Keys) -> None:
    """Refuses what trains or feeds a tower of images or sound: the planned step is that of text."""
    collator = trainer.content.get("data_collator")
    named = collator.call if isinstance(collator, Unreadable) else ""
    if re.search("vision|image|audio|speech|ocr", named, re.IGNORECASE):
        raise trainer.refuse("data_collator", "images or sound in the batch; plan the text alone without the key")
    attaching.refuse_where_set(
        {
            "finetune_vision_layers": "adapters in the tower of images; switch it off to ask about the text's",
            "finetune_audio_layers": "adapters in the tower of sound; switch it off to ask about the text's",
        }
    )
    if attaching.flag("finetune_language_layers") is False:
        raise attaching.refuse("finetune_language_layers", "adapters outside of the text's layers alone")
    attaching.note("finetune_language_layers", "read", "on") if attaching.has("finetune_language_layers") else None


def _loaded_as(loading: Keys) -> None:
    """Ways of loading beside the number format."""
    word = loading.text("attn_implementation")
    if word is not None and word.lower() not in hf.ATTENTIONS:
        raise loading.refuse("attn_implementation", f"modelled are {', '.join(sorted(hf.ATTENTIONS))}")
    found = "sdpa" if word is None else hf.ATTENTIONS[word.lower()]
    why = "" if word else "flash or memory-efficient: neither keeps the scores"
    loading.put("attention", found, "attn_implementation", why=why)
    if loading.has("offload_embedding"):
        on = loading.flag("offload_embedding")
        text = "the embeddings stay on the device here, which holds no less" if on else "off"
        loading.note("offload_embedding", "assumed" if on else "read", text)
    loading.refuse_where_set(dict.fromkeys(("num_labels", "id2label", "label2id"), "a classifier's head"))


def _method(keys: Keys, loading: Keys, attaching: Keys) -> None:
    full = loading.flag("full_finetuning")
    attaching.refuse_where_set({"qat_scheme": "fake quantisation"})
    if full:
        loading.put("method", "full", "full_finetuning")
        loading.idle("load_in_4bit", "load_in_8bit", "load_in_16bit")
        attaching.idle(*attaching.content)
        return
    if loading.has("full_finetuning"):
        loading.note("full_finetuning", "read", "off")
    if (
        loading.content.get("load_in_4bit") is None
        and not loading.flag("load_in_8bit")
        and not loading.flag("load_in_16bit")
    ):
        loading.put("quantization", "nf4-double", "load_in_4bit")
        found: str | None = "nf4-double"
    else:
        found = hf.quantization(loading, double=True)
    loading.idle("load_in_16bit")
    keys.values["method"] = "lora" if found is None else "qlora"
    hf.adapters(
        attaching,
        {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"},
        rank=16,
        alpha=16,
        dropout=0.0,
    )
    hf.targets(attaching, "target_modules", default=_default_targets(attaching), every=("all-linear",))
    if (saved := attaching.names("modules_to_save")) is not None:
        attaching.put("modules_to_save", saved, "modules_to_save")
    attaching.refuse_where_set(
        {
            "layers_to_transform": "adapters on some of the layers",
            "target_parameters": "adapters on fused expert tensors",
        }
    )
    attaching.put("lora_variant", "rslora" if attaching.flag("use_rslora") else "lora", "use_rslora")


def _default_targets(attaching: Keys) -> tuple[str, ...]:
    """Where the modules aren't named: attention, the feed-forward part, or both by their switches."""
    found: tuple[str, ...] = ()
    for name, leaves in (
        ("finetune_attention_modules", DEFAULT_TARGETS[:4]),
        ("finetune_mlp_modules", DEFAULT_TARGETS[4:]),
    ):
        on = attaching.flag(name)
        if attaching.has(name):
            attaching.note(name, "read", "on" if on else "off")
        found += () if on is False else leaves
    if not found and attaching.names("target_modules") is None:
        raise attaching.wrong("finetune_mlp_modules", "is off like the attention's: there is nothing to train")
    return found


def _checkpointing(keys: Keys, loading: Keys, attaching: Keys) -> None:
    name = "use_gradient_checkpointing"
    holder = attaching if attaching.has(name) or not loading.has(name) else loading
    value = holder.raw(name)
    on = value not in (False, "False", "false")
    own = value in (None, "unsloth")
    holder.put("gradient_checkpointing", on, name)
    holder.put(
        "checkpoint_offload", bool(on and own), name, why="Unsloth's way keeps inputs in host memory" if own else ""
    )
    loading.idle(name)


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(run: WrittenRun) -> Written:
    """The plan as a script."""
    one_device(run, NAME)
    choices, h = run.choices, run.hyperparameters
    found, said = hf_file.written_arguments(choices, h)
    full = choices.method == "full"
    loading: dict[str, object] = {
        "model_name": run.model,
        "max_seq_length": choices.max_length,
        "dtype": None,
        "load_in_4bit": choices.method == "qlora" and choices.quantization != "int8",
        "load_in_8bit": choices.method == "qlora" and choices.quantization == "int8",
        "full_finetuning": full,
    }
    out = Written(main="train_unsloth.py", content="", start="python train_unsloth.py", not_said=said)
    precision = choices.precision.partition("-")[0]
    loading["dtype"] = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}[precision]
    way: bool | str = choices.gradient_checkpointing
    if choices.gradient_checkpointing and choices.checkpoint_offload:
        way = "unsloth"
    if full:
        loading["use_gradient_checkpointing"] = way
    if choices.lora_variant == "dora":
        raise InvalidInput("--to unsloth: it has no DoRA; plan lora_variant lora")
    for name in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
        found.pop(name, None)
    if (share := found.pop("warmup_ratio", None)) is not None:
        found["warmup_steps"] = share
    found |= {"max_length": choices.max_length, "packing": choices.padding == "packed", "output_dir": "out"}
    for name, there in (("loss", "chunked"), ("quantization", "nf4-double")):
        if getattr(choices, name) != there and (
            name == "loss" or (choices.method == "qlora" and choices.quantization == "nf4")
        ):
            out.drop(f"{name} {getattr(choices, name)}: {there} there")
    if not h.train_on_prompt and run.shape in ("messages", "sharegpt"):
        found["assistant_only_loss"] = True
    elif run.shape == "prompt-completion":
        found["completion_only_loss"] = not h.train_on_prompt
    unsaid(run, out)
    out.content = _script(run, loading, None if full else _written_adapters(run, way), found)
    return out


def _written_adapters(run: WrittenRun, way: bool | str) -> dict[str, object]:
    choices = run.choices
    found: dict[str, object] = {
        "r": choices.lora_r,
        "target_modules": "all-linear" if run.every_linear else list(run.targets()),
        "lora_alpha": choices.lora_alpha if choices.lora_alpha % 1 else int(choices.lora_alpha),
        "lora_dropout": choices.lora_dropout,
        "bias": "none",
        "use_gradient_checkpointing": way,
        "use_rslora": choices.lora_variant == "rslora",
        "random_state": run.hyperparameters.seed,
    }
    if choices.modules_to_save:
        found["modules_to_save"] = list(choices.modules_to_save)
    return found


def _script(
    run: WrittenRun, loading: dict[str, object], adapters: dict[str, object] | None, training: dict[str, object]
) -> str:
    path = run.data.path or "data.jsonl"
    kind = {"csv": "csv", "parquet": "parquet"}.get(path.rpartition(".")[2], "json")
    local = "." in path.rpartition("/")[2]
    source = f"{kind!r}, data_files={path!r}, split='train'" if local else f"{path!r}, split='train'"
    lines = ["from unsloth import FastLanguageModel", "import torch", "from datasets import load_dataset"]
    lines += ["from trl import SFTConfig, SFTTrainer", ""]
    lines += ["model, tokenizer = FastLanguageModel.from_pretrained(", *_arguments(loading), ")"]
    if adapters is not None:
        lines += ["model = FastLanguageModel.get_peft_model(", "    model,", *_arguments(adapters), ")"]
    lines += [f"dataset = load_dataset({source})", "trainer = SFTTrainer(", "    model=model,"]
    lines += ["    processing_class=tokenizer,", "    train_dataset=dataset,", "    args=SFTConfig("]
    lines += [f"    {line}" for line in _arguments(training)]
    lines += [
        "    ),",
        ")",
        "trainer.train()",
        "model.save_pretrained('adapter')",
        "tokenizer.save_pretrained('adapter')",
    ]
    return "\n".join(lines) + "\n"


def _arguments(values: dict[str, object]) -> list[str]:
    """Keywords as Python; every value stands as a literal, but for torch's dtypes."""
    return [
        f"    {name}={value if name == 'dtype' and value is not None else repr(value)},"
        for name, value in values.items()
    ]
