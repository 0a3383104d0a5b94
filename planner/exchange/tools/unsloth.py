"""Unsloth's scripts and notebooks: the calls in their syntax tree are read, and nothing of them is run.

Names and defaults: unsloth 2026.10.9, `models/loader.py`, `models/llama.py` (pypi.org/project/unsloth, 2026-11). Its
kernels are its own; the figure is that of stack builtin with the loss in pieces, which keeps what Unsloth keeps: inputs
of layers (in host memory under its own checkpointing), no whole logits, fp32 adapters.
"""

from __future__ import annotations

import ast
import warnings

from planner.contract import json_text
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.yaml_text import Document
from planner.exchange.keys import Keys
from planner.exchange.tools import hf, hf_file
from planner.exchange.writing import Written, WrittenRun, one_device, unsaid

NAME = "unsloth"
STACK = "the nearest that is modelled for Unsloth's own kernels: stack builtin with the loss in pieces"
RECOGNISED_BY = (frozenset({"from_pretrained"}), frozenset[str]())

CALLS = {
    "from_pretrained",
    "get_peft_model",
    "SFTConfig",
    "TrainingArguments",
    "UnslothTrainingArguments",
    "SFTTrainer",
}
MAX_DEPTH = 200
DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_OF_MODEL_IDLE = (
    "token",
    "device_map",
    "trust_remote_code",
    "revision",
    "fix_tokenizer",
    "use_exact_model_name",
    "cache_dir",
)
_OF_ADAPTER_IDLE = ("bias", "random_state", "max_seq_length", "loftq_config", "init_lora_weights", "model", "task_type")


def document(text: str, where: str) -> Document:
    """A script's or notebook's calls as a mapping: name of the call -> keyword -> value, with their lines."""
    source = _cells(text, where) if text.lstrip().startswith("{") else text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise InvalidInput(f"{where}{line}: not Python that can be read") from None
    known = _constants(tree)
    content: dict[str, object] = {}
    lines: dict[tuple[str | int, ...], int] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or (name := _called(node)) not in CALLS or _is_other(node, name):
            continue
        name = {"TrainingArguments": "SFTConfig", "UnslothTrainingArguments": "SFTConfig"}.get(name, name)
        if name in content:
            continue  # a notebook loads its result again to use it
        arguments = content[name] = {}
        lines[name,] = node.lineno
        for keyword in node.keywords:
            if keyword.arg is not None:
                arguments[keyword.arg] = _value(keyword.value, known)
                lines[name, keyword.arg] = keyword.value.lineno
        if name == "from_pretrained" and node.args and "model_name" not in arguments:
            arguments["model_name"] = _value(node.args[0], known)
    _require_training(tree, where)
    if "from_pretrained" not in content:
        raise InvalidInput(f"{where}: no call of from_pretrained in it, so no model is named")
    return Document(where=where, value=content, lines=lines)


def _require_training(tree: ast.Module, where: str) -> None:
    """Other trainers of TRL keep more than a supervised step; a script without any trains nothing."""
    called = {_called(node): node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call)}
    trainers = [name for name in called if name.endswith("Trainer")]
    for name in trainers:
        if name not in ("SFTTrainer", "UnslothTrainer", "Trainer"):
            raise NotModelled(f"{where}:{called[name]}: {name} is not modelled: it runs further forward passes")
    if not trainers:
        raise InvalidInput(f"{where}: no trainer is made in it (SFTTrainer), so nothing is trained")


class _Unreadable:
    """An argument that is computed when the script runs."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _cells(text: str, where: str) -> str:
    """The code of a notebook, magics left out."""
    content = json_text.parse_object(text, where)
    cells = content.get("cells")
    if not isinstance(cells, list):
        raise InvalidInput(f"{where}: no cells in it, so it is no notebook")
    lines: list[str] = []
    for cell in cells:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source")
        code = "".join(part for part in source if isinstance(part, str)) if isinstance(source, list) else source
        if not isinstance(code, str) or code.lstrip().startswith("%%"):
            continue
        lines += ["pass" if line.lstrip().startswith(("!", "%")) else line for line in _kept(code)]
    return "\n".join(lines)


def _kept(code: str) -> list[str]:
    """Lines of a cell; those that a magic goes on in are dropped with it."""
    kept, magic = [], False
    for line in code.splitlines():
        begins = line.lstrip().startswith(("!", "%"))
        if magic or begins:
            indent = line[: len(line) - len(line.lstrip())]
            kept.append(indent + "pass" if begins else "")
            magic = line.rstrip().endswith("\\")
        else:
            kept.append(line)
    return kept


def _constants(tree: ast.Module) -> dict[str, object]:
    """Names that are bound once, at the top level, to a value that stands there."""
    found: dict[str, object] = {}
    twice: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    twice |= {target.id} & set(found)
                    found[target.id] = _value(statement.value, {})
    return {name: value for name, value in found.items() if name not in twice and not isinstance(value, _Unreadable)}


def _called(node: ast.Call) -> str:
    function = node.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_other(node: ast.Call, name: str) -> bool:
    """`AutoTokenizer.from_pretrained` and its like load no model to train."""
    if name != "from_pretrained" or not isinstance(node.func, ast.Attribute):
        return False
    owner = node.func.value
    return isinstance(owner, ast.Name) and not owner.id.startswith("Fast")


def _value(node: ast.expr, known: dict[str, object], depth: int = 0) -> object:
    """A literal, a list of them, a name bound to one; anything else is what it is written as."""
    if depth > 8:
        return _Unreadable("…")
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str | int | float | bool | None) else _Unreadable("…")
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, known, depth + 1) for item in node.elts[:256]]
    if isinstance(node, ast.Dict):
        names = [key.value if isinstance(key, ast.Constant) else None for key in node.keys[:256]]
        if all(isinstance(name, str) for name in names):
            return {name: _value(item, known, depth + 1) for name, item in zip(names, node.values, strict=False)}
        return _Unreadable("…")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, int | float) else _Unreadable("…")
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
        return node.attr
    if isinstance(node, ast.Call) and _called(node) in ("is_bfloat16_supported", "is_bf16_supported"):
        return True
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _value(node.operand, known, depth + 1)
        return not inner if isinstance(inner, bool) else _Unreadable("…")
    return _Unreadable("an expression")


def read(keys: Keys) -> tuple[str | None, str | None, str | None]:
    """Model and nothing that divides the run, of a script's calls; all else into `keys`."""
    loading = _literal(keys.sub("from_pretrained"))
    attaching = _literal(keys.sub("get_peft_model"))
    training = _literal(keys.sub("SFTConfig"))
    trainer = _literal(keys.sub("SFTTrainer"))
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
    packed = training.flag("packing") or trainer.flag("packing")
    training.put("padding", "packed" if packed else "longest", "packing")
    training.idle("gradient_checkpointing")
    hf.arguments(training)
    hf.what_is_learned(training)
    _checkpointing(keys, loading, attaching)
    word = loading.text("dtype")
    if word is not None and word.lower() not in hf.DTYPES:
        raise loading.refuse("dtype", f"modelled are {', '.join(hf.DTYPES)}")
    loading.put(
        "precision", hf.DTYPES[(word or "auto").lower()], "dtype", why="" if word else "bf16 where the card has it"
    )
    keys.put("loss", "chunked", "loss", why="Unsloth's fused loss never holds the whole logits")
    keys.put("attention", "sdpa", "attention", why="flash or memory-efficient: neither keeps the scores")
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
    training.finish(hf.IDLE | {"dataset_text_field", "dataset_num_proc", "dataset_kwargs"}, hf.PREFIXES)
    trainer.finish(trainer.content)
    keys.finish()
    return model, None, None


def _literal(below: Keys) -> Keys:
    """The call without the arguments that are computed, which are noted."""
    computed = [name for name, value in below.content.items() if _computed(value)]
    below.content = {name: value for name, value in below.content.items() if name not in computed}
    for name in computed:
        if name not in ("model", "tokenizer", "processing_class", "train_dataset", "eval_dataset", "args", "token"):
            below.note(name, "unknown", "computed when the script runs; not used")
    return below


def _computed(value: object) -> bool:
    if isinstance(value, dict):
        return any(_computed(item) for item in value.values())
    return isinstance(value, _Unreadable) or (isinstance(value, list) and any(_computed(item) for item in value))


def _method(keys: Keys, loading: Keys, attaching: Keys) -> None:
    full = loading.flag("full_finetuning")
    if full:
        loading.put("method", "full", "full_finetuning")
        loading.idle("load_in_4bit", "load_in_8bit")
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
    hf.targets(attaching, "target_modules", default=DEFAULT_TARGETS, every=("all-linear",))
    if (saved := attaching.names("modules_to_save")) is not None:
        attaching.put("modules_to_save", saved, "modules_to_save")
    attaching.refuse_where_set(
        {
            "layers_to_transform": "adapters on some of the layers",
            "target_parameters": "adapters on fused expert tensors",
        }
    )
    attaching.put("lora_variant", "rslora" if attaching.flag("use_rslora") else "lora", "use_rslora")


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
