"""Length profile of a data set in tokens: what `max_length` cuts off, what padding wastes, how many steps an epoch has.

Token counts are estimated from bytes, with an interval, or exact where the model's `tokenizer.json` and the light
`tokenizers` package are at hand. Lengths are arrays of shape (examples,), in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from planner.contract.data.columns import FORMATS
from planner.contract.data.counting import Counted, TokenCounter
from planner.contract.data.literals import shown
from planner.contract.data.reader import Progress, Reading, open_data
from planner.contract.data.rendering import Remarks
from planner.contract.data.tasks import check_labels
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings
from planner.contract.sentence import named
from planner.data.faults import OddExamples, Oddities
from planner.data.sizes import Sizes, sized

BYTES_PER_TOKEN = (4.0, 2.5, 5.0)
"""UTF-8 bytes per token of a sub-word vocabulary: estimate, low, high.

Estimate: OpenAI, "What are tokens and how to count them?" (help.openai.com, 2023): one token is about four characters
of English. The ends are this tool's assumption: program code and other languages make shorter tokens, prose under a
vocabulary of 100,000 and more makes longer ones. A tokenizer.json beside the model removes the guess."""

TEMPLATE_TOKENS_PER_TURN = 4
"""What a chat template puts around one message: ChatML's <|im_start|>, role, newline, <|im_end|>."""

MASKED_MARKS = 2
"""Special tokens around a masked model's text: BERT's [CLS] and [SEP]."""

BYTE_LEVEL_VOCABULARY = 512
"""A vocabulary this small can hold little more than the 256 bytes, so one byte is one token."""

GROUP_BATCHES = 50
"""Length grouping sorts within so many batches at a time (transformers' group_by_length does the same)."""

Lengths = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetProfile:
    """What a plan needs to know of a data set."""

    path: str
    format: str
    examples: int
    text_bytes: int
    """UTF-8 bytes of all texts that become tokens."""
    lengths: Lengths
    """Tokens of each example, in file order, before any cut."""
    completion_tokens: int
    """Tokens of the completions alone: those that carry loss by default."""
    bytes_per_token: float
    bytes_per_token_interval: tuple[float, float]
    exact: bool
    """Whether every length was counted by the model's own tokenizer (its chat template rendered where it can be)."""
    basis: str
    """Where the token counts come from, as a sentence."""
    validation_lengths: Lengths | None = None
    """Tokens of the examples that the data itself, or a file beside it, gives for validation; None where it gives none
    and a share of the examples is held out."""
    continued: bool = False
    """Whether what exceeds the maximal length goes on in further sequences, instead of being cut."""
    marks: int = 0
    """Special tokens that each of those has anew."""
    longest_pair: tuple[int, int] | None = None
    """Tokens of the longest source and of the longest answer, of all examples; None but for encoder-decoders."""
    said: tuple[str, ...] = ()
    """What the data holds and is not used, or is used otherwise than it stands there: a sentence each."""
    account: Mapping[str, object] = field(default_factory=dict)
    """The same as figures, JSON-ready."""
    faults: Oddities | None = None
    """What is odd about the examples."""

    @property
    def tokens(self) -> int:
        """Tokens of all examples, before any cut."""
        return int(self.lengths.sum())

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(self.lengths.max())

    @property
    def longest_upper(self) -> int:
        """Tokens of the longest example where the text makes the shortest tokens of the interval."""
        return self.upper(self.longest)

    def upper(self, length: int) -> int:
        """As many tokens as a length may be where it is estimated: those of the interval's shortest tokens."""
        return math.ceil(length * self.bytes_per_token / self.bytes_per_token_interval[0])

    def percentile(self, share: float) -> int:
        """Smallest length that holds `share` (0..1) of the examples whole."""
        return int(np.quantile(self.lengths, share, method="higher"))

    def share_truncated(self, max_length: int) -> float:
        """Share of examples longer than `max_length`."""
        return float(np.mean(self.lengths > max_length))

    def share_tokens_lost(self, max_length: int) -> float:
        """Share of all tokens that `max_length` cuts off."""
        return float(np.maximum(self.lengths - max_length, 0).sum() / max(1, self.tokens))

    def tokens_per_epoch(
        self,
        max_length: int,
        *,
        batch_size: int = 1,
        padding: str = "longest",
        group_by_length: bool = True,
        examples: int | None = None,
        seed: int = 42,
    ) -> int:
        """Tokens that pass through the model in one epoch, padding included, over `examples` of the examples.

        `packed`: rows are filled, only the last has a remainder; `max`: every row has `max_length`; `longest`: every
        batch is padded to its longest row, rows of like length together with `group_by_length`.
        """
        lengths = np.minimum(self.lengths, max_length)
        count = self.examples if examples is None else examples
        share = count / self.examples
        if padding == "packed":
            return math.ceil(int(lengths.sum()) * share / max_length) * max_length
        if padding == "max":
            return count * max_length
        order = np.random.default_rng(seed).permutation(len(lengths))
        shuffled = lengths[order]
        if group_by_length:
            window = GROUP_BATCHES * batch_size
            whole = len(shuffled) // window * window
            shuffled = np.concatenate(
                [np.sort(shuffled[:whole].reshape(-1, window), axis=1).ravel(), np.sort(shuffled[whole:])]
            )
        whole = len(shuffled) // batch_size * batch_size
        padded = int(shuffled[:whole].reshape(-1, batch_size).max(axis=1).sum()) * batch_size if whole else 0
        if whole < len(shuffled):
            padded += int(shuffled[whole:].max()) * (len(shuffled) - whole)
        return round(padded * share)

    def padding_waste(
        self, max_length: int, *, batch_size: int, padding: str = "longest", group_by_length: bool = True
    ) -> float:
        """Share of the tokens in the batches that is padding."""
        through = self.tokens_per_epoch(
            max_length, batch_size=batch_size, padding=padding, group_by_length=group_by_length
        )
        return 1 - int(np.minimum(self.lengths, max_length).sum()) / max(1, through)

    def steps_per_epoch(self, effective_batch_size: int, *, validation_split: float = 0.0) -> int:
        """Optimizer steps of one epoch over the training part."""
        return max(1, math.ceil(self.training_examples(validation_split) / effective_batch_size))

    def training_examples(self, validation_split: float) -> int:
        """Examples left for training; the validation part has at least one where a split is asked for."""
        if validation_split <= 0 or self.examples < 2 or self.validation_lengths is not None:
            return self.examples
        return self.examples - max(1, round(self.examples * validation_split))

    def histogram(self, bins: int = 16) -> list[tuple[int, int]]:
        """(upper edge in tokens, examples) of equal-width bins from 0 to the longest."""
        return self._counted(0, max(1, math.ceil(self.longest / bins)), bins)

    def spread(self, bins: int = 16) -> list[tuple[int, int, int]]:
        """(fewest, most tokens, examples) of at most so many equal bins from the shortest to the longest."""
        first = int(min(self.lengths))
        values = self.longest - first + 1
        width = math.ceil(values / bins)
        found = self._counted(first, width, math.ceil(values / width))
        return [(edge - width, edge - 1, count) for edge, count in found]

    def _counted(self, first: int, width: int, bins: int) -> list[tuple[int, int]]:
        counts, edges = np.histogram(self.lengths, bins=first + width * np.arange(bins + 1))
        # The last edge is closed in numpy, so nothing is lost at the top.
        return [(int(edge), int(count)) for edge, count in zip(edges[1:], counts, strict=True)]

    def summary(self) -> dict[str, object]:
        """JSON-ready figures."""
        low, high = self.bytes_per_token_interval
        return {
            "path": self.path,
            "format": self.format,
            "examples": self.examples,
            "text_bytes": self.text_bytes,
            "tokens": self.tokens,
            "interval_tokens": [
                int(self.tokens * self.bytes_per_token / high),
                int(self.tokens * self.bytes_per_token / low),
            ],
            "completion_tokens": self.completion_tokens,
            "longest": self.longest,
            "percentiles": {f"p{round(100 * share)}": self.percentile(share) for share in (0.5, 0.9, 0.95, 0.99)},
            "histogram": [list(entry) for entry in self.histogram()],
            "exact": self.exact,
            "basis": self.basis,
            "validation_examples": None if self.validation_lengths is None else len(self.validation_lengths),
            "account": dict(self.account),
            "faults": None if self.faults is None else self.faults.record(),
        }


def profile(
    path: str | Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    tokenizer: str | Path | None = None,
    vocab_size: int | None = None,
    max_examples: int | None = None,
    validation_path: str | None = None,
    skip_invalid: bool = False,
    task: str = "causal",
    progress: Progress | None = None,
) -> DatasetProfile:
    """Reads a data set and measures its lengths.

    `tokenizer`: a `tokenizer.json`, or a folder that may hold one (the model's); used where `tokenizers` is installed.
    `vocab_size`: the model's; a byte-level one makes counts exact without a tokenizer.
    `task`: the model's; by it the trainer makes sequences of the examples.
    `progress` is told from time to time how many examples have been read.
    Raises `InvalidInput` naming file and line for anything that cannot be read.
    """
    if task == "classification" and format == "auto":
        format = "classification"  # a model that has a head for labels learns labels, as the trainer has it
    if format == "classification":
        task = format
    if format not in FORMATS:
        raise InvalidInput(named("format"), f" {shown(format)} is unknown; choose one of {', '.join(FORMATS)}")
    settings = DataSettings(
        path=str(path),
        format=format,  # type: ignore[arg-type]
        columns=dict(columns or {}),
        max_examples=max_examples,
        validation_path=validation_path,
        skip_invalid=skip_invalid,
    )
    reading = open_data(settings, progress)
    sampled = tokenizer is not None
    faults = OddExamples()
    training = sized(faults.watched(reading.training()), task, sampled)
    if task == "classification":
        check_labels(training.labels, training.first)
    known = training.labels if task == "classification" else None
    validated = OddExamples(trained=faults.seen, asked_there=faults.questions) if reading.has_validation else None
    validation = None
    if validated is not None:
        validation = sized(validated.watched(reading.validation()), task, sampled, known)
    learned = sum(training.completion)
    found = Oddities.of(faults, validated, learned_bytes=learned, text_bytes=training.text_bytes)
    return replace(_measured(str(path), reading, training, validation, tokenizer, vocab_size), faults=found)


def _measured(
    path: str,
    reading: Reading,
    training: Sizes,
    validation: Sizes | None,
    tokenizer: str | Path | None,
    vocab_size: int | None,
) -> DatasetProfile:
    """Bytes as tokens: counted, measured on a sample, or estimated."""
    assert reading.shape is not None
    counter = TokenCounter.read(Path(tokenizer)) if tokenizer is not None else None
    counted = counter.count(training.picked, training.task) if counter is not None else None
    exact = False
    if counter is not None and counted is not None:
        # Text without a character has marks as its tokens and no bytes: of others it says nothing.
        ratio = training.picked_bytes() / max(1, sum(counted.lengths)) or BYTES_PER_TOKEN[0]
        exact = len(training.picked) == len(training)
        interval = (ratio, ratio) if exact else (ratio * 0.95, ratio * 1.05)
        basis = f"counted with {counter.name}"
        if not exact:
            sample = f"a sample of {len(training.picked):,} of the {len(training):,} examples"
            basis = f"{ratio:.2f} bytes per token, measured with {counter.name} on {sample}"
    elif vocab_size is not None and vocab_size <= BYTE_LEVEL_VOCABULARY:
        ratio, interval, exact = 1.0, (1.0, 1.0), True
        basis = f"one byte is one token in a vocabulary of {vocab_size}"
    else:
        ratio, low, high = BYTES_PER_TOKEN
        interval = (low, high)
        basis = f"estimated at {ratio:g} bytes per token ({low:g} to {high:g}); exact with the model's tokenizer.json"
    validated = counter.count(validation.picked, validation.task) if counter and validation else None
    remarks = Remarks.of(found.remarks for found in (counted, validated) if found is not None)
    share = len(training) / max(1, len(training.picked))
    return DatasetProfile(
        path=path,
        format=reading.shape,
        examples=len(training),
        text_bytes=training.text_bytes,
        lengths=_lengths(training, ratio, counted),
        completion_tokens=(
            round(counted.learned * share) if counted else int(sum(training.completion) / ratio) + len(training)
        ),
        bytes_per_token=ratio,
        bytes_per_token_interval=interval,
        exact=exact,
        basis=basis,
        continued=training.task == "masked" or reading.shape == "text",
        marks=(counter.marks if counter else MASKED_MARKS) if training.task == "masked" else 0,
        validation_lengths=None if validation is None else _lengths(validation, ratio, validated),
        said=(*reading.account.sentences(), *_remarked(remarks, training, validation)),
        account=reading.account.summary(),
        longest_pair=_longest_pair(training, validation, ratio, counted, validated),
    )


def _remarked(remarks: Remarks, training: Sizes, validation: Sizes | None) -> list[str]:
    """What the template does otherwise than the data has it. Only examples that were picked have been rendered."""
    both = [sizes for sizes in (training, validation) if sizes is not None]
    seen, count = sum(len(sizes.picked) for sizes in both), sum(map(len, both))
    where = "" if seen == count else f"In a sample of {seen:,} of the {count:,} examples: "
    return [f"{where}{sentence}" for sentence in remarks.sentences()]


def _lengths(sizes: Sizes, ratio: float, counted: Counted | None) -> Lengths:
    """Tokens of each example: counted, as a sample of them teaches, or estimated."""
    if counted is not None and len(sizes.picked) == len(sizes):
        return np.array(counted.lengths, np.int64)
    turns = np.frombuffer(sizes.turns, np.int64)
    if counted is None:
        # One more for the end-of-text token that every example is closed with.
        marks = MASKED_MARKS if sizes.task == "masked" else 1
        return np.ceil(sizes.total / ratio).astype(np.int64) + turns * TEMPLATE_TOKENS_PER_TURN + marks
    by_byte, by_turn, fixed = _fitted(sizes, counted)
    return np.maximum(1, np.rint(by_byte * sizes.total + by_turn * turns + fixed)).astype(np.int64)


def _longest_pair(
    training: Sizes, validation: Sizes | None, ratio: float, counted: Counted | None, validated: Counted | None
) -> tuple[int, int] | None:
    """Tokens of the longest source and answer: counted, or as many as the longest bytes make."""
    if training.task != "seq2seq":
        return None
    found = [0, 0]
    for sizes, known in ((training, counted), (validation, validated)):
        if sizes is None:
            continue
        whole = known is not None and len(sizes.picked) == len(sizes)
        texts = (sizes.prompt, sizes.completion)
        pair = known.longest_pair if whole and known else [math.ceil(max(of, default=0) / ratio) + 1 for of in texts]
        found = [max(*both) for both in zip(found, pair, strict=True)]
    return found[0], found[1]


def _fitted(sizes: Sizes, counted: Counted) -> tuple[float, float, float]:
    """Tokens per byte, turn and example in the sample, by least squares; by bytes alone where those are absurd."""
    known = sized(sizes.picked, sizes.task, sampled=False)
    known_bytes, tokens = known.total.astype(float), np.array(counted.lengths, float)
    table = np.stack([known_bytes, np.array(known.turns, float), np.ones(len(known))], axis=1)
    found = np.linalg.lstsq(table, tokens, rcond=None)[0]
    if (found >= 0).all():
        return float(found[0]), float(found[1]), float(found[2])
    return float(tokens.sum() / max(1.0, known_bytes.sum())), 0.0, 0.0
