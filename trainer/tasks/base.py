"""The causal task, which the others derive from, and which task a model and its data ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from planner.contract import json_text
from planner.contract.data.examples import Example, Message
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.records import DataSettings
from planner.contract.shown import clause
from planner.contract.spec import TrainingChoices
from trainer.data.tokens import IGNORED, TokenizedData, tokenize


class Task:
    """Next-token prediction. One instance belongs to one run; `prepare` may teach it something about the data."""

    name = "causal"
    architectures: tuple[str, ...] = ("ForCausalLM", "LMHeadModel")
    """Ends of the class names of transformers models that learn this."""

    base_weights: str | None = None
    """Fingerprint of the weights that an adapter is trained over, once a run knows it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def check(self, choices: TrainingChoices) -> None:
        """Refuses choices that this task has no code for."""

    def data_settings(self, settings: DataSettings) -> DataSettings:
        """How the data is to be read."""
        return settings

    def prepare(self, examples: Sequence[Example], tokenizer: Any) -> None:
        """Looks at the training examples before they are tokenized (labels, ids that the config lacks)."""

    def tokenize(
        self, examples: Sequence[Example], tokenizer: Any, *, max_length: int, train_on_prompt: bool = False
    ) -> TokenizedData:
        """Examples as sequences of at most `max_length` tokens."""
        return tokenize(examples, tokenizer, max_length=max_length, train_on_prompt=train_on_prompt)

    def collator(self, tokenizer: Any, choices: TrainingChoices, *, seed: int, epochs: Any = None) -> Any:
        """What makes a micro-batch of rows. `epochs` has the running `epoch`; None gives the same batch each time."""
        from trainer.data.batches import Collator

        return Collator(pad_token_id=tokenizer.pad_token_id, max_length=choices.max_length, padding=choices.padding)

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """How many targets a batch's labels hold, a 0-dim int64 tensor. Here position t predicts the label of t + 1."""
        return (labels[..., 1:] != IGNORED).sum()

    def correct(self, output: Any, labels: torch.Tensor) -> int | None:
        """How many of a batch's targets the model got right; None where only the loss is reported."""
        return None

    def sample_prompt(self, example: Example, tokenizer: Any, given: str | None) -> str | None:
        """Text that the model continues at each evaluation; None where it can't generate."""
        from trainer.data.tokens import render_prompt

        if given is not None:
            return render_prompt(tokenizer, [Message("user", given, False)])
        if example.messages is not None:
            messages = example.messages
            last = max((number for number, message in enumerate(messages) if message.learned), default=0)
            return render_prompt(tokenizer, messages[:last], example.shape) if last else None
        words = (example.text or "").split(" ")
        return " ".join(words[: max(1, min(8, len(words) // 2))]) if example.text else None

    def require(self, model: Any, name: str) -> None:
        """Refuses a network with another head."""
        if not type(model).__name__.endswith(self.architectures):
            raise NotModelled(f"{name} is a {type(model).__name__}, which can't be trained on the task {self.name}")

    def describe(self) -> dict[str, Any]:
        """What must be known beside the weights to use them; written into the result's folder."""
        return {"schema": "tuneplan.task/1", "task": self.name}


class Unpacked(Task):
    """Tasks whose padding is masked: their models look to the right as well."""

    def check(self, choices: TrainingChoices) -> None:
        if choices.padding == "packed":
            raise NotModelled(f"--padding packed is made for causal models, not for the task {self.name}; use longest")
        if choices.loss == "chunked":
            raise NotModelled(f"--loss chunked is made for causal models, not for the task {self.name}; use full")

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        return (labels != IGNORED).sum()


def choose(config: dict[str, Any], settings: DataSettings) -> Task:
    """The task that the model's head, or data of the format `classification`, asks for."""
    from trainer.modeling.build import auto_class
    from trainer.tasks.classification import Classification
    from trainer.tasks.masked import Masked
    from trainer.tasks.seq2seq import SequenceToSequence

    if settings.format == "classification":
        return Classification(config)
    name = auto_class(config).__name__
    kinds = {
        "AutoModelForSequenceClassification": Classification,
        "AutoModelForSeq2SeqLM": SequenceToSequence,
        "AutoModelForMaskedLM": Masked,
    }
    return kinds.get(name, Task)(config)


TASK_FILE = "task.json"
"""Beside an adapter: what it was trained for, and the labels of a classifier (plain PEFT has no place for them)."""


def load_pretrained(source: str, task: dict[str, Any], dtype: Any = "auto") -> Any:
    """The base network of a finished run, with the head of its task; safetensors only, no code that comes with them."""
    import transformers

    from trainer import modeling
    from trainer.loop import loading
    from trainer.weights import model_files

    cls: Any = {
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


def with_task_file(folder: Path, task: Task) -> None:
    """Writes `task.json`, beside an adapter with the fingerprint of the weights below it."""
    from planner.contract.files import write_json

    below = {"base_weights": task.base_weights} if (folder / "adapter_config.json").is_file() else {}
    write_json(folder / TASK_FILE, {**task.describe(), **below})


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


def _checked(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """A task file's content. Raises InvalidInput for a task or labels that aren't ones."""
    labels = content.get("labels")
    named = labels is None or (isinstance(labels, list) and all(isinstance(label, (str, int)) for label in labels))
    if content.get("task", "causal") not in ("causal", "masked", "seq2seq", "classification") or not named:
        raise InvalidInput(f"{file}: damaged; it names neither a task nor labels that this program knows")
    return content


def _from_config(folder: Path) -> dict[str, Any]:
    try:
        config = json_text.read_object(folder / "config.json")
    except InvalidInput:
        return {"task": "causal"}
    return {"task": choose(config, DataSettings()).name}


def pad(rows: Sequence[Sequence[int]], value: int, length: int | None = None) -> torch.Tensor:
    """Rows as one int64 tensor (rows, longest or `length`), filled up on the right."""
    width = length or max(len(row) for row in rows)
    out = torch.full((len(rows), width), value, dtype=torch.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return out


def mask_of(rows: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """1 on tokens, 0 on padding: int64 (rows, width)."""
    return pad([[1] * len(row) for row in rows], 0, width)


def plain_texts(example: Example) -> tuple[str, str | None]:
    """(text before the last answer, that answer or None); chats become lines without a template."""
    if example.text is not None:
        return example.text, None
    messages = example.messages or ()
    if any(message.extras.get("tool_calls") for message in messages):
        raise InvalidInput(f"{example.where}: calls tools, which only a causal model with a chat template can learn")
    before = "\n".join(message.content for message in messages[:-1])
    return before, messages[-1].content


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """Token ids of a text, cut to a length with its closing token kept."""

    ids: list[int]
    was_longer: bool


def encode(tokenizer: Any, text: str, max_length: int) -> Cut:
    """The text between the tokenizer's own special tokens; what is too long loses its end, never the closing token."""
    ids = list(tokenizer(text)["input_ids"])
    if len(ids) <= max_length:
        return Cut(ids, False)
    closing = ids[-1] in set(tokenizer.all_special_ids)
    return Cut([*ids[: max_length - 1], ids[-1]] if closing else ids[:max_length], True)
