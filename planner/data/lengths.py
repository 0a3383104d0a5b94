"""Lengths of the sequences that a run trains and evaluates on, and the heaviest micro-batches they make.

The rule by which sequences share a micro-batch stands in planner.contract.microbatches: the trainer has it from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from planner.contract.choices import TrainingChoices
from planner.contract.microbatches import fullest, pack, split_validation

if TYPE_CHECKING:
    from planner.data.dataset import DatasetProfile

Batch = tuple[tuple[int, ...], ...]
"""A micro-batch: row by row, the lengths in tokens of the sequences in it."""

PACKED_EXACTLY = 20_000
"""Up to so many sequences are packed as the trainer packs them; of more, full rows are taken."""
PACKED_QUICKLY = 500
"""The same while candidates are searched, where every length asks for a packing of its own."""


class Lengths(Protocol):
    """What a prediction asks of a data set."""

    def heaviest(self, choices: TrainingChoices, *, quick: bool = False) -> list[Batch]:
        """Micro-batches of training of which one sets the peak; `quick`: where packing takes long, full rows."""

    def evaluated(self, choices: TrainingChoices) -> Batch | None:
        """The heaviest micro-batch of an evaluation; None where there is none."""

    def pair(self, choices: TrainingChoices) -> tuple[int, int] | None:
        """Tokens of the longest source and answer, as they are cut; None where they have no lengths of their own."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class DataLengths:
    """Tokens of the examples, longest first, before any cut."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    continued: bool
    """Whether what exceeds the maximal length goes on in further sequences (plain text) instead of being cut."""
    marks: int = 0
    """Special tokens that each of those has anew."""
    longest_pair: tuple[int, int] | None = None
    """Tokens of the longest source and of the longest answer, before any cut."""
    _cut: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    _packed: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)

    def heaviest(self, choices: TrainingChoices, *, quick: bool = False) -> list[Batch]:
        """Those of `choices`; two where the heaviest has equal rows, which run otherwise than the first ragged one."""
        lengths, size = self._sequences(choices.max_length), choices.batch_size
        if choices.padding == "packed":
            return [self._heaviest_packed(choices, PACKED_QUICKLY if quick else PACKED_EXACTLY)]
        top = [int(length) for length in lengths[:size]]
        found: list[Batch] = [tuple((length,) for length in top)]
        if top[0] == top[-1] and lengths[-1] < top[0] and size > 1:
            shorter = int(lengths[np.searchsorted(-lengths, -top[0], side="right")])
            found.append((*((length,) for length in top[:-1]), (shorter,)))
        return found

    def evaluated(self, choices: TrainingChoices) -> Batch | None:
        """The longest of the validation examples; evaluated one a row, or under packing in full rows."""
        if not len(self.validation):
            return None
        lengths = self._shortened(self.validation, choices.max_length)
        size = choices.eval_batch_size or choices.batch_size
        if choices.padding == "packed":
            rows = pack(lengths.tolist(), range(len(lengths)), choices.max_length)[:size]
            return tuple(tuple(int(lengths[member]) for member in row) for row in rows)
        return tuple((int(length),) for length in lengths[:size])

    def pair(self, choices: TrainingChoices) -> tuple[int, int] | None:
        """An upper end for every micro-batch: the longest source and the longest answer needn't share one."""
        if self.longest_pair is None:
            return None
        source, answer = self.longest_pair
        return min(source, choices.max_length), min(answer, choices.max_target_length or choices.max_length)

    def _sequences(self, max_length: int) -> NDArray[np.int64]:
        if max_length not in self._cut:
            self._cut[max_length] = self._shortened(self.training, max_length)
        return self._cut[max_length]

    def _shortened(self, lengths: NDArray[np.int64], max_length: int) -> NDArray[np.int64]:
        """Longest first, as they are trained on."""
        if not self.continued:
            return np.minimum(lengths, max_length)
        if max_length <= self.marks:
            return np.minimum(lengths, max_length)
        whole, rest = np.divmod(np.maximum(lengths - self.marks, 0), max_length - self.marks)
        rest = rest[rest > 0] + self.marks
        pieces = np.concatenate([np.full(int(whole.sum()), max_length), rest[rest >= 2]])
        return -np.sort(-pieces)

    def _heaviest_packed(self, choices: TrainingChoices, exactly: int) -> Batch:
        lengths, length = self._sequences(choices.max_length), choices.max_length
        if len(lengths) > exactly:
            mean = max(1, round(float(lengths.mean())))
            first = int(lengths[0])
            row = (first, *(mean for _ in range((length - first) // mean)), (length - first) % mean or mean)
            return (row,) * min(choices.batch_size, -(-int(lengths.sum()) // length))
        if length not in self._packed:
            values = lengths.tolist()
            rows = pack(values, range(len(values)), length)
            self._packed[length] = [tuple(values[member] for member in row) for row in rows]
        rows_ = self._packed[length]
        return tuple(rows_[index] for index in fullest(rows_, choices.batch_size))


@dataclass(frozen=True, slots=True)
class OneBatch:
    """The micro-batch that a run is known to have had."""

    rows: Batch

    def heaviest(self, choices: TrainingChoices, *, quick: bool = False) -> list[Batch]:
        """That one."""
        return [self.rows]

    def evaluated(self, choices: TrainingChoices) -> Batch | None:
        """None: of evaluations nothing is known."""
        return None

    def pair(self, choices: TrainingChoices) -> tuple[int, int] | None:
        """None: so is of answers."""
        return None


def lengths_of(profile: DatasetProfile, *, validation_split: float, seed: int = 42) -> DataLengths:
    """The lengths that a run on `profile` has. Where they are estimated, those of the shortest tokens: an upper end."""

    def upper(found: NDArray[np.int64]) -> NDArray[np.int64]:
        shortest = profile.bytes_per_token / profile.bytes_per_token_interval[0]
        return found if profile.exact else np.ceil(found * shortest).astype(np.int64)

    lengths = upper(profile.lengths)
    if profile.validation_lengths is None:
        kept, chosen = split_validation(profile.examples, validation_split, seed)
        training, validation = lengths[kept], lengths[chosen]
    else:
        training = lengths
        validation = upper(profile.validation_lengths) if validation_split > 0 else lengths[:0]
    return DataLengths(
        training=-np.sort(-training),
        validation=-np.sort(-validation),
        continued=profile.continued,
        marks=profile.marks,
        longest_pair=None if profile.longest_pair is None else tuple(map(int, upper(np.array(profile.longest_pair)))),  # type: ignore[arg-type]
    )


def as_batch(rows: Sequence[Sequence[int]]) -> Batch:
    """Rows as they came from a file."""
    return tuple(tuple(int(length) for length in row) for row in rows)
