"""A finished run read back: the task it was trained for, and its base network with that task's head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.contract import json_text
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings
from planner.contract.shown import clause
from trainer.tasks.base import TASK_FILE
from trainer.tasks.choice import choose


def load_pretrained(source: str, task: dict[str, Any], dtype: object = "auto") -> Any:
    """The base network of a finished run, with the head of its task; safetensors only, no code that comes with them."""
    import transformers

    from trainer import modeling
    from trainer.loop import loading
    from trainer.weights import model_files

    cls: type = {
        "masked": transformers.AutoModelForMaskedLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
        "classification": transformers.AutoModelForSequenceClassification,
    }.get(task.get("task", "causal"), transformers.AutoModelForCausalLM)
    config = modeling.as_config(loading.read_config(source), source)
    labels = task.get("labels")
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    files = model_files.find(source)
    if not files.weights:
        raise InvalidInput(f"{source}: holds no safetensors weights")
    try:
        return modeling.from_files(cls, config, files, dtype=dtype)[0].eval()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{source}: the model can't be loaded: {clause(error)}") from None


def read_task_file(folder: Path) -> dict[str, Any]:
    """Content of `task.json`; a folder without one is causal, or what PEFT's task type says."""
    for name in (TASK_FILE, "adapter_config.json"):
        if not (folder / name).exists():
            continue
        content = json_text.read_object(folder / name)
        if name == TASK_FILE:
            return _checked(content, folder / name)
        kinds = {"SEQ_CLS": "classification", "SEQ_2_SEQ_LM": "seq2seq"}
        return {"task": kinds.get(str(content.get("task_type")), "causal")}
    return _from_config(folder)


def _checked(content: dict[str, object], file: Path) -> dict[str, object]:
    """A task file's content. Raises InvalidInput for a task or labels that aren't ones."""
    labels = content.get("labels")
    named = labels is None or (isinstance(labels, list) and all(isinstance(label, (str, int)) for label in labels))
    if content.get("task", "causal") not in ("causal", "masked", "seq2seq", "classification") or not named:
        raise InvalidInput(f"{file}: damaged; it names neither a task nor labels that this program knows")
    return content


def _from_config(folder: Path) -> dict[str, object]:
    try:
        config = json_text.read_object(folder / "config.json")
    except InvalidInput:
        return {"task": "causal"}
    return {"task": choose(config, DataSettings()).name}
