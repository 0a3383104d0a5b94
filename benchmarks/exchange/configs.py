"""Public configs through `plan check --from`: which keys are understood, and what the answer is.

`python -m benchmarks.exchange.configs CACHE` reads CACHE/owner+name/path, and fetches what isn't there from GitHub
at the commit named here. Only addresses are kept. Prints the table of docs/exchange.md and checks each answer against
the same settings given as options.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.cli import main as plan
from planner.contract import settings
from planner.contract.errors import TuneplanError
from planner.exchange import recognise
from planner.exchange.foreign import Foreign

AXOLOTL = ("axolotl-ai-cloud/axolotl", "067b021c8b87a9e5e380b9173c704cf7340e30f5")
FACTORY = ("hiyouga/LLaMA-Factory", "ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30")
LITGPT = ("Lightning-AI/litgpt", "26857050fe3ff627cd714fe92f5838f51a3d5efa")
HANDBOOK = ("huggingface/alignment-handbook", "925acdfe4b2b4e38c3dabd1851bc418f0b656351")
TRL = ("huggingface/trl", "f2cd57710ae345ea6428ae95363267fcf38a3dc8")
NOTEBOOKS = ("unslothai/notebooks", "bdda2efc7ad5ae129ea63cd2065d23c391406283")


@dataclass(frozen=True)
class Config:
    """One public file, and what a person would add on the command line."""

    source: tuple[str, str]
    path: str
    options: tuple[str, ...] = ()


CONFIGS = (
    Config(AXOLOTL, "examples/llama-3/lora-8b.yml"),
    Config(AXOLOTL, "examples/llama-3/qlora-1b.yml"),
    Config(AXOLOTL, "examples/llama-3/fft-8b.yaml"),
    Config(AXOLOTL, "examples/llama-3/lora-1b-kernels.yml"),
    Config(AXOLOTL, "examples/mistral/qlora.yml"),
    Config(AXOLOTL, "examples/phi/phi2-ft.yml"),
    Config(AXOLOTL, "examples/gemma2/qlora.yml"),
    Config(AXOLOTL, "examples/archived/code-llama/13b/lora.yml"),
    Config(AXOLOTL, "examples/archived/starcoder2/qlora.yml"),
    Config(FACTORY, "examples/train_lora/qwen3_lora_sft.yaml", ("--model", "qwen3-4b")),
    Config(FACTORY, "examples/train_full/qwen3_full_sft.yaml", ("--model", "qwen3-4b", "--num-gpus", "4")),
    Config(FACTORY, "examples/train_qlora/qwen3_lora_sft_bnb_npu.yaml", ("--model", "qwen3-4b")),
    Config(FACTORY, "examples/train_lora/qwen3_lora_pretrain.yaml", ("--model", "qwen3-4b")),
    Config(FACTORY, "examples/extras/loraplus/llama3_lora_sft.yaml"),
    Config(FACTORY, "examples/extras/pissa/llama3_lora_sft.yaml"),
    Config(HANDBOOK, "recipes/zephyr-7b-beta/sft/config_qlora.yaml"),
    Config(HANDBOOK, "recipes/zephyr-7b-beta/sft/config_full.yaml"),
    Config(HANDBOOK, "recipes/smollm2/sft/config.yaml"),
    Config(HANDBOOK, "recipes/smollm3/sft/sft.yaml", ("--model", "smollm3-3b", "--max-length", "32768")),
    Config(HANDBOOK, "recipes/starchat2-15b/sft/config_v0.1.yaml"),
    Config(HANDBOOK, "recipes/zephyr-7b-gemma/sft/config_full.yaml"),
    Config(TRL, "examples/cli_configs/example_config.yaml"),
    Config(LITGPT, "config_hub/finetune/llama-3.2-1B/lora.yaml"),
    Config(LITGPT, "config_hub/finetune/llama-3.1-8b/lora.yaml"),
    Config(LITGPT, "config_hub/finetune/llama-2-7b/full.yaml"),
    Config(LITGPT, "config_hub/finetune/mistral-7b/lora.yaml"),
    Config(LITGPT, "config_hub/finetune/tiny-llama/full.yaml"),
    Config(LITGPT, "config_hub/finetune/phi-3/lora.yaml"),
    Config(LITGPT, "config_hub/finetune/gemma-2b/qlora.yaml"),
    Config(NOTEBOOKS, "nb/Llama3.1_(8B)-Alpaca.ipynb"),
    Config(NOTEBOOKS, "nb/Mistral_v0.3_(7B)-Conversational.ipynb"),
    Config(NOTEBOOKS, "nb/Qwen3_(14B).ipynb"),
)
GPU = "a100-80gb"


def local(config: Config, cache: Path) -> Path:
    """The file in the cache, fetched where it isn't there."""
    repository, commit = config.source
    path = cache / repository.replace("/", "+") / config.path
    if not path.exists():
        address = f"https://raw.githubusercontent.com/{repository}/{commit}/{urllib.request.quote(config.path)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=30) as answer:
            path.write_bytes(answer.read())
    return path


def understood(foreign: Foreign) -> tuple[int, int]:
    """Keys that move memory and are understood, and all that may move it: those read, and those not known."""
    read = {note.key for note in foreign.notes if note.line is not None and note.how in ("read", "assumed")}
    return len(read), len(read | {note.key for note in foreign.of("unknown")})


def answer(words: list[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and complaint of one `plan` command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = plan(words)
    return code, json.loads(out.getvalue()) if code in (0, 3) else {}, err.getvalue().strip()


def same_by_options(found: dict[str, Any], model: str) -> bool:
    """Whether the report's settings, given as options, give the report's memory."""
    choices = settings.choices_from(found["settings"])
    flags = settings.to_flags(choices)
    flags += ["--loss", choices.loss, "--optimizer-implementation", choices.optimizer_implementation]
    _, again, _ = answer(["check", "--gpu", GPU, "--model", model, "--json", *flags])
    return bool(again) and again["memory"] == found["memory"]


def main(cache: Path) -> None:
    """Prints a row for each config, and the sums."""
    known = every = answered = 0
    print("| config | keys understood | answer |\n|---|---|---|")
    for config in CONFIGS:
        path = local(config, cache)
        try:
            foreign = recognise.read([path])
        except TuneplanError as error:
            print(f"| {config.path} | – | {error} |")
            continue
        some, whole = understood(foreign)
        known, every = known + some, every + whole
        code, found, said = answer(["check", "--from", str(path), "--gpu", GPU, "--json", *config.options])
        if found:
            answered += 1
            peak = found["memory"]["device_peak_bytes"] / 2**30
            told = f"{peak:.1f} GiB, {found['verdict'].replace('_', ' ')}"
            if not same_by_options(found, found["model"]["id"]):
                told += " (NOT that of the same options)"
        else:
            told = said.replace(str(cache), "").partition(": ")[2][:120] if code == 2 else said
        added = f" `{' '.join(config.options)}`" if config.options else ""
        print(f"| {config.source[0]} {config.path}{added} | {some} of {whole} | {told} |")
    share = known / max(1, every)
    print(f"\n{len(CONFIGS)} files; {known} of {every} keys understood ({share:.1%}); {answered} answered.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
