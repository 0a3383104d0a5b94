"""An example as the text that is trained on, with marks of what is learned. Planner and trainer both ask here.

With a chat template the template's process renders conversations (`render_process`). Without one pairs stand as they
are, alpaca under its usual headings, chats as `role: content` lines.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.contract.data.examples import Example, Message
from planner.contract.data.render_process import renderer
from planner.contract.data.template import ChatTemplate
from planner.contract.errors import InvalidInput
from planner.contract.sentence import named, sentence
from planner.contract.units import counted

Span = tuple[int, int]

_AT_ONCE = 4096
"""Examples whose requests are made at once."""

_ALPACA = "### Instruction:\n{question}\n\n### Response:\n"

SENTENCES = {
    "thoughts": ("The chat template leaves out the thoughts of {}.", "turn of the assistant"),
    "contents": ("The chat template leaves out the text of {}.", "turn of the assistant"),
    "tools": ("The chat template leaves out the descriptions of tools of {}.", "example"),
    "unfound": (
        "Not learned, because the chat template doesn't keep them recognisable: {}",
        "turn of the assistant",
    ),
    "unmarked": ("Not learned, because the chat template marks others for learning: {}.", "turn of the assistant"),
    "endless": ("Learned without an end, because the chat template writes none there: {}.", "turn of the assistant"),
    "unused": ("Tools or thoughts are left out, because the tokenizer has no chat template: {}.", "example"),
}
"""What is not as the data has it, by kind, with what is counted; `lost ROLE` stands for messages of a role that the
template leaves out."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example as text."""

    text: str
    spans: tuple[Span, ...]
    """Stretches that are learned, in characters, in order."""
    templated: bool
    """Whether a chat template wrote it, special tokens and end included; otherwise the tokenizer adds its own special
    tokens and an end-of-text token closes it."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What is not as the data has it, by kind."""


@dataclass(slots=True)
class Remarks:
    """Sums what `Rendered.counts` says over many examples."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Where each kind was seen first."""

    def add(self, rendered: Rendered, where: str) -> None:
        """Takes in one example."""
        self.counts.update(rendered.counts)
        for kind in rendered.counts:
            self.first.setdefault(kind, where)

    @classmethod
    def of(cls, several: Iterable[Remarks]) -> Remarks:
        """The sum of several."""
        total = cls()
        for remarks in several:
            total.counts.update(remarks.counts)
            total.first = {**remarks.first, **total.first}
        return total

    def sentences(self) -> list[str]:
        """One sentence for each kind, with its count and first place."""
        return [_sentence(kind, count, self.first[kind]) for kind, count in self.counts.items()]


def _sentence(kind: str, count: int, first: str) -> str:
    role = kind[5:] if kind.startswith("lost ") else ""
    form, noun = ("The chat template leaves out {}.", "message") if role else SENTENCES[kind]
    what, _, owner = noun.partition(" ")
    things = " ".join(word for word in (counted(count, what), owner, f"of the role {role}" if role else "") if word)
    said = form.format(f"{things} (first: {first})")
    return sentence(said, "; ", named("train_on_prompt"), " learns all text.") if kind == "unfound" else said


def inside(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Of each token, by its place in the text, whether it has a character in one of the spans.

    The spans are in order and don't overlap. A token that lies across a border is learned: given the prompt alone, the
    model has to say it.
    """
    known = len(offsets)
    while known and offsets[known - 1][1] == 0:  # special tokens that were added at the end stand nowhere in the text
        known -= 1
    found = [False] * len(offsets)
    for begin, stop in spans:
        first = bisect_right(offsets, begin, 0, known, key=lambda token: token[1])
        # Byte-level tokenizers trim blanks off the offsets, so a token of blanks alone is empty, at its end.
        last = bisect_left(offsets, stop, first, known, key=lambda token: min(token[0], token[1] - 1))
        found[first:last] = [True] * (last - first)
    return found


class Rendering:
    """Renders examples with one template, or without."""

    def __init__(self, template: ChatTemplate | None) -> None:
        self.template = template

    def render(self, examples: Sequence[Example]) -> Iterator[Rendered]:
        """Each example in order. Raises `InvalidInput` naming the example that the template refuses."""
        for start in range(0, len(examples), _AT_ONCE):
            yield from self._some(examples[start : start + _AT_ONCE])

    def _some(self, examples: Sequence[Example]) -> Iterator[Rendered]:
        chats = [example for example in examples if example.text is None]
        answers: Iterator[dict[str, Any]] = iter(())
        if self.template is not None and chats:
            for example in chats:
                _require_assistant(example)
            requests = [_request(example) for example in chats]
            answers = renderer(self.template).answers(requests, [example.where for example in chats])
        for example in examples:
            if example.text is not None:
                yield Rendered(example.text, ((0, len(example.text)),), templated=False)
            elif self.template is None:
                yield plain(example)
            else:
                answer = next(answers)
                spans = tuple((begin, end) for begin, end in answer["spans"])
                yield Rendered(answer["text"], spans, templated=True, counts=answer["counts"])
        # Ended in order: what is dropped before its end takes its process along.
        next(answers, None)

    def prompt(
        self, messages: Sequence[Message], shape: str = "prompt-completion", tools: Sequence[object] = ()
    ) -> str:
        """The text that a model is given before it answers."""
        if self.template is None:
            answer = Message("assistant", "", learned=True)
            return "".join(text for text, _ in _plain_pieces([*messages, answer], shape))
        request = _request_of([message.as_template_input() for message in messages], [], tools, prompt=True)
        (answered,) = renderer(self.template).answers([request], ["prompt"])
        return str(answered["text"])


def plain(example: Example) -> Rendered:
    """An example that no template renders."""
    _require_assistant(example)
    messages = example.messages or ()
    if not messages[-1].content:
        return Rendered("", (), templated=False)
    parts, spans, position = [], [], 0
    for text, is_learned in _plain_pieces(messages, example.shape):
        if is_learned and text:
            spans.append((position, position + len(text)))
        parts.append(text)
        position += len(text)
    if any(message.extras.get("tool_calls") for message in messages):
        raise InvalidInput(
            f"{example.where}: calls tools, and the tokenizer has no chat template to show that with; take the "
            "tokenizer of a chat model, or leave the example out"
        )
    unused = bool(example.tools) or any(message.extras.get("reasoning_content") for message in messages)
    return Rendered("".join(parts), tuple(spans), templated=False, counts={"unused": 1} if unused else {})


def _plain_pieces(messages: Sequence[Message], shape: str) -> list[tuple[str, bool]]:
    if shape == "prompt-completion" and len(messages) == 2:
        return [(messages[0].content, False), (messages[1].content, messages[1].learned)]
    if shape == "alpaca" and len(messages) <= 3:
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


def _require_assistant(example: Example) -> None:
    if not any(message.role == "assistant" for message in example.messages or ()):
        raise InvalidInput(f"{example.where}: no message of the assistant to learn from")


def _request(example: Example) -> dict[str, object]:
    messages = example.messages or ()
    return _request_of(
        [message.as_template_input() for message in messages],
        [message.learned for message in messages],
        example.tools,
    )


def _request_of(
    messages: list[dict[str, Any]], learned: list[bool], tools: Sequence[object], *, prompt: bool = False
) -> dict[str, object]:
    request = {"messages": messages, "learned": learned, "tools": list(tools), "prompt": prompt}
    size = sum(len(message["content"] or "") for message in messages)
    if tools or any(len(message) > 2 for message in messages):
        size = len(json.dumps(request, default=str))
    return {**request, "size": size}
