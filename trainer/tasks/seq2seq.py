"""Encoder-decoder models (T5): the encoder reads the prompt, the decoder learns the answer."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from planner.contract.choices import TrainingChoices
from planner.contract.data.examples import Example
from planner.contract.data.tasks import pair, plain_texts
from trainer.data.tokens import IGNORED, TokenizedData, Tokens
from trainer.tasks.base import Unpacked, encode, mask_of, pad

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SourceAndTarget(Tokens):
    """A source in `ids` and a target in `labels`, of different lengths; it is as long as the longer one."""

    __slots__ = ()

    def __len__(self) -> int:
        return max(len(self.ids), len(self.labels))


class SequenceToSequence(Unpacked):
    """Every shape of data with a question and an answer."""

    name = "seq2seq"
    architectures = ("ForConditionalGeneration",)
    max_target_length: int | None = None
    """Tokens that an answer keeps; None: as many as what is read."""

    def check(self, choices: TrainingChoices) -> None:
        super().check(choices)
        self.max_target_length = choices.max_target_length

    def tokenize(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        train_on_prompt: bool = False,
    ) -> TokenizedData:
        """Source and target each keep their closing token, cut to `max_length` and `max_target_length`."""
        data = TokenizedData()
        for example in examples:
            before, answer = pair(example)
            source = encode(tokenizer, before, max_length)
            target = encode(tokenizer, answer, self.max_target_length or max_length)
            if not source.ids or not answer:
                data.skipped += 1
                continue
            data.truncated += source.was_longer or target.was_longer
            data.sequences.append(SourceAndTarget(array("l", source.ids), array("l", target.ids)))
        return data

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, choices: TrainingChoices, *, seed: int, epochs: Any = None
    ) -> PairCollator:
        if choices.padding != "max":
            return PairCollator(tokenizer.pad_token_id, None, None)
        return PairCollator(tokenizer.pad_token_id, choices.max_length, choices.max_target_length or choices.max_length)

    def sample_prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, given: str | None) -> str | None:
        return given if given is not None else plain_texts(example)[0]


class PairCollator:
    """Rows into input_ids and attention_mask (rows, source length) and labels (rows, target length), int64."""

    def __init__(self, pad_token_id: int, length: int | None, target_length: int | None) -> None:
        self.pad_token_id = pad_token_id
        self.length = length
        self.target_length = target_length

    def __call__(self, rows: Sequence[list[Tokens]]) -> dict[str, Any]:
        sources = [list(row[0].ids) for row in rows]
        targets = [list(row[0].labels) for row in rows]
        ids = pad(sources, self.pad_token_id, self.length)
        return {
            "input_ids": ids,
            "attention_mask": mask_of(sources, ids.shape[1]),
            "labels": pad(targets, IGNORED, self.target_length),
            "real_tokens": sum(map(len, sources)) + sum(map(len, targets)),
        }
