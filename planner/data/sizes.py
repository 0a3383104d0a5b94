"""Examples reduced to bytes, so that millions of them stand in little room."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.contract.data.examples import Example
from planner.contract.data.tasks import check_label, texts

EXACT_EXAMPLES = 20_000
"""Up to so many examples every one is tokenised; beyond, a seeded sample of this size gives the ratio."""


@dataclass(slots=True)
class Sizes:
    """UTF-8 bytes of each example, by the rules of a task."""

    task: str
    prompt: array[int] = field(default_factory=lambda: array("q"))
    """Bytes of what is not learned; of an encoder-decoder's source."""
    completion: array[int] = field(default_factory=lambda: array("q"))
    turns: array[int] = field(default_factory=lambda: array("q"))
    """Messages in it; each costs a few template tokens."""
    picked: list[Example] = field(default_factory=list)
    """Every example in order, or where there are too many a seeded sample of them."""
    labels: set[str] = field(default_factory=set)
    """What a classifier learns."""
    first: str = ""
    """Where the first example stands."""

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def total(self) -> NDArray[np.int64]:
        """Bytes by which an example's sequence is long; source and target are two sequences side by side."""
        prompt, completion = np.frombuffer(self.prompt, np.int64), np.frombuffer(self.completion, np.int64)
        return np.maximum(prompt, completion) if self.task == "seq2seq" else prompt + completion

    @property
    def text_bytes(self) -> int:
        """Bytes of all texts."""
        return sum(self.prompt) + sum(self.completion)

    def picked_bytes(self) -> int:
        """Those of the examples in `picked` that count for their lengths."""
        return int(sized(self.picked, self.task, sampled=False).total.sum())


def sized(examples: Iterable[Example], task: str, sampled: bool, known: set[str] | None = None) -> Sizes:
    """Measures the examples; with `sampled` some are kept. Raises InvalidInput for one that the task can't learn, such
    as a label that is not among the `known` ones.
    """
    sizes = Sizes(task)
    pick = random.Random(42)
    for number, example in enumerate(examples):
        prompt, completion, turns = _bytes_of(example, task)
        sizes.first = sizes.first or example.where
        sizes.prompt.append(prompt)
        sizes.completion.append(completion)
        sizes.turns.append(turns)
        if task == "classification":
            sizes.labels.add(str(example.label) if known is None else check_label(example.label, known, example.where))
        if sampled:
            if number < EXACT_EXAMPLES:
                sizes.picked.append(example)
            elif (place := int(pick.random() * (number + 1))) < EXACT_EXAMPLES:
                sizes.picked[place] = example
    return sizes


def _bytes_of(example: Example, task: str) -> tuple[int, int, int]:
    """(bytes not learned, bytes learned, turns)."""
    plain = texts(example, task)
    if plain is not None:
        *before, last = plain
        return sum(map(_size, before)), _size(last), 0
    if example.messages is None:
        return 0, _size(example.text or ""), 0
    prompt = completion = 0
    for message in example.messages:
        size = _size(message.content)
        if message.extras:
            size += sum(_size(_as_text(value)) for value in message.extras.values())
        if message.learned:
            completion += size
        else:
            prompt += size
    count = len(example.messages)
    if example.tools:
        prompt += _size(_as_text(example.tools))
    return prompt, completion, 0 if count == 2 and example.shape == "prompt-completion" else count


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
