"""Tokens of examples, counted as the trainer makes them, without its libraries: the `tokenizers` package is enough.

transformers loads most tokenizers from `tokenizer.json` as they are. The class of Llama it builds anew, with blanks
treated by its own rule; that is done here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.contract import architectures
from planner.contract.data.examples import Example
from planner.contract.data.rendering import Remarks, Rendered, Rendering, inside
from planner.contract.data.tasks import texts
from planner.contract.data.template import ChatTemplate, read_config, read_template, special_tokens
from planner.contract.errors import InvalidInput
from planner.contract.shown import clause

AT_ONCE = 2**22
"""Characters that are tokenized at a time: what the tokenizer returns is a hundred times as large."""


@dataclass(slots=True)
class Counted:
    """What counting found, in example order."""

    lengths: list[int] = field(default_factory=list)
    """Tokens of each example, its closing token included, before any cut."""
    longest_pair: tuple[int, int] = (0, 0)
    """Tokens of the longest source and of the longest answer, of an encoder-decoder."""
    learned: int = 0
    """Tokens that are learned, of all examples together."""
    text_bytes: int = 0
    """UTF-8 bytes of the rendered texts."""
    remarks: Remarks = field(default_factory=Remarks)


class TokenCounter:
    """A model's tokenizer and its chat template."""

    def __init__(
        self, tokenizer: Any, eos: int | None, template: ChatTemplate | None, name: str, *, reads_end: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self.template = template
        self.name = name
        self._reads_end = reads_end
        """Whether the head of a classifier reads the closing token."""

    @classmethod
    def read(cls, place: Path) -> TokenCounter | None:
        """From a `tokenizer.json` or the folder of one; None where there is none or `tokenizers` is not installed."""
        file = place / "tokenizer.json" if place.is_dir() else place
        if not file.is_file():
            return None
        try:
            from tokenizers import Tokenizer
        except ImportError:
            return None
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises bare Exception
            raise InvalidInput(f"{file}: not a readable tokenizer ({clause(error)})") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = read_config(file.parent)
        _as_transformers(tokenizer, config, file.parent)
        eos = special_tokens(file.parent, config).get("eos_token")
        if eos is not None and tokenizer.token_to_id(eos) is None:
            tokenizer.add_special_tokens([eos])
        number = tokenizer.token_to_id(eos) if eos is not None else None
        reads_end = architectures.of(_model_type(file.parent)).reads_end
        return cls(tokenizer, number, read_template(file.parent), file.name, reads_end=reads_end)

    @property
    def marks(self) -> int:
        """Special tokens that the tokenizer puts around a text by itself."""
        return int(self._tokenizer.num_special_tokens_to_add(False))

    def count(self, examples: Sequence[Example], task: str = "causal") -> Counted:
        """Tokens of the examples. Raises `InvalidInput` for one that the task or the template refuses."""
        counted = Counted()
        if task != "causal":
            self._count_texts(examples, task, counted)
            return counted
        for batch in _batches(zip(examples, Rendering(self.template).render(examples), strict=True)):
            lengths = [0] * len(batch)
            for templated in (True, False):
                chosen = [number for number, (_, found) in enumerate(batch) if found.templated == templated]
                texts = [batch[number][1].text for number in chosen]
                encoded = self._tokenizer.encode_batch(texts, add_special_tokens=not templated)
                for number, encoding in zip(chosen, encoded, strict=True):
                    example, found = batch[number]
                    lengths[number], learned = self._of_one(example, found, encoding)
                    counted.learned += learned
            counted.lengths += lengths
            for example, found in batch:
                counted.text_bytes += len(found.text.encode("utf-8", "replace"))
                counted.remarks.add(found, example.where)
        return counted

    def _count_texts(self, examples: Sequence[Example], task: str, counted: Counted) -> None:
        """Each text by itself, with the tokenizer's own special tokens; source and target stand side by side."""
        least = self.marks if task == "masked" else 0
        for start in range(0, len(examples), 1024):
            plain = [found for example in examples[start : start + 1024] if (found := texts(example, task)) is not None]
            width = len(plain[0])
            encoded = self._tokenizer.encode_batch([text for found in plain for text in found])
            for number, found in enumerate(plain):
                sizes = [len(each) for each in encoded[number * width : (number + 1) * width]]
                last = encoded[(number + 1) * width - 1]
                if task == "classification" and self._reads_end and last.ids[-1:] != [self._eos]:
                    sizes[-1] += 1
                # What has nothing to learn is left out.
                counts = bool(found[-1]) if task == "seq2seq" else task != "masked" or bool(found[0])
                counts = counts and sizes[0] > least
                counted.lengths.append(max(sizes) if counts else 0)
                if counts and task == "seq2seq":
                    longest = zip(counted.longest_pair, sizes, strict=True)
                    counted.longest_pair = tuple(map(max, longest))  # type: ignore[assignment]
                counted.learned += sizes[-1] if counts else 0
                counted.text_bytes += sum(len(text.encode("utf-8", "replace")) for text in found)

    def _of_one(self, example: Example, found: Rendered, encoding: Any) -> tuple[int, int]:
        """(tokens, learned tokens) of one example; of a conversation without an answer none."""
        if not found.text and example.text is None:
            return 0, 0
        length = len(encoding)
        closing = 0
        ended = found.templated or example.shape == "classification"  # those are closed by the template or not at all
        if not ended and self._eos is not None and (not length or encoding.ids[-1] != self._eos):
            closing = 1
        if example.text is not None:
            return length + closing, max(0, length + closing - 1)
        marks = inside(encoding.offsets, found.spans)
        if not found.templated and self._eos is not None:
            closed = bool(found.spans) and found.spans[-1][1] == len(found.text)
            marks = [*marks, closed] if closing else [*marks[:-1], closed]
        return length + closing, sum(marks[1:])  # the first position is predicted from nothing


def _as_transformers(tokenizer: Any, config: dict[str, object], folder: Path) -> None:
    """What transformers changes of a tokenizer.json: tokens that only the config adds, and the class of Llama."""
    from tokenizers import AddedToken, pre_tokenizers

    added = config.get("added_tokens_decoder")
    for entry in added.values() if isinstance(added, dict) else ():
        content = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(content, str) and tokenizer.token_to_id(content) is None:
            names = ("single_word", "lstrip", "rstrip", "normalized", "special")
            flags = {name: bool(entry[name]) for name in names if name in entry}
            tokenizer.add_tokens([AddedToken(content, **flags)])
    if str(config.get("tokenizer_class", "")).removesuffix("Fast") != "LlamaTokenizer":
        return
    if "ByteLevel" in str(tokenizer.pre_tokenizer) or not _builds_its_own(folder):
        return
    if config.get("add_prefix_space") is False:
        scheme = "never"
    else:
        scheme = "always" if config.get("legacy", False) else "first"
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme, split=False)


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def _builds_its_own(folder: Path) -> bool:
    """Whether a `LlamaTokenizer` is built by the class, not from the file; so too where no config says otherwise."""
    return not architectures.of(_model_type(folder)).tokenizer_from_file


def _batches(rendered: Iterable[tuple[Example, Rendered]]) -> Iterator[list[tuple[Example, Rendered]]]:
    batch: list[tuple[Example, Rendered]] = []
    size = 0
    for example, found in rendered:
        batch.append((example, found))
        size += len(found.text)
        if size >= AT_ONCE or len(batch) >= 1024:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
