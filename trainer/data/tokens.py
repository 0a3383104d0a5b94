"""Examples into token sequences with labels: chat template, loss on completions only, truncation counted."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planner.contract.data.examples import Example, Message
from planner.contract.data.rendering import Remarks, Rendered, Rendering, Span, inside
from planner.contract.data.template import ChatTemplate
from planner.contract.errors import InvalidInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def template_of(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The tokenizer's chat template; None where it has none."""
    name = str(getattr(tokenizer, "name_or_path", "") or "")
    files = [Path(name) / "chat_template.jinja", Path(name) / "tokenizer_config.json"]
    place = next((str(file) for file in files if name and file.is_file()), name or "the tokenizer")
    return ChatTemplate.choose(tokenizer.chat_template, getattr(tokenizer, "special_tokens_map", {}), place)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], shape: str = "prompt-completion"
) -> str:
    """Text that a model is given before it answers; the chat template where the tokenizer has one."""
    return Rendering(template_of(tokenizer)).prompt(messages, shape)


def tokenize(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, max_length: int, train_on_prompt: bool = False
) -> TokenizedData:
    """Sequences of at most `max_length` tokens. Chats and pairs are cut at the end, plain texts go on in the next."""
    data = TokenizedData()
    for example, rendered in zip(examples, Rendering(template_of(tokenizer)).render(examples), strict=True):
        if example.text is not None:
            _add_text(data, example.text, tokenizer, max_length)
            continue
        ids, learned = _chat(rendered, tokenizer, max_length)
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


def _add_text(data: TokenizedData, text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    ids = list(tokenizer(text, return_attention_mask=False, return_token_type_ids=False)["input_ids"])
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


def _chat(rendered: Rendered, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and which of them are learned; of a longer one at least `max_length` + 1."""
    if not rendered.text:
        return [], []
    # A template writes its own special tokens; where there is none, the tokenizer does.
    special = not rendered.templated
    text = _beginning(rendered.text, tokenizer, max_length, special=special)
    ids, learned = _mark(text, rendered.spans, tokenizer, special=special)
    if not rendered.templated and tokenizer.eos_token_id is not None:
        closed = bool(rendered.spans) and rendered.spans[-1][1] == len(rendered.text)
        if ids and ids[-1] == tokenizer.eos_token_id:
            learned[-1] = closed
        else:
            ids.append(tokenizer.eos_token_id)
            learned.append(closed)
    return ids, learned


def _beginning(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int, *, special: bool) -> str:
    """As much of a text as its first `max_length` tokens can depend on; the whole where that can't be told.

    Tokens depend on their surroundings, so a beginning counts only if one twice as long has the same first tokens.
    """
    size = 16 * max_length + 4096
    while 2 * size < len(text):
        shorter, longer = (tokenizer(text[:end], add_special_tokens=special)["input_ids"] for end in (size, 2 * size))
        if len(shorter) > max_length + 64 and shorter[: max_length + 1] == longer[: max_length + 1]:
            return text[:size]
        size *= 8
    return text


def _mark(
    text: str, spans: Sequence[Span], tokenizer: PreTrainedTokenizerBase, *, special: bool
) -> tuple[list[int], list[bool]]:
    """Tokenizes the text once, so that token borders are the tokenizer's own, and marks what is learned."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(
            text,
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return list(encoded["input_ids"]), inside(encoded["offset_mapping"], spans)
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    learned = [False] * len(ids)
    for begin, stop in spans:
        if begin >= len(text):
            break
        first = _common_prefix(ids, tokenizer(text[:begin], add_special_tokens=special)["input_ids"])
        last = _common_prefix(ids, tokenizer(text[:stop], add_special_tokens=special)["input_ids"])
        learned[first:last] = [True] * (last - first)
    return ids, learned


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count
