"""Exports through the tools' own schemas, in a process of its own: `python -m tests.support.tool_schemas FOLDER`.

FOLDER holds the packages, `-` stands for what is installed:

    pip install --no-deps --target FOLDER axolotl llamafactory trl omegaconf antlr4-python3-runtime==4.9.3
    pip install --no-deps --target FOLDER litgpt lightning lightning-utilities torchmetrics jsonargparse \\
        docstring-parser typeshed-client importlib-resources requests urllib3 charset-normalizer idna certifi
    pip install --no-deps --target FOLDER mlx-lm mlx mlx-cpu sentencepiece
    pip install --no-deps --target FOLDER torchtune torchao==0.10.0 tiktoken regex blobfile
    pip download --no-deps unsloth && unzip 'unsloth-*.whl' 'unsloth/*' -d FOLDER

Reads `{tool: {name: file's text}}` from stdin and prints the same with what each schema complains of, an empty text
where it takes the file. Nothing is trained. Unsloth can't be imported without a card: its source's signatures are read.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

PACKAGES = {
    "axolotl": "axolotl",
    "llama-factory": "llamafactory",
    "trl": "trl",
    "litgpt": "litgpt",
    "mlx-lm": "mlx_lm",
    "torchtune": "torchtune",
    "unsloth": "unsloth",
}
"""Tool -> module that holds its schema."""


def axolotl(text: str) -> None:
    """The pydantic model that `axolotl train` reads a file with; it lets unknown keys pass, so they are looked for."""
    from axolotl.utils.schemas.config import AxolotlConfigWCapabilities

    content = yaml.safe_load(text)
    devices = {"bf16": True, "fp8": False, "tf32": True, "n_gpu": 1, "n_node": 1, "compute_capability": "sm_80"}
    AxolotlConfigWCapabilities(**content, capabilities=devices, env_capabilities={"torch_version": "2.8.0"})
    # Keys of a plugin are the plugin's.
    plugins = {key for key in content if key.startswith("liger_")} if content.get("plugins") else set()
    if unknown := set(content) - set(AxolotlConfigWCapabilities.model_fields) - plugins:
        raise ValueError(f"unknown: {sorted(unknown)}")


def llama_factory(text: str) -> None:
    """The five dataclasses of `llamafactory-cli train`, unknown keys refused."""
    from llamafactory.hparams import (
        DataArguments,
        FinetuningArguments,
        GeneratingArguments,
        ModelArguments,
        TrainingArguments,
    )
    from transformers import HfArgumentParser

    kinds: Any = [ModelArguments, DataArguments, TrainingArguments, FinetuningArguments, GeneratingArguments]
    HfArgumentParser(kinds).parse_dict(without_card(yaml.safe_load(text)), allow_extra_keys=False)


def trl(text: str) -> None:
    """The parser of `trl sft --config`, unknown keys refused."""
    from trl import ModelConfig, ScriptArguments, SFTConfig, TrlParser

    content = {key: value for key, value in yaml.safe_load(text).items() if key not in ("datasets", "env")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trl.yaml")
        path.write_text(yaml.safe_dump(without_card(content)))
        kinds: Any = (ScriptArguments, SFTConfig, ModelConfig)
        TrlParser(kinds).parse_args_and_config(args=["--config", str(path)], fail_with_unknown_args=True)


def without_card(content: dict[str, Any]) -> dict[str, Any]:
    """Without bf16 and fp16, which transformers refuses by itself on a machine that has no card for them."""
    return {**{key: value for key, value in content.items() if key not in ("bf16", "fp16")}, "use_cpu": True}


def litgpt(text: str) -> None:
    """The parser that `litgpt` makes of its functions' signatures, then what the recipe itself checks first."""
    import litgpt.__main__ as command
    from jsonargparse import capture_parser

    kind = "finetune_lora" if "\nlora_r:" in text else "finetune_full"
    with tempfile.TemporaryDirectory() as folder:
        # The data must be there, or its class refuses the file.
        content = yaml.safe_load(text)
        data = Path(folder, "data.json")
        data.write_text("[]")
        content["data"]["init_args"]["json_path"] = str(data)
        path = Path(folder, "litgpt.yaml")
        path.write_text(yaml.safe_dump(content))
        parser = capture_parser(command.main)
        parser.exit_on_error = False
        for below in parser._subcommands_action._name_parser_map.values():
            below.exit_on_error = False
        made = parser.instantiate_classes(parser.parse_args([kind, "--config", str(path)]))[kind]
        recipe = importlib.import_module(f"litgpt.finetune.{kind.removeprefix('finetune_')}")
        recipe.validate_args(made.train, made.eval)
        weights = torch.nn.Linear(1, 1).parameters()
        optimizer = command.finetune_lora_fn.__globals__["instantiate_torch_optimizer"](made.optimizer, weights)
        steps = made.train.max_steps or 1_000
        recipe.get_lr_scheduler(optimizer, warmup_steps=made.train.lr_warmup_steps, max_steps=steps)


def mlx_lm(text: str) -> None:
    """What `mlx_lm.lora --config` does with a file until it loads the model; it lets unknown keys pass."""
    import mlx.optimizers as optimizers
    from mlx_lm import lora
    from mlx_lm.tuner.utils import build_schedule

    content = yaml.load(text, lora.yaml_loader)
    known = {action.dest: action for action in lora.build_parser()._actions}
    if unknown := set(content) - set(lora.CONFIG_DEFAULTS) - set(known):
        raise ValueError(f"unknown: {sorted(unknown)}")
    for name, value in content.items():
        choices = known[name].choices if name in known else None
        if choices is not None and value not in choices:
            raise ValueError(f"{name}: {value} is none of {choices}")
        if name in known and known[name].type is not None and known[name].type(value) != value:
            raise ValueError(f"{name}: {value!r} is no {known[name].type}")
    if unknown := set(content.get("lora_parameters", ())) - {"rank", "scale", "dropout", "keys"}:
        raise ValueError(f"lora_parameters: unknown: {sorted(unknown)}")
    rate = build_schedule(content["lr_schedule"]) if "lr_schedule" in content else content["learning_rate"]
    kinds = {"adamw": optimizers.AdamW, "sgd": optimizers.SGD, "adafactor": optimizers.Adafactor}
    arguments = content.get("optimizer_config", {}).get(content["optimizer"], {})
    kinds[content["optimizer"]](learning_rate=rate, **arguments)


def torchtune(text: str) -> None:
    """`tune validate`, then what it leaves out: unknown and missing keys of the recipe, and the model, built empty."""
    from omegaconf import OmegaConf
    from torchtune import config

    content = OmegaConf.create(text)
    config.validate(content)
    kind = "lora" if "lora_rank" in content.model else "full"
    folder = Path(config.__file__).parents[2] / "recipes"
    tree = ast.parse((folder / f"{kind}_finetune_single_device.py").read_text())
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is(node.value, "cfg")]
    needed = {node.attr for node in reads} - {"get", "update"}
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    optional = {
        node.args[0].value
        for node in asked
        if node.func.attr == "get" and _is(node.func.value, "cfg") and isinstance(node.args[0], ast.Constant)
    }
    if unknown := set(content) - needed - optional:
        raise ValueError(f"unknown: {sorted(unknown)}")
    if missing := needed - set(content):
        raise ValueError(f"missing: {sorted(missing)}")
    if str(content.dtype) not in ("bf16", "fp32"):
        raise ValueError("the recipes refuse fp16")
    with torch.device("meta"):
        config.instantiate(content.model)
    signature = inspect.signature(config._utils._get_component_from_path(content.tokenizer["_component_"]))
    signature.bind(**{name: value for name, value in content.tokenizer.items() if name != "_component_"})


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def unsloth(text: str) -> None:
    """The signatures of the calls that a script makes, from Unsloth's source; `SFTConfig` is TRL's own, made of it."""
    from trl import SFTConfig, SFTTrainer

    home = Path(sys.argv[1], "unsloth", "models")
    own = {
        "from_pretrained": _parameters(home / "loader.py", "FastLanguageModel", "from_pretrained"),
        "get_peft_model": _parameters(home / "llama.py", "FastLlamaModel", "get_peft_model"),
        "SFTTrainer": set(inspect.signature(SFTTrainer).parameters),
    }
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {item.arg: item.value for item in node.keywords if item.arg}
        if name in own and (unknown := set(given) - own[name]):
            raise ValueError(f"{name}: unknown: {sorted(unknown)}")
        if name == "SFTConfig":
            SFTConfig(**without_card({key: ast.literal_eval(value) for key, value in given.items()}))


def _parameters(file: Path, kind: str, function: str) -> set[str]:
    """Names that a method takes."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == kind:
            found = next(item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == function)
            return {item.arg for item in (*found.args.args, *found.args.kwonlyargs)}
    raise ValueError(f"{file}: no {kind}.{function}")


SCHEMAS: dict[str, Callable[[str], None]] = {
    "axolotl": axolotl,
    "llama-factory": llama_factory,
    "trl": trl,
    "litgpt": litgpt,
    "mlx-lm": mlx_lm,
    "torchtune": torchtune,
    "unsloth": unsloth,
}


def complaint(schema: Callable[[str], None], text: str) -> str:
    """What the schema says against a file."""
    try:
        schema(text)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    if sys.argv[1] != "-":
        sys.path.insert(0, sys.argv[1])
    os.environ["DISABLE_VERSION_CHECK"] = "1"  # LLaMA-Factory refuses transformers newer than those it was tried with
    asked = json.load(sys.stdin)
    sys.stdout, out = sys.stderr, sys.stdout
    found = {
        tool: {name: complaint(SCHEMAS[tool], text) for name, text in files.items()} for tool, files in asked.items()
    }
    out.write(json.dumps(found))
