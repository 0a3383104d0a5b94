"""TRL's calls in a script or notebook, `SFTTrainer` with its configs, as the keys of a `trl sft` file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.yaml_text import Document

LOADERS = ("AutoModelForCausalLM", "AutoLigerKernelForCausalLM")
_OTHER_LOADERS = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForSequenceClassification")
CALLS = (
    *("SFTConfig", "TrainingArguments", "LoraConfig", "BitsAndBytesConfig", "SFTTrainer"),
    *("gradient_checkpointing_enable", "prepare_model_for_kbit_training", "get_peft_model"),
)
ONCE = ("SFTConfig", "TrainingArguments", "LoraConfig", "SFTTrainer")
_OF_LOADING = ("dtype", "torch_dtype", "attn_implementation", "load_in_4bit", "load_in_8bit", "use_liger_kernel")
_OF_QUANTIZATION = {
    "load_in_4bit": "load_in_4bit",
    "load_in_8bit": "load_in_8bit",
    "bnb_4bit_quant_type": "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
}
_OF_ADAPTERS = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "target_parameters": "lora_target_parameters",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "layers_to_transform": "lora_layers_to_transform",
}
_ADAPTER_DEFAULTS = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
"""Of PEFT's `LoraConfig`; TRL's own command line has others. peft 0.21 `tuners/lora/config.py`."""
_OF_TRAINER = ("max_seq_length", "packing", "dataset_text_field")
"""Arguments that older `SFTTrainer`s took themselves."""

Value = Callable[[ast.expr], object]


def document(tree: ast.Module, where: str, value: Value) -> Document | None:
    """The calls as one mapping with their lines; None where the script has no model of TRL's to train."""
    calls = _calls(tree, where)
    if "SFTTrainer" not in calls:
        return None
    content: dict[str, object] = {}
    lines: dict[tuple[str | int, ...], int] = {}

    def take(call: str, names: Mapping[str, str] | None) -> None:
        for keyword in calls[call].keywords if call in calls else ():
            if keyword.arg is None or (names is not None and keyword.arg not in names):
                continue
            name = keyword.arg if names is None else names[keyword.arg]
            content.setdefault(name, value(keyword.value))
            lines.setdefault((name,), keyword.value.lineno)

    loading = _loading(tree, where)
    _require_settings(calls, where)
    take("SFTConfig", None)
    take("TrainingArguments", None)
    take("SFTTrainer", {name: name for name in _OF_TRAINER})
    take("BitsAndBytesConfig", _OF_QUANTIZATION)
    if loading is not None:
        calls["loading"] = loading
        take("loading", {name: name for name in _OF_LOADING})
    named = calls["SFTTrainer"] if loading is None else loading
    given = _argument(named, "model" if loading is None else "pretrained_model_name_or_path")
    found = None if given is None else value(given)
    if isinstance(found, str):
        content["model_name_or_path"] = found
    elif loading is None:
        return None
    attached = _peft_config(calls) is not None or "get_peft_model" in calls
    content["use_peft"] = attached and "LoraConfig" in calls
    if content["use_peft"]:
        take("LoraConfig", _OF_ADAPTERS)
        content.update({name: default for name, default in _ADAPTER_DEFAULTS.items() if name not in content})
    content.setdefault("model_name_or_path", None)
    if any(name in calls for name in ("gradient_checkpointing_enable", "prepare_model_for_kbit_training")):
        content.setdefault("gradient_checkpointing", True)
    return Document(where=where, value=content, lines=lines)


def _require_settings(calls: Mapping[str, ast.Call], where: str) -> None:
    """Refuses a script that gets its settings or adapters from elsewhere."""
    if not {"SFTConfig", "TrainingArguments"} & set(calls):
        raise InvalidInput(
            f"{where}: makes no SFTConfig, so its settings come from elsewhere; name the YAML or the command line that "
            "starts it"
        )
    given = _peft_config(calls)
    if given is not None and "LoraConfig" not in calls:
        raise InvalidInput(f"{where}:{given.lineno}: peft_config comes from elsewhere; no LoraConfig is made")


def _peft_config(calls: Mapping[str, ast.Call]) -> ast.expr | None:
    """What `SFTTrainer` makes adapters of."""
    found = next((item.value for item in calls["SFTTrainer"].keywords if item.arg == "peft_config"), None)
    return None if isinstance(found, ast.Constant) and found.value is None else found


def _calls(tree: ast.Module, where: str) -> dict[str, ast.Call]:
    """The first call of each kind; a script that trains twice is refused: which of them is asked isn't known."""
    found: dict[str, ast.Call] = {}
    twice: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in ONCE and name in found:
                twice.append(f"{where}:{node.lineno}: {name} is made a second time; leave the one that you ask about")
            if name in CALLS:
                found.setdefault(name, node)
    if twice and "SFTTrainer" in found:
        raise InvalidInput(twice[0])
    return found


def _loading(tree: ast.Module, where: str) -> ast.Call | None:
    """The call that loads the model; towers of images and classifiers are refused."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        if node.func.attr != "from_pretrained" or not isinstance(owner, ast.Name):
            continue
        if owner.id in LOADERS:
            return node
        if owner.id in _OTHER_LOADERS:
            raise NotModelled(f"{where}:{node.lineno}: {owner.id} is not modelled: another model than a causal one")
    return None


def _argument(call: ast.Call, name: str) -> ast.expr | None:
    """An argument that comes first or by name."""
    return next((item.value for item in call.keywords if item.arg == name), call.args[0] if call.args else None)
