"""LitGPT's YAML for `finetune_lora` and `finetune_full`.

Keys and defaults: litgpt 0.5.13, `args.py`, `finetune/lora.py`, `finetune/full.py` (pypi.org/project/litgpt, 2026-11).
Its models are its own; the figure is that of transformers' on stack peft, which is what comes
nearest: the same weights, adapters, optimizer and saved activations. LitGPT ties no embeddings, which adds a head's
bytes to small models. Held against the peaks that its own examples publish in docs/exchange.md.
"""

from __future__ import annotations

from typing import Any

from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from planner.exchange.keys import Keys
from planner.exchange.targets import ALIKE, in_words_of
from planner.exchange.writing import Written, WrittenRun, unsaid

NAME = "litgpt"
STACK = "the nearest that is modelled for LitGPT's own network: stack peft"
RECOGNISED_BY = (frozenset({"checkpoint_dir"}), frozenset({"train", "precision", "lora_r", "out_dir"}))

PRECISIONS = {
    "bf16-true": "bf16",
    "16-true": "fp16",
    "32-true": "fp32",
    "bf16-mixed": "bf16-mixed",
    "16-mixed": "fp16-mixed",
}
QUANTIZATIONS = {"bnb.nf4": "nf4", "bnb.nf4-dq": "nf4-double", "bnb.int8-training": "int8"}
ROLES = {
    "lora_query": ("q_proj",),
    "lora_key": ("k_proj",),
    "lora_value": ("v_proj",),
    "lora_projection": ("o_proj",),
    "lora_mlp": ("gate_proj", "up_proj", "down_proj"),
    "lora_head": ("lm_head",),
}
"""Its switches in Llama's names; `targets.in_words_of` finds what a model calls them."""
_DEFAULT_ROLES = {"lora_query": True, "lora_value": True}
OPTIMIZERS = {"adamw": ("adamw", "foreach"), "sgd": ("sgd", "foreach")}
IDLE = ("out_dir", "data", "eval", "log", "logger_name", "access_token", "resume", "num_nodes", "seed")


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model, data and the key that divides the run, of a LitGPT file; all else into `keys`."""
    model = _model(keys)
    keys.values["stack"] = "peft"
    lora = any(name in keys.content for name in ("lora_r", "lora_alpha", *ROLES))
    kind = keys.text("quantize")
    if kind is not None and kind not in QUANTIZATIONS:
        raise keys.refuse("quantize", f"modelled are {', '.join(QUANTIZATIONS)}")
    if lora:
        _adapters(keys, kind)
    else:
        keys.put("method", "full", "lora_r", why="no lora_ key in the file")
        keys.idle("quantize")
    devices = _devices(keys)
    _batch(keys, devices)
    word = keys.text("precision")
    if word is not None and word not in PRECISIONS:
        raise keys.refuse("precision", f"modelled are {', '.join(PRECISIONS)}")
    precision = PRECISIONS[word or "bf16-true"]
    keys.put("precision", precision, "precision")
    if lora:
        keys.put("adapter_dtype", "bf16" if precision == "bf16" else "fp32", "precision")
    _optimizer(keys)
    keys.put("gradient_checkpointing", devices > 1, "devices", why="LitGPT recomputes on several devices only")
    keys.put("loss", "full", "train", why="its pieces of logits are all kept until the loss is there")
    keys.put("attention", "sdpa", "attention", why="its network uses PyTorch's")
    keys.put("padding", "longest", "data", why="rows padded to the longest of a batch")
    data = keys.sub("data")
    masked = data.sub("init_args").flag("mask_prompt")
    if masked is not None:
        keys.hyperparameters["train_on_prompt"] = not masked
    if (seed := keys.whole("seed", least=0)) is not None and seed < 2**32:
        keys.put("seed", seed, "seed")
    if (nodes := keys.whole("num_nodes")) is not None and nodes > 1:
        raise keys.refuse("num_nodes", "several machines")
    name = data.text("class_path")
    keys.finish(IDLE)
    return model, name, None


def _model(keys: Keys) -> str | None:
    """`checkpoints/meta-llama/Llama-3.2-1B` holds the hub's id in its last two parts."""
    folder = keys.text("checkpoint_dir")
    if folder is None:
        return None
    parts = [part for part in folder.replace("\\", "/").split("/") if part not in ("", ".", "checkpoints")]
    model = "/".join(parts[-2:]) if parts else folder
    keys.note("checkpoint_dir", "read", f"model {model}")
    return model


def _adapters(keys: Keys, kind: str | None) -> None:
    if kind is not None:
        keys.put("quantization", QUANTIZATIONS[kind], "quantize")
        keys.put("kbit_preparation", "none", "quantize")
        keys.no_figure = (
            f"{keys.place('quantize')}: quantize: LitGPT's quantised layers keep a fifth to a third more than those "
            "that are modelled (by the peaks that its config_hub prints), so there is no figure"
        )
    keys.put("method", "lora" if kind is None else "qlora", ("lora_r", "quantize"))
    keys.put("lora_r", keys.whole("lora_r") or 8, "lora_r")
    alpha = keys.number("lora_alpha")
    keys.put("lora_alpha", 16.0 if alpha is None else alpha, "lora_alpha")
    share = keys.number("lora_dropout")
    keys.put("lora_dropout", 0.05 if share is None else share, "lora_dropout")
    found: list[str] = []
    on: list[str] = []
    for name, leaves in ROLES.items():
        said = keys.flag(name)
        if _DEFAULT_ROLES.get(name, False) if said is None else said:
            found += leaves
            on.append(name)
        elif said is False:
            keys.note(name, "read", "off")
    if not found:
        raise keys.wrong("lora_query", "is off like all the others: there is nothing to train")
    every = ("lora_query", "lora_key", "lora_value", "lora_projection", "lora_mlp")
    keys.put("lora_targets", ("all-linear",) if tuple(on) == every else tuple(found), on)


def _devices(keys: Keys) -> int:
    word = keys.text("devices")
    if word is not None and not word.isdecimal():
        raise keys.wrong("devices", f"is {word[:40]!r}: how many that are isn't in the file; write a number")
    devices = keys.whole("devices") or 1
    if word is not None and devices > 1:
        keys.put("num_gpus", devices, "devices")
        keys.values["strategy"] = "fsdp"
    return devices


def _batch(keys: Keys, devices: int) -> None:
    train = keys.sub("train")
    size = train.whole("micro_batch_size") or 1
    whole = train.whole("global_batch_size") or 16
    train.put("batch_size", size, "micro_batch_size")
    train.put("gradient_accumulation_steps", max(1, whole // devices // size), "global_batch_size")
    length = train.whole("max_seq_length")
    train.put(
        "max_length", length or 1024, "max_seq_length", why="" if length else "the file has none: the data's decide"
    )
    keys.values["max_grad_norm"] = 0.0
    if train.number("max_norm") is not None:
        train.note("max_norm", "assumed", "nothing is clipped: LitGPT's fine-tuning refuses this key")
    if (epochs := train.number("epochs")) is not None and epochs > 0:
        train.put("epochs", epochs, "epochs")
    if (steps := train.whole("max_steps")) is not None:
        train.put("max_steps", steps, "max_steps")
    warm = train.whole("lr_warmup_steps", least=0)
    train.put("warmup_steps", 100 if warm is None else warm, "lr_warmup_steps")
    keys.hyperparameters.update(scheduler="cosine", min_learning_rate_ratio=0.0)  # min_lr is pretraining's alone
    train.idle(
        "min_lr", "save_interval", "log_interval", "max_tokens", "tie_embeddings", "max_time", "lr_warmup_fraction"
    )
    train.finish()


def _optimizer(keys: Keys) -> None:
    value = keys.raw("optimizer")
    below = keys.sub("optimizer") if isinstance(value, dict) else None
    path = below.text("class_path") if below is not None else keys.text("optimizer")
    name = (path or "AdamW").rpartition(".")[2].lower()
    holder = below if below is not None else keys
    if name not in OPTIMIZERS:
        raise holder.refuse("class_path" if below is not None else "optimizer", f"modelled are {', '.join(OPTIMIZERS)}")
    kind, way = OPTIMIZERS[name]
    holder.put("optimizer", kind, "class_path" if below is not None else "optimizer")
    holder.values["optimizer_implementation"] = way
    if below is None:
        return
    arguments = below.sub("init_args")
    if (rate := arguments.number("lr")) is not None and 0 < rate <= 1e3:
        arguments.put("learning_rate", rate, "lr")
    if (decay := arguments.number("weight_decay")) is not None:
        arguments.put("weight_decay", decay, "weight_decay")
    betas = arguments.raw("betas")
    if isinstance(betas, list) and len(betas) == 2:
        arguments.note("betas", "read", "beta1, beta2")
        arguments.hyperparameters.update(beta1=betas[0], beta2=betas[1])
    if (least := arguments.number("eps")) is not None:
        arguments.put("epsilon", least, "eps")
    arguments.finish()
    below.finish()


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(run: WrittenRun) -> Written:
    """The plan as the file of `litgpt finetune_lora` or `finetune_full`."""
    choices, h = run.choices, run.hyperparameters
    full = choices.method == "full"
    command = "finetune_full" if full else "finetune_lora"
    content: dict[str, object] = {"checkpoint_dir": f"checkpoints/{run.model.strip('/')}", "out_dir": "out"}
    out = Written(main="litgpt.yaml", content=content, start=f"litgpt {command} --config litgpt.yaml")
    out.drop(f"the weights in LitGPT's own format: litgpt download {run.model}")
    names = {value: name for name, value in PRECISIONS.items()}
    content["precision"] = names.get(choices.precision, "bf16-true")
    if choices.precision not in names:
        out.drop(f"precision {choices.precision}: bf16-true there")
    content["devices"] = choices.num_gpus
    if choices.num_gpus > 1 and choices.strategy != "fsdp":
        out.drop(f"strategy {choices.strategy}: LitGPT shards (FSDP)")
    if not full:
        _written_adapters(run, content, out)
    content["data"] = {
        "class_path": "litgpt.data.JSON",
        "init_args": {
            "json_path": run.data.path or "data.json",
            "mask_prompt": not h.train_on_prompt,
            "val_split_fraction": run.data.validation_split,
            "seed": h.seed,
        },
    }
    out.drop("the model's chat template: prompts are in Alpaca's form there (data.init_args.prompt_style)")
    if run.shape != "alpaca":
        out.drop(f"data of shape {run.shape}: LitGPT's JSON holds instruction, input and output")
    _written_training(run, content, out)
    if choices.gradient_checkpointing is (choices.num_gpus == 1):
        out.drop("gradient_checkpointing: LitGPT recomputes on several devices only")
    content["optimizer"] = _written_optimizer(run)
    content["seed"] = h.seed
    for what, there in (("loss", "full"), ("padding", "longest")):
        if getattr(choices, what) != there:
            out.drop(f"{what} {getattr(choices, what)}: {there} there")
    unsaid(run, out, validates=True)
    return out


def _written_training(run: WrittenRun, content: dict[str, Any], out: Written) -> None:
    choices, h = run.choices, run.hyperparameters
    content["train"] = {
        "global_batch_size": choices.effective_batch_size,
        "micro_batch_size": choices.batch_size,
        "lr_warmup_steps": _warm_up(h, out),
        "epochs": max(1, round(h.epochs)),
        "max_seq_length": choices.max_length,
    }
    if h.max_steps is not None:
        # LitGPT ends with the first of both; no run has more epochs than steps.
        content["train"] |= {"max_steps": h.max_steps, "epochs": max(content["train"]["epochs"], h.max_steps)}
        out.drop("epochs: so many that max_steps alone ends the run, as in the plan")
    elif h.epochs % 1:
        out.drop(f"epochs {h.epochs:g}: a whole number there")
    if choices.max_grad_norm:
        out.drop(f"max_grad_norm {choices.max_grad_norm:g}: LitGPT's fine-tuning clips nothing, and refuses the key")
    if h.scheduler != "cosine":
        out.drop(f"scheduler {h.scheduler}: LitGPT's is cosine")


def _warm_up(h: Hyperparameters, out: Written) -> int:
    """Steps of warm-up: at least one, by which LitGPT divides, and fewer than all, as its cosine needs one."""
    steps = h.warmup_steps
    if steps is None:
        steps = round(h.warmup_ratio * (h.max_steps or 0))
        if h.max_steps is None and h.warmup_ratio:
            out.drop(f"warmup_ratio {h.warmup_ratio:g}: set lr_warmup_steps to that share of the steps")
    if steps == 0:
        out.drop("no warm-up: one step there, the least that LitGPT takes; its rate is 0")
    return max(1, min(steps, (h.max_steps or steps + 1) - 1))


def _written_optimizer(run: WrittenRun) -> dict[str, object]:
    choices, h = run.choices, run.hyperparameters
    if choices.optimizer not in ("adamw", "sgd"):
        raise InvalidInput(f"--to litgpt: optimizer {choices.optimizer} has no class that its file can name; use adamw")
    arguments: dict[str, object] = {"lr": h.learning_rate, "weight_decay": h.weight_decay}
    if choices.optimizer == "adamw":
        arguments |= {"betas": [h.beta1, h.beta2], "eps": h.epsilon}
    name = "AdamW" if choices.optimizer == "adamw" else "SGD"
    return {"class_path": f"torch.optim.{name}", "init_args": arguments}


def _written_adapters(run: WrittenRun, content: dict[str, object], out: Written) -> None:
    choices = run.choices
    if choices.method == "qlora":
        kinds = {value: name for name, value in QUANTIZATIONS.items()}
        content["quantize"] = kinds[choices.quantization]
    content |= {
        "lora_r": choices.lora_r,
        "lora_alpha": max(1, round(choices.lora_alpha)),
        "lora_dropout": choices.lora_dropout,
    }
    if choices.lora_variant != "lora":
        raise InvalidInput(f"--to litgpt: it has no {choices.lora_variant}; plan lora_variant lora")
    if choices.modules_to_save:
        raise InvalidInput("--to litgpt: it trains no modules in full beside adapters; plan without modules_to_save")
    on = set(ROLES) - {"lora_head"} if run.every_linear else roles_of(run.targets())
    for name in ROLES:
        content[name] = name in on
    parts = tuple(part for name in ROLES if name in on for part in ROLES[name])
    if not run.every_linear and set(in_words_of(run.spec, parts)) != set(run.targets()):
        raise InvalidInput(f"--to litgpt: it has no switch for just the targets {', '.join(run.targets())}")


def roles_of(leaves: tuple[str, ...]) -> set[str]:
    """The switches whose parts these names are."""
    return {name for name, parts in ROLES.items() if any(leaf in ALIKE[part] for part in parts for leaf in leaves)}
