"""A folder that `from_pretrained` takes: adapter or merged model, tokenizer, generation settings, card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput
from planner.contract.towers import NOT_TEXT, is_multimodal, name_in_whole
from trainer.publish import card, facts

KEPT = (
    *("adapter_config.json", "adapter_model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json", "merges.txt"),
    *("tokenizer.model", "added_tokens.json", "model.safetensors.index.json", "spiece.model", "vocab.txt"),
)
"""Files of a result that others need; run state, manifests and logs stay behind."""


def publish(run_dir: Path, target: Path, *, merged: bool, dtype: str = "auto") -> dict[str, Any]:
    """Writes the files into `target`, an existing empty folder; returns what it is."""
    from trainer.commands.generate import trained_folder
    from trainer.commands.merge import merge
    from trainer.loop import loading
    from trainer.weights import adapter_files

    found = facts.read(run_dir)
    source = trained_folder(run_dir)
    adapter = (source / "adapter_config.json").is_file()
    base = adapter_files.base_of(source) if adapter else str(source)
    if merged and adapter:
        whole = target / "merged"
        merge(run_dir, whole, dtype=dtype)
        for path in sorted(whole.iterdir()):
            if path.name in KEPT or path.suffix == ".safetensors":
                path.rename(target / path.name)
        shutil.rmtree(whole)
    else:
        for path in sorted(source.iterdir()):
            if path.is_symlink() or not path.is_file():
                continue
            if path.name in KEPT or path.suffix == ".safetensors":
                shutil.copyfile(path, target / path.name)
    _generation_config(base, target)
    _without_paths(target / "adapter_config.json", found.base)
    whole_model = merged or not adapter
    multimodal = not whole_model and is_multimodal(loading.whole_config(base))
    if multimodal:
        _for_the_whole(target, base)
    licence = facts.licence(found.plan.model)
    text = card.card(found, merged=whole_model, licence=licence, loads=loads(found.base, whole_model, multimodal))
    (target / "README.md").write_text(text, encoding="utf-8")
    return {"base": found.base, "merged": whole_model, "licence": licence}


def _generation_config(base: str, target: Path) -> None:
    """The base's own, where the result has none."""
    import transformers

    if (target / "generation_config.json").exists():
        return
    try:
        transformers.GenerationConfig.from_pretrained(base, local_files_only=True).save_pretrained(target)
    except (OSError, ValueError):
        if (target / "config.json").is_file():
            transformers.GenerationConfig().save_pretrained(target)


def _without_paths(config: Path, base: str) -> None:
    """An adapter names its base by hub id or by the last part of its folder, never by this machine's path."""
    from planner.contract import json_text

    if not config.is_file():
        return
    content = json_text.read_object(config)
    named = content.get("base_model_name_or_path")
    if isinstance(named, str) and named != base:
        content["base_model_name_or_path"] = base
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _for_the_whole(target: Path, base: str) -> None:
    """Names the adapter's tensors as they are called in the multimodal model whose text tower was trained."""
    from planner.contract import json_text
    from trainer.weights import model_files, tensors

    weights, config = target / "adapter_model.safetensors", target / "adapter_config.json"
    names = model_files.find(base).entries()
    tensors.write(weights, {name_in_whole(name, names): tensor for name, tensor in tensors.read(weights).items()})
    content = json_text.read_object(config) | {"exclude_modules": NOT_TEXT, "task_type": None, "auto_mapping": None}
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def loads(base: str, whole: bool, multimodal: bool) -> str:
    """Python that loads what was published."""
    if whole:
        return 'from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained("THIS")'
    auto = "AutoModelForImageTextToText" if multimodal else "AutoModelForCausalLM"
    return (
        f"from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f'model = PeftModel.from_pretrained({auto}.from_pretrained({json.dumps(base)}), "THIS")'
    )


def require_run(run_dir: Path) -> None:
    """Refuses what is no folder, in one line."""
    if not run_dir.is_dir():
        raise InvalidInput(f"{run_dir}: there is no such run folder")
