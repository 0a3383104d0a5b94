"""Text from a finished run, and the sample that each evaluation generates."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from planner.contract.errors import InvalidInput
from trainer.data.tokens import template_of
from trainer.recovery import room

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def complete(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rendered_prompt: str,
    *,
    max_new_tokens: int = 48,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    add_special_tokens: bool | None = None,
) -> str:
    """The model's continuation as text. Temperature 0 takes the likeliest token each time."""
    special = template_of(tokenizer) is None if add_special_tokens is None else add_special_tokens
    device = next(model.parameters()).device
    encoded = tokenizer(rendered_prompt, add_special_tokens=special, return_tensors="pt")
    ids = encoded["input_ids"].to(device)
    options: dict[str, object] = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    if tokenizer.eos_token_id is not None:
        options["eos_token_id"] = tokenizer.eos_token_id
    if temperature > 0:
        options |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    else:
        # The model's own generation settings may carry sampling options that greedy decoding would warn about.
        options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    was_training = model.training
    model.eval()
    with torch.no_grad(), cached_generation(model), room.asked_first(device):
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    model.train(was_training)
    start = 0 if model.config.is_encoder_decoder else ids.shape[1]
    return str(tokenizer.decode(output[0, start:], skip_special_tokens=True))


def trained_folder(run_dir: Path) -> Path:
    """The folder of a run that holds what was trained: `adapter`, or `model` after full fine-tuning."""
    for name in ("adapter", "model"):
        if (run_dir / name).is_dir():
            return run_dir / name
    if (run_dir / "adapter_config.json").is_file() or (run_dir / "config.json").is_file():
        return run_dir
    raise InvalidInput(f"{run_dir}: no finished run (neither an `adapter` nor a `model` folder in it)")


def load_trained(run_dir: Path, device: torch.device) -> tuple[object, Any]:
    """(model, tokenizer) of a finished run, adapters attached by plain PEFT."""
    from trainer.loop import loading
    from trainer.tasks.result import load_pretrained, read_task_file
    from trainer.weights import adapter_files, fingerprints

    folder = trained_folder(run_dir)
    tokenizer = loading.load_tokenizer(str(folder))
    task = read_task_file(folder)
    if not (folder / "adapter_config.json").is_file():
        return load_pretrained(str(folder), task).to(device), tokenizer
    base = adapter_files.base_of(folder)
    fingerprints.check_base(folder, base)
    model = load_pretrained(base, task)
    return adapter_files.attach(model, folder).to(device), tokenizer


@contextlib.contextmanager
def cached_generation(model: Any) -> Any:
    """Keys and values are kept while text is generated, and only then."""
    previous = model.config.use_cache
    model.config.use_cache = True
    try:
        yield
    finally:
        model.config.use_cache = previous
