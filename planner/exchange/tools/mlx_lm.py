"""mlx-lm's `lora` YAML.

Keys and defaults: mlx-lm 0.32.2, `lora.py`, `tuner/utils.py` (pypi.org/project/mlx-lm, 2026-11).
MLX's own arrays are not modelled; the figure is that of the same step in PyTorch on the same Mac.
"""

from __future__ import annotations

import re

from planner.contract.errors import InvalidInput
from planner.contract.run_settings import Hyperparameters
from planner.exchange.keys import Keys, is_number
from planner.exchange.writing import Written, WrittenRun, one_device, unsaid

NAME = "mlx-lm"
STACK = "the same step in PyTorch (stack peft): MLX's own arrays are not modelled"
RECOGNISED_BY = (
    frozenset({"model"}),
    frozenset({"fine_tune_type", "lora_parameters", "iters", "adapter_path", "num_layers", "grad_checkpoint"}),
)
OPTIMIZERS = {"adam": "adamw", "adamw": "adamw", "sgd": "sgd", "adafactor": "adafactor"}
IDLE = (
    *("train", "test", "test_batches", "val_batches", "steps_per_report", "adapter_path", "resume_adapter_file"),
    *("clear_cache_threshold", "report_to", "project_name", "trust_remote_code", "hf_dataset", "wandb", "config"),
)
_BITS = re.compile(r"-(\d)bit", re.IGNORECASE)
_OF_PATH = re.compile(r"(?:self_attn|mlp|attention|attn)\.([A-Za-z_0-9]+)$")


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model, data and nothing that divides the run, of an mlx-lm file; all else into `keys`."""
    model = keys.text("model")
    keys.values["stack"] = "peft"
    kind = (keys.text("fine_tune_type") or "lora").lower()
    if kind not in ("lora", "dora", "full"):
        raise keys.refuse("fine_tune_type", "lora, dora or full")
    model = _model(keys, model, kind)
    if kind != "full":
        _adapters(keys, kind)
    layers = keys.raw("num_layers")
    if layers is None or str(layers) != "-1":
        given = 16 if layers is None else layers
        if "num_layers" not in keys.content:
            raise keys.wrong(
                "num_layers",
                f"is missing, so the last {given} layers alone are trained, which isn't modelled; "
                "write num_layers: -1 for all",
            )
        raise keys.refuse("num_layers", "training the last layers alone; -1 trains all")
    keys.note("num_layers", "read", "all layers")
    keys.put("batch_size", keys.whole("batch_size") or 4, "batch_size")
    keys.put("gradient_accumulation_steps", keys.whole("grad_accumulation_steps") or 1, "grad_accumulation_steps")
    keys.put("max_length", keys.whole("max_seq_length") or 2048, "max_seq_length")
    keys.put("gradient_checkpointing", bool(keys.flag("grad_checkpoint")), "grad_checkpoint")
    keys.put("optimizer", keys.pick("optimizer", OPTIMIZERS, default="adamw", what="modelled are"), "optimizer")
    keys.values["optimizer_implementation"] = "foreach"
    keys.sub("optimizer_config").finish(idle=keys.sub("optimizer_config").content)
    keys.put("precision", "bf16", "model", why="the format of the published weights")
    keys.put("loss", "full", "loss", why="whole logits")
    keys.put("padding", "longest", "data", why="rows padded to the longest of a batch")
    keys.put("max_grad_norm", 0.0, "max_grad_norm", why="nothing is clipped")
    keys.put("attention", "sdpa", "attention", why="MLX's fused attention")
    keys.put("train_on_prompt", not keys.flag("mask_prompt"), "mask_prompt")
    _schedule(keys)
    data = keys.text("data")
    if data is not None:
        keys.note("data", "assumed", "every row of full length; --data FILE counts your own")
    keys.finish(IDLE)
    return model, data, None


def _model(keys: Keys, model: str | None, kind: str) -> str | None:
    """A quantised conversion (`mlx-community/…-4bit`) is QLoRA over its base."""
    method = "full" if kind == "full" else "lora"
    bits = _BITS.search(model or "")
    if bits and kind != "full":
        if bits[1] not in ("4", "8"):
            raise keys.refuse("model", "weights of 4 or 8 bits are modelled")
        keys.put(
            "quantization", "nf4" if bits[1] == "4" else "int8", "model", why="MLX's own 4.5 and 8.5 bits a weight"
        )
        keys.values["kbit_preparation"] = "none"
        method = "qlora"
    elif bits:
        raise keys.refuse("model", "quantised weights are not trained in full")
    keys.put("method", method, "fine_tune_type")
    if model is not None:
        keys.note("model", "read", f"model {model}")
    return model


def _adapters(keys: Keys, kind: str) -> None:
    below = keys.sub("lora_parameters")
    rank = below.whole("rank") or 8
    below.put("lora_r", rank, "rank")
    scale = below.number("scale")
    if scale is None and (alpha := below.number("alpha")) is not None:
        below.note("alpha", "assumed", "a key of older releases: scale = alpha / rank")
        scale = alpha / rank
    scale = 20.0 if scale is None else scale
    if scale <= 0:
        raise below.wrong("scale", "must lie above 0")
    below.put("lora_alpha", scale * rank, "scale", why="scale × rank")
    share = below.number("dropout")
    below.put("lora_dropout", share or 0.0, "dropout")
    named = below.names("keys")
    if named is None:
        below.put("lora_targets", ("all-linear",), "keys", why="every linear layer of a block")
    else:
        leaves = [found[1] if (found := _OF_PATH.search(name)) else name.rpartition(".")[2] for name in named]
        below.put("lora_targets", tuple(dict.fromkeys(leaves)), "keys")
    below.finish()
    keys.put("lora_variant", kind, "fine_tune_type")
    keys.put("adapter_dtype", "fp32", "lora_parameters", why="MLX makes them in fp32")


def _schedule(keys: Keys) -> None:
    rate = keys.number("learning_rate")
    if rate is not None and not 0 < rate <= 1e3:
        raise keys.wrong("learning_rate", f"must lie above 0, not {rate:g}")
    keys.put("learning_rate", rate or 1e-5, "learning_rate")
    steps = keys.whole("iters") or 1000
    keys.put("max_steps", max(1, steps // keys.values["gradient_accumulation_steps"]), "iters")
    if (seed := keys.whole("seed", least=0)) is not None and seed < 2**32:
        keys.put("seed", seed, "seed")
    for name, field in (("steps_per_eval", "eval_steps"), ("save_every", "save_steps")):
        if (value := keys.whole(name)) is not None:
            keys.put(field, max(1, value // keys.values["gradient_accumulation_steps"]), name)
    below = keys.sub("lr_schedule")
    if not below.content:
        keys.put("scheduler", "constant", "lr_schedule")
        keys.hyperparameters["warmup_steps"] = 0
        return
    name, arguments = below.text("name") or "", below.raw("arguments")
    warm = below.whole("warmup", least=0)
    below.put("warmup_steps", warm or 0, "warmup")
    known = {"cosine_decay": "cosine", "linear_schedule": "linear"}
    if name in known and isinstance(arguments, list) and arguments:
        below.put("scheduler", known[name], "name")
        numbers = [float(item) for item in arguments if isinstance(item, int | float | str) and is_number(item)]
        last = (
            numbers[2] if name == "cosine_decay" and len(numbers) > 2 else numbers[1] if name != "cosine_decay" else 0.0
        )
        peak = numbers[0] if numbers else 0.0
        below.note("arguments", "read", "rates and steps")
        if 0 < peak <= 1e3:
            keys.hyperparameters["learning_rate"] = peak
            keys.hyperparameters["min_learning_rate_ratio"] = min(1.0, max(0.0, last / peak))
    else:
        below.note("name", "ignored", "no schedule of tuneplan's")
    below.idle("warmup_init", "arguments")
    below.finish()


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(run: WrittenRun) -> Written:
    """The plan as the file of `mlx_lm.lora`: key after key, in the order in which it is read."""
    one_device(run, NAME)
    choices, h = run.choices, run.hyperparameters
    content: dict[str, object] = {"model": run.model, "train": True}
    out = Written(main="mlx-lm.yaml", content=content, start="mlx_lm.lora --config mlx-lm.yaml")
    if choices.method == "qlora":
        content["model"] = _quantised(run, out)
    content |= _written_method(run, out)
    content |= _written_optimizer(run)
    steps = choices.gradient_accumulation_steps
    content |= {
        "batch_size": choices.batch_size,
        "grad_accumulation_steps": steps,
        "max_seq_length": choices.max_length,
        "grad_checkpoint": choices.gradient_checkpointing,
        "learning_rate": h.learning_rate,
        "seed": h.seed,
        "steps_per_report": h.logging_steps * steps,
        "adapter_path": "adapters",
    }
    iterations = (h.max_steps or 1000) * steps
    content["iters"] = iterations
    if h.max_steps is None:
        out.drop(f"epochs {h.epochs:g}: set iters to epochs × examples / batch_size")
    if (schedule := _written_schedule(h, iterations // steps, out)) is not None:
        content["lr_schedule"] = schedule
    if choices.max_grad_norm:
        out.drop(f"max_grad_norm {choices.max_grad_norm:g}: nothing is clipped")
    if choices.precision != "bf16":
        out.drop(f"precision {choices.precision}: the format of the weights")
    for what, there in (("loss", "full"), ("padding", "longest")):
        if getattr(choices, what) != there:
            out.drop(f"{what} {getattr(choices, what)}: {there} there")
    unsaid(run, out)
    return out


def _quantised(run: WrittenRun, out: Written) -> str:
    """The folder of the quantised weights, which have to be made first."""
    bits = {"nf4": "4", "nf4-double": "4", "int8": "8"}[run.choices.quantization]
    folder = f"{run.model.rpartition('/')[2]}-{bits}bit"
    out.drop(f"quantised weights: mlx_lm.convert --hf-path {run.model} -q --q-bits {bits} --mlx-path {folder}")
    return folder


def _written_method(run: WrittenRun, out: Written) -> dict[str, object]:
    """What is trained, and on which data."""
    choices, full = run.choices, run.choices.method == "full"
    if choices.lora_variant == "rslora":
        raise InvalidInput("--to mlx-lm: it has no rslora; plan lora_variant lora with alpha scaled")
    if choices.modules_to_save:
        raise InvalidInput("--to mlx-lm: it trains no modules in full beside adapters; plan without modules_to_save")
    content: dict[str, object] = {
        "fine_tune_type": "full" if full else choices.lora_variant,
        "data": run.data.path or "data",
        "mask_prompt": not run.hyperparameters.train_on_prompt and run.shape != "text",  # it refuses to mask plain text
        "num_layers": -1,
    }
    if run.data.path and "." in run.data.path.rpartition("/")[2]:
        content["data"] = "data"
        out.drop("data: a folder with train.jsonl and valid.jsonl there")
    if run.shape not in ("messages", "prompt-completion", "text"):
        out.drop(f"data of shape {run.shape}: mlx-lm reads messages, prompt and completion, or text")
    if not full:
        content["lora_parameters"] = {
            "rank": choices.lora_r,
            "scale": choices.lora_alpha / choices.lora_r,
            "dropout": choices.lora_dropout,
            **({} if run.every_linear else {"keys": _paths(run)}),
        }
    return content


def _written_optimizer(run: WrittenRun) -> dict[str, object]:
    kind, h = run.choices.optimizer, run.hyperparameters
    if kind not in ("adamw", "sgd", "adafactor"):
        raise InvalidInput(f"--to mlx-lm: it has no optimizer {kind}; use adamw")
    if kind != "adamw":
        return {"optimizer": kind}
    given = {"betas": [h.beta1, h.beta2], "eps": h.epsilon, "weight_decay": h.weight_decay, "bias_correction": True}
    return {"optimizer": kind, "optimizer_config": {"adamw": given}}


def _paths(run: WrittenRun) -> list[str]:
    """Names within a block: `self_attn.q_proj`."""
    from planner.models import lora

    found = lora.resolve_targets(run.spec, run.choices.lora_targets)
    if any("{}." not in module.path for module in found):
        raise InvalidInput("--to mlx-lm: adapters outside the blocks have no key; plan without lm_head and embeddings")
    return list(dict.fromkeys(module.path.partition("{}.")[2] for module in found))


def _written_schedule(h: Hyperparameters, updates: int, out: Written) -> dict[str, object] | None:
    """Its schedules count updates, where `iters` counts micro-batches; it takes no warm-up without a schedule."""
    warm = h.warmup_steps
    if warm is None:
        warm = round(h.warmup_ratio * updates)
    last = h.min_learning_rate_ratio * h.learning_rate
    if h.scheduler == "constant":
        if warm:
            out.drop(f"warm-up of {warm} steps: not with a constant rate")
        return None
    if h.scheduler not in ("cosine", "linear"):
        out.drop(f"scheduler {h.scheduler}: cosine there")
    left = max(1, updates - warm)
    if h.scheduler == "linear":
        return {"name": "linear_schedule", "warmup": warm, "arguments": [h.learning_rate, last, left]}
    return {"name": "cosine_decay", "warmup": warm, "arguments": [h.learning_rate, left, last]}
