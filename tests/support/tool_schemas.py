"""Exports through the tools' own schemas, in a process of its own: `python -m tests.support.tool_schemas FOLDER`.

FOLDER holds the unpacked packages, `pip download --no-deps axolotl llamafactory trl` and each wheel unzipped, with what
their schemas import (omegaconf); `-` stands for what is installed. Reads `{tool: {name: file's text}}` from stdin and
prints the same with what each schema complains of, an empty text where it takes the file. Nothing is trained.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

PACKAGES = {"axolotl": "axolotl", "llama-factory": "llamafactory", "trl": "trl"}
"""Tools whose schema needs no more of their package than Python: tool -> module."""


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


SCHEMAS: dict[str, Callable[[str], None]] = {"axolotl": axolotl, "llama-factory": llama_factory, "trl": trl}


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
