"""The causal task, which the others derive from, and which task a model and its data ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.data.examples import Example, Message
from planner.contract.errors import NotModelled
from planner.contract.run_settings import DataSettings
from trainer.data.tokens import IGNORED, TokenizedData, Tokens, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    def prepare(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        """Looks at the training examples before they are tokenized (labels, ids that the config lacks)."""

    def tokenize(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        train_on_prompt: bool = False,
    ) -> TokenizedData:
        """Examples as sequences of at most `max_length` tokens."""
        return tokenize(examples, tokenizer, max_length=max_length, train_on_prompt=train_on_prompt)

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, choices: TrainingChoices, *, seed: int, epochs: object = None
    ) -> Callable[[Sequence[list[Tokens]]], dict[str, Any]]:
        """What makes a micro-batch of rows. `epochs` has the running `epoch`; None gives the same batch each time."""
        from trainer.data.batches import Collator

        return Collator(pad_token_id=tokenizer.pad_token_id, max_length=choices.max_length, padding=choices.padding)

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """How many targets a batch's labels hold, a 0-dim int64 tensor. Here position t predicts the label of t + 1."""
        return (labels[..., 1:] != IGNORED).sum()

    def correct(self, output: object, labels: torch.Tensor) -> int | None:
        """How many of a batch's targets the model got right; None where only the loss is reported."""
        return None

    def sample_prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, given: str | None) -> str | None:
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

    def require(self, model: torch.nn.Module, name: str) -> None:
        """Refuses a network with another head."""
        if not type(model).__name__.endswith(self.architectures):
            raise NotModelled(f"{name} is a {type(model).__name__}, which can't be trained on the task {self.name}")

    def describe(self) -> dict[str, object]:
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


TASK_FILE = "task.json"
"""Beside an adapter: what it was trained for, and the labels of a classifier (plain PEFT has no place for them)."""


def with_task_file(folder: Path, task: Task) -> None:
    """Writes `task.json`, beside an adapter with the fingerprint of the weights below it."""
    from planner.contract.files import write_json

    below = {"base_weights": task.base_weights} if (folder / "adapter_config.json").is_file() else {}
    write_json(folder / TASK_FILE, {**task.describe(), **below})


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


@dataclasses.dataclass(frozen=True, slots=True)
class CutText:
    """Token ids of a text, cut to a length with its closing token kept."""

    ids: list[int]
    was_longer: bool


def encode(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> CutText:
    """The text between the tokenizer's own special tokens; what is too long loses its end, never the closing token."""
    ids = list(tokenizer(text)["input_ids"])
    if len(ids) <= max_length:
        return CutText(ids, False)
    closing = ids[-1] in set(tokenizer.all_special_ids)
    return CutText([*ids[: max_length - 1], ids[-1]] if closing else ids[:max_length], True)
