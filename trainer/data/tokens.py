"""Examples into token sequences with labels: chat template, loss on completions only, truncation counted."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.contract.data.examples import Example, Message
from planner.contract.data.rendering import Remarks, Rendered, Rendering, Span
from planner.contract.data.template import ChatTemplate
from planner.contract.errors import InvalidInput

IGNORED = -100
"""Label of a position that isn't learned; the value that torch's cross-entropy skips."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence: token ids and, at each position, the label (the same id, or `IGNORED`)."""

    ids: array[int]
    labels: array[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class TokenizedData:
    """Sequences in example order, and what happened on the way."""

    sequences: list[Tokens] = field(default_factory=list)
    truncated: int = 0
    """Examples cut at `max_length`."""
    split: int = 0
    """Plain texts longer than `max_length`, continued in further sequences."""
    skipped: int = 0
    """Examples without a single token to learn: empty, or a prompt that alone fills `max_length`."""
    remarks: Remarks = field(default_factory=Remarks)
    """What is learned otherwise than the data has it, because of the chat template."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [len(sequence) for sequence in self.sequences]

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(self.lengths)

    def fingerprint(self) -> str:
        """Hash of every token and label, by which a resumed run knows that its data is still the same."""
        digest = hashlib.sha256()
        for sequence in self.sequences:
            digest.update(sequence.ids.tobytes())
            digest.update(sequence.labels.tobytes())
            digest.update(b"|")
        return digest.hexdigest()[:16]


def template_of(tokenizer: Any) -> ChatTemplate | None:
    """The tokenizer's chat template; None where it has none."""
    name = str(getattr(tokenizer, "name_or_path", "") or "")
    files = [Path(name) / "chat_template.jinja", Path(name) / "tokenizer_config.json"]
    place = next((str(file) for file in files if name and file.is_file()), name or "the tokenizer")
    return ChatTemplate.choose(tokenizer.chat_template, getattr(tokenizer, "special_tokens_map", {}), place)


def render_prompt(tokenizer: Any, messages: Sequence[Message], shape: str = "prompt-completion") -> str:
    """Text that a model is given before it answers; the chat template where the tokenizer has one."""
    return Rendering(template_of(tokenizer)).prompt(messages, shape)


def tokenize(
    examples: Sequence[Example], tokenizer: Any, *, max_length: int, train_on_prompt: bool = False
) -> TokenizedData:
    """Sequences of at most `max_length` tokens. Chats and pairs are cut at the end, plain texts go on in the next."""
    data = TokenizedData()
    for example, rendered in zip(examples, Rendering(template_of(tokenizer)).render(examples), strict=True):
        if example.text is not None:
            _add_text(data, example.text, tokenizer, max_length)
            continue
        ids, learned = _chat(rendered, tokenizer)
        if train_on_prompt:
            learned = [True] * len(ids)
        elif not rendered.spans and rendered.counts.get("unfound"):
            raise InvalidInput(
                f"{example.where}: the chat template doesn't keep the assistant's turns recognisable; learn all of "
                "the text with --train-on-prompt, or use data of the shape text"
            )
        data.remarks.add(rendered, example.where)
        if len(ids) > max_length:
            data.truncated += 1
            ids, learned = ids[:max_length], learned[:max_length]
        # The first position is predicted from nothing, so it never counts as learned.
        if not any(learned[1:]):
            data.skipped += 1
            continue
        labels = [token if is_learned else IGNORED for token, is_learned in zip(ids, learned, strict=True)]
        labels[0] = IGNORED
        data.sequences.append(Tokens(array("l", ids), array("l", labels)))
    return data


def _add_text(data: TokenizedData, text: str, tokenizer: Any, max_length: int) -> None:
    ids = list(tokenizer(text)["input_ids"])
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids.append(tokenizer.eos_token_id)
    if len(ids) < 2:
        data.skipped += 1
        return
    if len(ids) > max_length:
        data.split += 1
    for start in range(0, len(ids), max_length):
        piece = ids[start : start + max_length]
        if len(piece) < 2:
            break
        data.sequences.append(Tokens(array("l", piece), array("l", [IGNORED, *piece[1:]])))


def _chat(rendered: Rendered, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and which of them are learned."""
    if not rendered.text:
        return [], []
    # A template writes its own special tokens; where there is none, the tokenizer does.
    ids, learned = _mark(rendered.text, rendered.spans, tokenizer, special=not rendered.templated)
    if not rendered.templated and tokenizer.eos_token_id is not None:
        closed = bool(rendered.spans) and rendered.spans[-1][1] == len(rendered.text)
        if ids and ids[-1] == tokenizer.eos_token_id:
            learned[-1] = closed
        else:
            ids.append(tokenizer.eos_token_id)
            learned.append(closed)
    return ids, learned


def _mark(text: str, spans: Sequence[Span], tokenizer: Any, *, special: bool) -> tuple[list[int], list[bool]]:
    """Tokenizes the text once, so that token borders are the tokenizer's own, and marks what is learned.

    A token that lies across a border belongs to the assistant's side: given the prompt alone, the model has to say it.
    """
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return list(encoded["input_ids"]), _inside(encoded["offset_mapping"], spans)
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    learned = [False] * len(ids)
    for begin, stop in spans:
        first = _common_prefix(ids, tokenizer(text[:begin], add_special_tokens=special)["input_ids"])
        last = _common_prefix(ids, tokenizer(text[:stop], add_special_tokens=special)["input_ids"])
        learned[first:last] = [True] * (last - first)
    return ids, learned


def _inside(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[bool]:
    """Of each token whether it has a character in one of the spans, which are in order and don't overlap."""
    ends = [stop for _, stop in spans]
    learned = []
    for start, end in offsets:
        # Byte-level tokenizers trim blanks off the offsets, so a token of blanks alone is empty, at its end.
        start = min(start, end - 1)
        place = bisect_right(ends, start)
        learned.append(place < len(spans) and end > spans[place][0])
    return learned


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count
