"""The trainers that are compared, and how each is started: as its documentation says, with its defaults."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.throughput import workload
from benchmarks.throughput.clock import Clock
from benchmarks.throughput.workload import Workload

OURS = "ours"
TITLES = {
    OURS: "tuneplan",
    "ours-checkpointed": "tuneplan, checkpointed",
    "transformers": "transformers.Trainer + PEFT",
    "transformers-grouped": "transformers.Trainer + PEFT, grouped by length",
    "trl": "TRL SFTTrainer",
    "trl-packed": "TRL SFTTrainer, packed",
    "trl-packed-kept": "TRL SFTTrainer, packed, without checkpointing",
}
USUAL = (OURS, "ours-checkpointed", "transformers", "transformers-grouped", "trl", "trl-packed")
PIECES = {
    "onednn": "products by torch's BLAS",
    "flat": "padded micro-batches",
    "chunked": "the stock loss (padded, all logits at once)",
    "lora": "PEFT's own LoRA layers",
    "mlp": "the stock MLP",
    "norm": "the stock norms",
    "made-again": "MLP and norms kept",
    "grouping": "random order",
}
"""Pieces of our step that `--pieces` leaves out one by one, with what runs instead."""


def missing(name: str) -> str | None:
    """What has to be installed before a contender can run; None where nothing is."""
    if name.startswith("trl") and importlib.util.find_spec("trl") is None:
        return "TRL is not installed: pip install -c constraints.txt tuneplan[bench]"
    return None


def title(name: str) -> str:
    """A contender's name in tables; `ours without X` for our step less a piece."""
    without = name.removeprefix("ours-without-")
    return f"tuneplan with {PIECES[without]}" if without != name else TITLES[name]


def run(
    name: str, model: Path, scratch: Path, load: Workload, data: str, device: str, *, metered: bool
) -> dict[str, Any]:
    """One epoch in this process; what the clock saw."""
    clock = Clock(device, metered=metered)
    arguments = (clock, model, scratch, load, data, device)
    if name.startswith(OURS):
        without = name.removeprefix("ours-without-") if "without" in name else None
        return ours(*arguments, without=without, checkpointed=name.endswith("checkpointed"))
    if name.startswith("transformers"):
        return stock(*arguments, grouped=name.endswith("grouped"))
    return trl(*arguments, packed="packed" in name, kept=name.endswith("kept"))


def ours(
    clock: Clock,
    model: Path,
    scratch: Path,
    load: Workload,
    data: str,
    device: str,
    *,
    without: str | None,
    checkpointed: bool,
) -> dict[str, Any]:
    """A run of the product from a plan file to the adapter, with its meters, events and checkpoint."""
    from planner.contract.records import Plan
    from planner.contract.run_settings import DataSettings, Hyperparameters
    from trainer.commands.run import main
    from trainer.loop.trainer import LoopTrainer
    from trainer.wire.events import EventStream
    from trainer.wire.request import Request

    texts, plan = scratch / "train.jsonl", scratch / "plan.json"
    workload.write_text(texts, load.sequences_of(data, metered=clock.metered))
    made = Plan(
        model=str(model),
        gpu="cpu" if device == "cpu" else "auto",
        settings={**settings(load, data, without), "gradient_checkpointing": checkpointed},
        hyperparameters=Hyperparameters(
            learning_rate=load.learning_rate,
            scheduler="constant",
            epochs=1.0,
            report_to=(),
            group_by_length=without != "grouping",
        ),
        data=DataSettings(path=str(texts), format="text", validation_split=0.0),
    )
    plan.write_text(made.model_dump_json(by_alias=True))
    with clock.watching(LoopTrainer), left_out(without):
        main(Request(plan=plan, output=scratch / "run", device=device), EventStream(io.StringIO()))
    (observation,) = (scratch / "run").glob("observation*.json")
    measured = json.loads(observation.read_text())["allocated_peak_bytes"]
    found = {**clock.result(), "own_peak_bytes": measured}
    if device == "cuda":  # our meter starts the device's counter anew at every instant, so the clock saw the last one
        found["peak_bytes"] = measured
    return found


def settings(load: Workload, data: str, without: str | None = None) -> dict[str, Any]:
    """Our plan's settings: nothing is checkpointed, as memory allows it."""
    return {
        "method": "lora",
        "lora_r": load.lora_r,
        "lora_alpha": 2 * load.lora_r,
        "lora_dropout": 0.0,
        "lora_targets": ["all-linear"],
        "precision": load.precision,
        "batch_size": load.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "max_length": load.longest if data == workload.RAGGED else load.fixed_length,
        "loss": "full" if without == "chunked" else "chunked",
        "padding": "longest",
        "stack": "builtin",
        **({"made_again": []} if without == "made-again" else {}),
    }


@contextlib.contextmanager
def left_out(piece: str | None) -> Iterator[None]:
    """Our step without one of its pieces."""
    from unittest.mock import patch

    from trainer.modeling import lean, packing
    from trainer.modeling.lean import products

    if piece == "onednn":
        with products.only_blas():
            yield
    elif piece == "flat":
        with patch.object(packing, "worth_flattening", lambda lengths: False):
            yield
    elif piece in lean.PIECES:
        apply, kept = lean.apply_lean, [name for name in lean.PIECES if name != piece]
        with patch.object(lean, "apply_lean", lambda model, choices: apply(model, choices, pieces=kept)):
            yield
    else:
        yield


def stock(
    clock: Clock, model: Path, scratch: Path, load: Workload, data: str, device: str, *, grouped: bool
) -> dict[str, Any]:
    """transformers.Trainer over a PEFT model with the padding collator."""
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = load.sequences_of(data, metered=clock.metered)
    with clock.watching(transformers.Trainer):
        transformers.Trainer(
            model=adapted(model, load, device),
            args=transformers.TrainingArguments(
                **common_arguments(scratch, load, device),
                train_sampling_strategy="group_by_length" if grouped else "random",
            ),
            train_dataset=datasets.Dataset.from_dict({"input_ids": rows}),
            data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
            processing_class=tokenizer,
        ).train()
    return clock.result()


def trl(
    clock: Clock, model: Path, scratch: Path, load: Workload, data: str, device: str, *, packed: bool, kept: bool
) -> dict[str, Any]:
    """TRL's SFTTrainer; its gradient checkpointing stays on, as is its default, unless `kept`."""
    import datasets
    import transformers
    from trl import SFTConfig, SFTTrainer

    rows = load.sequences_of(data, metered=clock.metered)
    changed: dict[str, Any] = {"gradient_checkpointing": False} if kept else {}
    with clock.watching(SFTTrainer):
        SFTTrainer(
            model=adapted(model, load, device),
            args=SFTConfig(
                **common_arguments(scratch, load, device),
                max_length=load.longest if data == workload.RAGGED else load.fixed_length,
                packing=packed,
                **changed,
            ),
            train_dataset=datasets.Dataset.from_dict({"input_ids": rows}),
            processing_class=transformers.AutoTokenizer.from_pretrained(model),
        ).train()
    return clock.result()


def adapted(folder: Path, load: Workload, device: str) -> Any:
    """The PEFT model in the plan's precision."""
    import peft
    import torch
    import transformers

    dtype = torch.float32 if load.precision == "fp32" else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    config = peft.LoraConfig(
        r=load.lora_r,
        lora_alpha=2 * load.lora_r,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config)


def common_arguments(scratch: Path, load: Workload, device: str) -> dict[str, Any]:
    """What must be equal to ours, and nothing else; `bf16=False` because the weights have their dtype already."""
    return {
        "output_dir": str(scratch / "run"),
        "per_device_train_batch_size": load.batch_size,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": load.learning_rate,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": False,
        "seed": load.seed,
    }
