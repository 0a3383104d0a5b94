"""Checkpoint folders of a run: which is the last good one, what run it belongs to, which may go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.contract import json_text, run_folder
from planner.contract.errors import InvalidInput
from planner.contract.files import expanded, write_json
from trainer.weights.model_files import refused
from trainer.wire.files import manifest_problem, retire
from trainer.wire.folder import is_ours

IDENTITY = "tuneplan.json"
"""File in a checkpoint that says which data, order and settings it belongs to."""

RESUMABLE = {
    "batch_size": "the order of the examples depends on it",
    "gradient_accumulation_steps": "the order of the examples depends on it",
    "max_length": "sequences would be cut elsewhere",
    "padding": "batches would be made differently",
    "seed": "the order of the examples depends on it",
    "group_by_length": "the order of the examples depends on it",
    "method": "other parameters would be trained",
    "lora_r": "adapters have another shape",
    "lora_alpha": "adapters would weigh otherwise",
    "lora_variant": "adapters would be computed otherwise",
    "lora_dropout": "other elements would be dropped",
    "lora_targets": "adapters sit elsewhere",
    "modules_to_save": "other modules would be trained in full",
    "precision": "weights and steps would be rounded otherwise",
    "adapter_dtype": "adapters would be rounded otherwise",
    "quantization": "the weights below the adapters would be other ones",
    "kbit_preparation": "the weights below the adapters would be other ones",
    "optimizer": "its state has another form",
    "task": "something else would be learned",
    "weights": "the base model's weights changed since then",
    "tokenizer": "the tokenizer or its chat template changed since then",
    "data": "the data changed since then",
}
"""What must be as it was for a resumed run to go on exactly where it stopped, and why.

Not here, and told as a change of the plan: rates, decay, clipping, the rhythm of logs and checkpoints, and what changes
memory and speed alone (checkpointing, attention's kernel, chunked loss, devices).
"""

FINGERPRINTS = ("weights", "tokenizer", "data")
"""Those whose values say nothing to a person."""


def steps(run_dir: Path) -> list[tuple[int, Path]]:
    """Checkpoints of the folder, newest first, as (step, path)."""
    return run_folder.checkpoints(run_dir)


def last_good(run_dir: Path) -> Path | None:
    """Newest checkpoint whose files are all what was written."""
    for _, path in steps(run_dir):
        if manifest_problem(path) is None:
            return path
    return None


def write_identity(folder: Path, identity: dict[str, object]) -> None:
    """Notes what the checkpoint belongs to."""
    write_json(folder / IDENTITY, {"schema": "tuneplan.checkpoint/1", **identity})


def _identity(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of itself. Raises InvalidInput where that isn't what this program writes."""
    try:
        was = json_text.read_object(folder / IDENTITY)
    except InvalidInput:
        raise InvalidInput(f"{folder}: {IDENTITY} is missing or damaged; this isn't a checkpoint of tuneplan") from None
    rows = was.get("recovery", {})
    counts = [was.get("processes", 1), *(rows.values() if isinstance(rows, dict) else [None])]
    if any(type(count) is not int or count < 1 for count in counts):
        raise InvalidInput(f"{folder}: {IDENTITY} is damaged; go on from another checkpoint")
    return was


def recovery_state(folder: Path) -> dict[str, int]:
    """With how many rows at once the run had come to train; empty for checkpoints that don't say."""
    return dict(_identity(folder).get("recovery", {}))


PROGRESS = "trainer_state.json"
"""File in a checkpoint with step, epoch and logs, as transformers writes it."""


def check_progress(folder: Path) -> None:
    """Refuses a checkpoint whose step, epoch or logs aren't ones, before transformers takes them as they are."""
    content = json_text.read_object(folder / PROGRESS, max_bytes=2**28, max_values=2**24)

    def count(key: str, usual: object) -> bool:
        value = content.get(key, usual)
        return value is None if usual is None and value is None else type(value) is int and 0 <= value < 2**53

    logs = content.get("log_history", [])
    numbers = [content.get(key) for key in ("epoch", "best_metric", "total_flos", "num_input_tokens_seen")]
    sound = (
        all(count(key, 0) for key in ("global_step", "max_steps", "num_train_epochs"))
        and count("best_global_step", None)
        and all(value is None or type(value) in (int, float) for value in numbers)
        and isinstance(logs, list)
        and all(isinstance(entry, dict) and type(entry.get("step", 0)) is int for entry in logs)
        and all(type(value) in (int, float, str, bool, type(None)) for entry in logs for value in entry.values())
        and isinstance(content.get("stateful_callbacks", {}), dict)
    )
    if not sound or "global_step" not in content:
        raise InvalidInput(f"{folder / PROGRESS}: damaged; go on from another checkpoint")


def best(run_dir: Path, folder: Path, otherwise: str | None) -> str | None:
    """The checkpoint of the run folder that was the best one when `folder` was written, if it is still there.

    `otherwise`: what the state of an older release names, by a path that holds no more where the run was moved.
    """
    named = _identity(folder).get("best", otherwise)
    path = run_dir / Path(str(named)).name
    return str(path) if run_folder.checkpoint_step(path.name) is not None and path.is_dir() else None


def check_identity(folder: Path, identity: dict[str, object]) -> None:
    """Refuses to go on from a checkpoint of another run, naming the first thing that differs."""
    was = _identity(folder)
    for key, why in RESUMABLE.items():
        if key in identity and was.get(key) != identity[key]:
            both = f"{key} was {was.get(key)!r} and is {identity[key]!r} now"
            differs = f"other {key}" if key in FINGERPRINTS else both
            raise InvalidInput(
                f"can't resume from {folder}: {differs} ({why}); "
                "use the plan and data it was started with, or start a new run in another --output"
            )


def refuse_pickles(folder: Path) -> None:
    """Refuses a checkpoint with files that could run code, as those of earlier releases have."""
    pickled = refused(folder)
    if pickled is not None:
        raise InvalidInput(
            f"--resume {folder}: {pickled.name} may be a pickle, which can run code and is never loaded (earlier "
            "releases wrote such checkpoints): finish it with the release that wrote it, or start a new run from its "
            f"weights with --adapter {folder} (after full training: plan the model {folder})"
        )


def of_step(step: int | None, *folders: Path) -> Path | None:
    """The checkpoint of a step in the first of the run folders that has it."""
    paths = [folder / f"checkpoint-{step}" for folder in folders]
    return next((path for path in paths if step and path.is_dir()), None)


def processes(folder: Path) -> int:
    """How many processes wrote a checkpoint."""
    return int(_identity(folder).get("processes", 1))


def find(run_dir: Path, resume: str) -> tuple[Path, list[str]]:
    """The checkpoint that `--resume` means, with warnings about damaged ones that were passed over.

    `auto` takes the newest good one of the run folder; a path names a checkpoint or a run folder. A resume that would
    silently start from the beginning is refused.
    """
    folder = run_dir if resume == "auto" else expanded(resume)
    if not folder.is_dir():
        raise InvalidInput(f"--resume {folder}: no such folder")
    if (folder / "trainer_state.json").is_file() or folder.name.startswith("checkpoint-"):
        problem = manifest_problem(folder)
        if problem:
            raise InvalidInput(
                f"--resume {folder}: this checkpoint is damaged ({problem}); --resume auto takes a good one"
            )
        refuse_pickles(folder)
        return folder, []
    passed_over: list[str] = []
    for _, path in steps(folder):
        problem = manifest_problem(path)
        if problem is None:
            refuse_pickles(path)
            return path, passed_over
        passed_over.append(f"{path} is damaged ({problem})")
    detail = f": {passed_over[0]}" if passed_over else ""
    raise InvalidInput(f"--resume: {folder} holds no good checkpoint{detail}; start without --resume")


def rotate(run_dir: Path, limit: int | None, best: str | None) -> None:
    """Removes the oldest checkpoints of ours beyond `limit`; the newest and the best always stay."""
    if not limit or limit < 1:
        return
    found = [path for _, path in steps(run_dir)]
    keep = set(found[:1])
    if best is not None:
        keep.add(run_dir / Path(best).name)
    for path in found:
        if len(keep) >= limit:
            break
        keep.add(path)
    for path in found:
        if path not in keep and is_ours(path):
            retire(path)
