"""Merges an adapter into its base, so that the result is a plain model that needs no PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput, RunFailed

TOLERANCE = {"float32": 1e-3, "bfloat16": 6e-2, "float16": 1e-2}
"""Largest difference of the logits to those with the adapter beside the base, relative to their spread, by dtype."""


def merge(run_dir: Path, output: Path, *, dtype: str = "auto") -> dict[str, Any]:
    """Writes the merged model with its tokenizer, whole or not at all, and returns what was done.

    The base is loaded in its own dtype (or `dtype`: fp32, bf16, fp16) and never quantized: after QLoRA the adapter goes
    onto full weights, which differ from the 4-bit ones that it was trained over. The logits of a few tokens are
    compared before and after.
    """
    from trainer.wire.events import quiet

    quiet()
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from trainer.commands.generate import trained_folder
    from trainer.loop import loading
    from trainer.tasks.base import TASK_FILE
    from trainer.tasks.result import load_pretrained, read_task_file
    from trainer.weights import adapter_files, fingerprints
    from trainer.wire.files import new_folder, whole_folder, write_manifest

    folder = trained_folder(run_dir)
    if not (folder / "adapter_config.json").is_file():
        raise InvalidInput(f"{folder}: holds a whole model already; there is nothing to merge")
    whole = new_folder(output)
    kinds = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    tokenizer, task = loading.load_tokenizer(str(folder)), read_task_file(folder)
    base = adapter_files.base_of(folder)
    fingerprints.check_base(folder, base)
    model: Any = adapter_files.attach(load_pretrained(base, task, dtype=kinds[dtype]), folder)
    probe = torch.arange(8, dtype=torch.int64).remainder(model.config.vocab_size).unsqueeze(0)
    inputs = {"input_ids": probe}
    if model.config.is_encoder_decoder and task["task"] == "seq2seq":
        inputs["decoder_input_ids"] = probe
    if task["task"] == "classification" and model.config.eos_token_id is not None:
        inputs["input_ids"] = torch.cat([probe.clamp(min=3), torch.tensor([[_one(model.config.eos_token_id)]])], dim=1)
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
        with whole_folder(whole) as target:
            merged.save_pretrained(target)
            tokenizer.save_pretrained(target)
            if (folder / TASK_FILE).is_file():
                (target / TASK_FILE).write_bytes((folder / TASK_FILE).read_bytes())
            write_manifest(target)
    except OSError as error:
        raise RunFailed(f"--output {output}: {error.strerror or error}") from None
    size = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    return {
        "schema": "tuneplan.merge/1",
        "model": str(output),
        "base": base,
        "dtype": stored,
        "bytes": size,
        "logit_difference": difference,
    }


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def command(given: Any) -> int:
    """`python -m trainer merge`."""
    print(json.dumps(merge(given.run_dir, given.output, dtype=given.dtype), indent=1))
    return 0
