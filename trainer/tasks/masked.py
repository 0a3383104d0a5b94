"""Masked language models: 15 % of the tokens are hidden and learned, the recipe of BERT (Devlin et al. 2019, 3.1)."""

from __future__ import annotations

import random
import zlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.data.examples import Example
from planner.contract.data.tasks import running_text
from planner.contract.errors import InvalidInput
from trainer.data.tokens import IGNORED, TokenizedData, Tokens
from trainer.tasks.base import Unpacked, encode, mask_of, pad

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARE = 0.15
"""Tokens that are learned."""
HIDDEN, RANDOM = 0.8, 0.1
"""Of those: shown as the mask token, as a random token; the rest stays as it is, so that shown tokens matter too."""


class Masked(Unpacked):
    """Learns tokens from both sides. Pairs and chats are read as running text."""

    name = "masked"
    architectures = ("ForMaskedLM",)

    def prepare(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token_id is None:
            raise InvalidInput("the model's tokenizer has no mask token, so it can't be trained on the task masked")

    def tokenize(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        train_on_prompt: bool = False,
    ) -> TokenizedData:
        """Every token may be hidden, so that `train_on_prompt` makes no difference. Long texts go on in a next row."""
        data = TokenizedData()
        for example in examples:
            text = running_text(example)
            if not text:
                data.skipped += 1
                continue
            rows = _rows(tokenizer, text, max_length)
            if len(rows[0]) <= tokenizer.num_special_tokens_to_add(False):  # signs that no token is made of
                data.skipped += 1
                continue
            data.split += len(rows) > 1
            for row in rows:
                data.sequences.append(Tokens(row, row))
        return data

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, choices: TrainingChoices, *, seed: int, epochs: object = None
    ) -> MaskingCollator:
        return MaskingCollator(tokenizer, choices, seed=seed, epochs=epochs)

    def sample_prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, given: str | None) -> str | None:
        return None


def _rows(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> list[array[int]]:
    """The text's tokens in rows of at most `max_length`, each between the tokenizer's own special tokens."""
    if not getattr(tokenizer, "is_fast", False):  # these hand out the overflow in another form; the first row is whole
        return [array("l", encode(tokenizer, text, max_length).ids)]
    found = tokenizer(text, truncation=True, max_length=max_length, return_overflowing_tokens=True)
    return [array("l", row) for row in found["input_ids"]]


class MaskingCollator:
    """Rows into input_ids, labels and attention_mask, int64 (rows, length).

    What is hidden is a pure function of the seed, the epoch and the row's own tokens: a resumed run, a halved batch or
    another number of workers sees the same, and an evaluation the same each time. Every row has at least one target.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, choices: TrainingChoices, *, seed: int, epochs: object = None
    ) -> None:
        self.pad_token_id = tokenizer.pad_token_id
        self.mask_token_id = tokenizer.mask_token_id
        self.special = frozenset(tokenizer.all_special_ids)
        self.ordinary = [number for number in range(len(tokenizer)) if number not in self.special]
        self.length = choices.max_length if choices.padding == "max" else None
        self.seed = seed
        self.epochs = epochs

    def __call__(self, rows: Sequence[list[Tokens]]) -> dict[str, object]:
        shown, learned = [], []
        for row in rows:
            hidden, labels = self.hide([int(token) for tokens in row for token in tokens.ids])
            shown.append(hidden)
            learned.append(labels)
        ids = pad(shown, self.pad_token_id, self.length)
        return {
            "input_ids": ids,
            "attention_mask": mask_of(shown, ids.shape[1]),
            "labels": pad(learned, IGNORED, ids.shape[1]),
            "real_tokens": sum(map(len, shown)),
        }

    def hide(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """(what the model sees, what it learns) of one row."""
        epoch = getattr(self.epochs, "epoch", -1)
        content = zlib.crc32(torch.tensor(ids, dtype=torch.int32).numpy().tobytes())
        rng = random.Random(f"{self.seed}-{epoch}-{content}")
        open_places = [place for place, token in enumerate(ids) if token not in self.special]
        chosen = [place for place in open_places if rng.random() < SHARE]
        if not chosen and open_places:
            chosen = [rng.choice(open_places)]
        shown, labels = list(ids), [IGNORED] * len(ids)
        for place in chosen:
            labels[place] = ids[place]
            dice = rng.random()
            if dice < HIDDEN:
                shown[place] = self.mask_token_id
            elif dice < HIDDEN + RANDOM:
                shown[place] = rng.choice(self.ordinary)
        return shown, labels
