"""Merges an adapter into its base, so that the result is a plain model that needs no PEFT."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.errors import InvalidInput, RunFailed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

TOLERANCE = {"float32": 1e-3, "bfloat16": 6e-2, "float16": 1e-2}
"""Largest difference of the logits to those with the adapter beside the base, relative to their spread, by dtype."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What was done."""

    model: str
    """Folder that was written."""
    base: str
    dtype: str
    bytes: int
    """Size of the weights' files."""
    logit_difference: float
    """Largest difference of the logits to those with the adapter beside the base, relative to their spread."""


def merge(run_dir: Path, output: Path, *, dtype: str = "auto") -> Merged:
    """Writes the merged model with its tokenizer, whole or not at all, and returns what was done.

    The base is loaded in its own dtype (or `dtype`: fp32, bf16, fp16) and never quantized: after QLoRA the adapter goes
    onto full weights, which differ from the 4-bit ones that it was trained over. The logits of a few tokens are
    compared before and after.
    """
    from trainer.wire.events import quiet, quiet_transformers

    quiet()
    import torch

    quiet_transformers()
    from trainer.commands.generate import trained_folder
    from trainer.loop.loading import load_tokenizer
    from trainer.tasks.result import load_pretrained, read_task_file
    from trainer.weights import adapter_files, fingerprints
    from trainer.wire.files import new_folder

    folder = trained_folder(run_dir)
    if not (folder / "adapter_config.json").is_file():
        raise InvalidInput(f"{folder}: holds a whole model already; there is nothing to merge")
    whole = new_folder(output)
    kinds = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    tokenizer, task = load_tokenizer(str(folder)), read_task_file(folder)
    base = adapter_files.base_of(folder)
    fingerprints.check_base(folder, base)
    model = adapter_files.attach(load_pretrained(base, task, dtype=kinds[dtype]), folder)
    inputs = _probe(model, task["task"])
    with torch.no_grad():
        before = model(**inputs).logits.float()
        merged = model.merge_and_unload(safe_merge=True)
        after = merged(**inputs).logits.float()
    stored = str(next(merged.parameters()).dtype).removeprefix("torch.")
    difference = float((after - before).abs().max() / before.std().clamp(min=1e-6))
    if not difference <= TOLERANCE.get(stored, 6e-2):
        raise RunFailed(
            f"{folder}: the merged model's logits differ by {difference:.2e} of their spread from the adapter's "
            f"({stored}); merge with --dtype fp32"
        )
    try:
        _write(merged, tokenizer, folder, whole)
    except OSError as error:
        raise RunFailed(f"--output {output}: {error.strerror or error}") from None
    size = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    return Merged(model=str(output), base=base, dtype=stored, bytes=size, logit_difference=difference)


def _probe(model: Any, task: str) -> dict[str, torch.Tensor]:
    """A few tokens that every head answers."""
    import torch

    ids = torch.arange(8, dtype=torch.int64).remainder(model.config.vocab_size).unsqueeze(0)
    if task == "classification" and model.config.eos_token_id is not None:
        return {"input_ids": torch.cat([ids.clamp(min=3), torch.tensor([[_one(model.config.eos_token_id)]])], dim=1)}
    if model.config.is_encoder_decoder and task == "seq2seq":
        return {"input_ids": ids, "decoder_input_ids": ids}
    return {"input_ids": ids}


def _write(merged: Any, tokenizer: PreTrainedTokenizerBase, source: Path, whole: Path) -> None:
    """Model, tokenizer and task file, whole or not at all."""
    from trainer.tasks.base import TASK_FILE
    from trainer.wire.files import whole_folder, write_manifest

    with whole_folder(whole) as target:
        merged.save_pretrained(target)
        tokenizer.save_pretrained(target)
        if (source / TASK_FILE).is_file():
            (target / TASK_FILE).write_bytes((source / TASK_FILE).read_bytes())
        write_manifest(target)


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def command(given: Namespace) -> int:
    """`python -m trainer merge`."""
    found = merge(given.run_dir, given.output, dtype=given.dtype)
    print(json.dumps({"schema": "tuneplan.merge/1", **asdict(found)}, indent=1))
    return 0
