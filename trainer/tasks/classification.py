"""Sequence classification: one label per text, with a head that is trained in full beside the adapters."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from planner.contract.architectures import of as facts_of
from planner.contract.choices import TrainingChoices
from planner.contract.data.examples import Example
from planner.contract.data.tasks import check_label, check_labels
from planner.contract.run_settings import DataSettings
from trainer.data.tokens import TokenizedData, Tokens
from trainer.tasks.base import Unpacked, encode, mask_of, pad

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUMBER = re.compile(r"-?[0-9]{1,18}")
"""A label that is sorted as a number."""


class Classification(Unpacked):
    """Columns `text` and `label`. Labels are named in sorted order, whole numbers as themselves."""

    name = "classification"
    architectures = ("ForSequenceClassification",)

    def __init__(self, config: dict[str, object]) -> None:
        super().__init__(config)
        self.labels: list[str] = []
        """Names by number."""

    def data_settings(self, settings: DataSettings) -> DataSettings:
        return settings.model_copy(update={"format": "classification"})

    def prepare(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        """Takes the labels from the data, or the order of the model's own names where they are the same ones."""
        found = check_labels((example.label for example in examples), examples[0].where)
        own = self.config.get("id2label") or {}
        names = [str(own[key]) for key in sorted(own, key=int)]
        numbers = all(NUMBER.fullmatch(label) for label in found)
        self.labels = (
            names if found <= set(names) else sorted(found, key=lambda name: (int(name) if numbers else 0, name))
        )
        head = (self.config.get("architectures") or [""])[0]
        if not head.endswith("ForSequenceClassification"):
            self.config["architectures"] = [f"{self.config.get('model_type', '')}ForSequenceClassification"]
        self.config["id2label"] = {str(number): label for number, label in enumerate(self.labels)}
        self.config["label2id"] = {label: number for number, label in enumerate(self.labels)}
        self.config["num_labels"] = len(self.labels)
        if self.config.get("pad_token_id") is None:
            # A decoder with a classifier reads the last token before the padding, so it must know the padding.
            self.config["pad_token_id"] = tokenizer.pad_token_id

    def tokenize(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        train_on_prompt: bool = False,
    ) -> TokenizedData:
        data = TokenizedData()
        reads_end = facts_of(str(self.config.get("model_type", ""))).reads_end
        numbers = {label: number for number, label in enumerate(self.labels)}
        for example in examples:
            label = check_label(example.label, numbers, example.where)
            cut = encode(tokenizer, example.text or "", max_length)
            ids = cut.ids
            if reads_end and (not ids or ids[-1] != tokenizer.eos_token_id):
                ids = [*ids[: max_length - 1], tokenizer.eos_token_id]  # its head reads the closing token
            if not ids:
                data.skipped += 1
                continue
            data.truncated += cut.was_longer
            data.sequences.append(Tokens(array("l", ids), array("l", [numbers[label]])))
        return data

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, choices: TrainingChoices, *, seed: int, epochs: object = None
    ) -> LabelCollator:
        return LabelCollator(tokenizer.pad_token_id, choices.max_length if choices.padding == "max" else None)

    def correct(self, output: Any, labels: torch.Tensor) -> int:
        return int((output.logits.argmax(-1) == labels).sum())

    def sample_prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, given: str | None) -> str | None:
        return None

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "labels": self.labels}


class LabelCollator:
    """Rows into input_ids and attention_mask (rows, length) and labels (rows,), int64."""

    def __init__(self, pad_token_id: int, length: int | None) -> None:
        self.pad_token_id = pad_token_id
        self.length = length

    def __call__(self, rows: Sequence[list[Tokens]]) -> dict[str, object]:
        texts = [list(row[0].ids) for row in rows]
        ids = pad(texts, self.pad_token_id, self.length)
        return {
            "input_ids": ids,
            "attention_mask": mask_of(texts, ids.shape[1]),
            "labels": torch.tensor([row[0].labels[0] for row in rows], dtype=torch.int64),
            "real_tokens": sum(map(len, texts)),
        }
