"""Examples into token sequences with labels: chat template, loss on completions only, truncation counted."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.contract.data.examples import Example, Message
from planner.contract.errors import InvalidInput

IGNORED = -100
"""Label of a position that isn't learned; the value that torch's cross-entropy skips."""

_ALPACA = "### Instruction:\n{question}\n\n### Response:\n"


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


def render_prompt(tokenizer: Any, messages: Sequence[Message], shape: str = "prompt-completion") -> str:
    """Text that a model is given before it answers; the chat template where the tokenizer has one."""
    if tokenizer.chat_template:
        given = [message.as_template_input() for message in messages]
        return str(tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True))
    return "".join(text for text, _ in _plain_pieces([*messages, Message("assistant", "", True)], shape))


def tokenize(
    examples: Sequence[Example], tokenizer: Any, *, max_length: int, train_on_prompt: bool = False
) -> TokenizedData:
    """Sequences of at most `max_length` tokens. Chats and pairs are cut at the end, plain texts go on in the next."""
    data = TokenizedData()
    for example in examples:
        if example.text is not None:
            _add_text(data, example.text, tokenizer, max_length)
            continue
        assert example.messages is not None
        ids, learned = _chat(example, tokenizer)
        if train_on_prompt:
            learned = [True] * len(ids)
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


def _chat(example: Example, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and which of them the assistant says."""
    assert example.messages is not None
    if not any(message.learned for message in example.messages):
        raise InvalidInput(f"{example.where}: no message of the assistant to learn from")
    if tokenizer.chat_template:
        pieces = _template_pieces(example, tokenizer)
        special = False  # the template writes its own special tokens
    else:
        if not example.messages[-1].content:
            return [], []
        pieces = _plain_pieces(example.messages, example.shape)
        special = True
    ids, learned = _tokenize_pieces(pieces, tokenizer, special)
    if not tokenizer.chat_template and tokenizer.eos_token_id is not None:
        if ids and ids[-1] == tokenizer.eos_token_id:
            learned[-1] = True
        else:
            ids.append(tokenizer.eos_token_id)
            learned.append(True)
    return ids, learned


def _template_pieces(example: Example, tokenizer: Any) -> list[tuple[str, bool]]:
    """The rendered conversation cut where an assistant's turn begins and ends."""
    given = [message.as_template_input() for message in example.messages or ()]

    def render(count: int, prompt: bool) -> str:
        try:
            return str(tokenizer.apply_chat_template(given[:count], tokenize=False, add_generation_prompt=prompt))
        except Exception as error:  # jinja templates raise what they like about orders of roles they refuse
            reason = (str(error).splitlines() or [""])[0]
            raise InvalidInput(f"{example.where}: the chat template refuses these messages: {reason:.160}") from None

    whole = render(len(given), False)
    pieces: list[tuple[str, bool]] = []
    position = 0
    for number, message in enumerate(example.messages or ()):
        if not message.learned:
            continue
        before, after = render(number, True), render(number + 1, False)
        # Some templates rewrite earlier turns once later ones follow (dropping thoughts); those turns aren't
        # what the model would have been asked to say, so only turns that stand unchanged are learned.
        if not (whole.startswith(after) and after.startswith(before)) or len(before) < position:
            continue
        pieces.append((whole[position : len(before)], False))
        pieces.append((whole[len(before) : len(after)], True))
        position = len(after)
    if not any(is_learned for _, is_learned in pieces):
        raise InvalidInput(
            f"{example.where}: the tokenizer's chat template doesn't keep the assistant's turns recognisable; "
            "use data of the shape prompt+completion or text, or train_on_prompt"
        )
    pieces.append((whole[position:], False))
    return pieces


def _plain_pieces(messages: Sequence[Message], shape: str) -> list[tuple[str, bool]]:
    """Without a chat template: pairs stand as they are, alpaca under its headings, chats as `role: content` lines."""
    if shape == "prompt-completion" and len(messages) == 2:
        return [(messages[0].content, False), (messages[1].content, messages[1].learned)]
    if shape == "alpaca":
        question = "\n\n".join(message.content for message in messages[:-1])
        return [(_ALPACA.format(question=question), False), (messages[-1].content, messages[-1].learned)]
    pieces: list[tuple[str, bool]] = []
    for number, message in enumerate(messages):
        start = "" if number == 0 else "\n"
        if message.role == "assistant":
            pieces += [(f"{start}assistant: ", False), (message.content, message.learned)]
        else:
            pieces.append((f"{start}{message.role}: {message.content}", False))
    return pieces


def _tokenize_pieces(pieces: list[tuple[str, bool]], tokenizer: Any, special: bool) -> tuple[list[int], list[bool]]:
    """Tokenizes the joined text once, so that token borders are the tokenizer's own, and marks what is learned.

    A token that lies across a border belongs to the assistant's side: given the prompt alone, the model has to say it.
    """
    text = "".join(piece for piece, _ in pieces)
    spans = []
    position = 0
    for piece, is_learned in pieces:
        if is_learned:
            spans.append((position, position + len(piece)))
        position += len(piece)
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        learned = []
        for start, end in encoded["offset_mapping"]:
            # Byte-level tokenizers trim blanks off the offsets, so a token of blanks alone is empty, at its end.
            start = min(start, end - 1)
            learned.append(any(end > begin and start < stop for begin, stop in spans))
        return ids, learned
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    learned = [False] * len(ids)
    for begin, stop in spans:
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
