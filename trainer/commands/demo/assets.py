"""Makes the demonstration's model and data, once per user and per state of these sources."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from planner.contract import process
from planner.contract.choices import TrainingChoices
from planner.contract.errors import RunFailed
from planner.contract.files import expanded, user_data_dir, write_json, write_whole
from planner.contract.process import held
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from trainer.commands.demo import language, tokenizer
from trainer.commands.presets import config
from trainer.wire import files

log = logging.getLogger("trainer")

TRAINING_PAIRS = 1200
HELD_OUT_PAIRS = 100
PRETRAINING_PAIRS = 9600
PRETRAINING_BATCH = 32
MAX_POSITIONS = 256


def key() -> str:
    """Hash of the sources that decide what the assets are; another state of them makes new assets."""
    digest = hashlib.sha256()
    for source in (Path(__file__), Path(language.__file__), Path(tokenizer.__file__)):
        digest.update(source.read_bytes())
    digest.update(json.dumps(config("demo", vocab_size=0)).encode())
    return digest.hexdigest()[:12]


def make(destination: Path | None = None) -> dict[str, Any]:
    """Makes what is missing and returns the paths: model, train, held_out, seconds (0 when all was there).

    The model is kept in the user's data folder under the hash of these sources; `destination` gets a copy.
    """
    cache = user_data_dir() / "demo" / key()
    started = time.monotonic()
    target = cache if destination is None else expanded(destination)
    if target != cache and not _is_copy(target, cache):
        files.new_folder(target, "demo-assets")  # refused before minutes are spent
    if files.manifest_problem(cache) is not None:
        try:
            _make_cache(cache)
        except OSError as error:
            raise RunFailed(
                f"{cache.parent} can't be written: {error.strerror or error}; TUNEPLAN_HOME names another folder"
            ) from None
    seconds = round(time.monotonic() - started, 1)
    folder = target.resolve()
    if folder != cache.resolve() and not _is_copy(folder, cache):
        with files.whole_folder(files.new_folder(target, "demo-assets")) as made:
            shutil.copytree(cache, made, dirs_exist_ok=True)
    return {
        "model": str(folder / "model"),
        "train": str(folder / "train.jsonl"),
        "held_out": str(folder / "held_out.jsonl"),
        "rule": language.RULE,
        "seconds": seconds,
    }


def _is_copy(folder: Path, cache: Path) -> bool:
    """Whether an earlier call has put the same files there."""
    if files.manifest_problem(folder) is not None or files.manifest_problem(cache) is not None:
        return False
    return (folder / files.MANIFEST).read_bytes() == (cache / files.MANIFEST).read_bytes()


def _make_cache(cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=".making-") as name:
        work = Path(name)
        _write_pairs(work / "pretraining.jsonl", language.pretraining_pairs(PRETRAINING_PAIRS))
        blank = work / "blank"
        made = tokenizer.build()
        made.save_pretrained(blank)
        write_json(blank / "config.json", config("demo", vocab_size=len(made), max_positions=MAX_POSITIONS))
        plan = work / "plan.json"
        plan.write_text(_pretraining_plan(blank, work / "pretraining.jsonl").model_dump_json(by_alias=True))
        _run(plan, work / "run")
        with files.whole_folder(cache) as folder:
            shutil.copytree(work / "run" / "model", folder / "model")
            pairs = language.rule_pairs(TRAINING_PAIRS + HELD_OUT_PAIRS)
            _write_pairs(folder / "train.jsonl", pairs[:TRAINING_PAIRS])
            _write_pairs(folder / "held_out.jsonl", pairs[TRAINING_PAIRS:])
            files.write_manifest(folder)


def _pretraining_plan(model: Path, data: Path) -> Plan:
    return Plan(
        model=str(model),
        gpu="cpu",
        settings=TrainingChoices(
            method="full",
            precision="fp32",
            batch_size=PRETRAINING_BATCH,
            gradient_accumulation_steps=1,
            max_length=64,
            gradient_checkpointing=False,
        ),
        hyperparameters=Hyperparameters(
            learning_rate=1.5e-3,
            epochs=1,
            warmup_ratio=0.1,
            beta2=0.98,
            report_to=(),
            logging_steps=30,
            early_stopping_patience=0,
        ),
        data=DataSettings(path=str(data), validation_split=0.01),
    )


def _run(plan: Path, output: Path) -> None:
    """Pre-trains by the same command that trains everything else; progress goes to stderr."""
    command = process.command("trainer", "run", str(plan), "--output", str(output))
    environment = process.environment(TUNEPLAN_HOME=str(output.parent / "home"))  # its observation is of no use later
    print("making the demonstration's model from nothing (once, about a minute; later runs reuse it)", file=sys.stderr)
    with held():
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment)
    with started as child:
        assert child.stdout is not None
        message = reason = None
        for line in child.stdout:
            event = json.loads(line)
            if event["kind"] == "step":
                data = event["data"]
                print(f"  step {data['step']}/{data['total_steps']} loss {data['loss']:.3f}", file=sys.stderr)
            elif event["kind"] == "failed":
                message = event["data"]["message"]
            elif event["kind"] == "finished":
                reason = event["data"]["reason"]
    if child.returncode != 0 or reason in (None, "stopped"):  # half a training is no model to keep
        detail = message or reason or f"the trainer ended with exit code {child.returncode} before it finished"
        raise process.failure(child.returncode, f"the demonstration model could not be made: {detail}")


def _write_pairs(path: Path, pairs: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in pairs]
    write_whole(path, ("\n".join(lines) + "\n").encode())
